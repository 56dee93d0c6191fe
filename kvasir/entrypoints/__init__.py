"""What people touch: the `LLM` class, the command line, the HTTP server.

Ring: front; imports no torch. Knows nothing about: how a step runs.
"""
