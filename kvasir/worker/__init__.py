"""The worker: one device, its memory, and the hot path.

Ring: worker. SchedulerOutput -> ModelRunnerOutput.
Knows nothing about: HTTP, text, why a request was scheduled.

    worker.py   device, load, memory, KV cache, warm-up, named calls
    runner.py   ModelRunner: execute_model and sample_tokens
    states.py   one row per slot on the device: last token, computed tokens, block table
    inputs.py   plan + states -> ids, positions, slots, lengths
    outputs.py  sampled tensors -> ModelRunnerOutput, without waiting on the step's path
    memory.py   how many KV blocks fit, as a table with advice
    warmup.py   synthetic plans that go through the same step
"""
