"""The engine: from a checked request to its outputs, over a core in this process or in another.

*Ring*: front and core; imports no torch.

Core: `EngineCoreRequest` -> `EngineCore.step` (schedule, execute, sample, update) -> `EngineCoreOutput`.
Front: prompt -> `InputProcessor` -> request; output -> `OutputProcessor` (text, stop strings) -> `RequestOutput`.

*Knows nothing about* HTTP, devices or tensors, or how the configuration came about.
"""
