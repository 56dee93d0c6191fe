"""Answers in a shape that the caller gave: JSON of a schema, a pattern, a choice, a grammar, forced tool calls.

*Ring*: one door into each. front: `StructuredOutputsParams` -> a checked format in `EngineCoreRequest.parts`;
core: format -> automaton -> `TokenMasks` between `execute_model` and `sample_tokens`; worker: masks -> logits.
*Knows nothing about*: HTTP, how logits are made, who asked.

    formats.py     what can be asked for, as a tree of structs: the language between front and core
    front.py       door: the request stage that checks and attaches it
    checking.py    a grammar is first read in a process of its own, which may crash or hang
    tools.py       formats of forced tool calls and of answers after a thought
    core.py        door: the limiter and mask source of the engine core
    compiler.py    formats -> grammars on threads of their own, with a bounded memory of them
    backend.py     SEAM: what is asked of a grammar library
    guidance.py    llguidance behind it
    lark.py        a format in llguidance's notation
    vocabulary.py  the model's tokens as bytes
    worker.py      door: masks on the device
"""
