"""Several models behind one port: loaded when they are asked for, unloaded when others need the room.

Ring: front. Input -> output: an HTTP request -> the app of the model that it names, once that model is loaded. Each
model has an `AsyncLLM` of its own, and so a core process of its own: one that dies takes no other with it.

Knows nothing about: tokens, prompts, how an engine works.
"""
