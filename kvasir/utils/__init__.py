"""Small tools that any room may use: facts about the machine, framing of bytes.

*Ring*: all; standard library only. Values -> values.

*Knows nothing about* models, requests or configuration.
"""
