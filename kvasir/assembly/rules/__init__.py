"""Rules: what `auto` means. Each is a pure function of the options, the facts and the model's shape; it returns the
value and the reason, and asks nothing of the machine. One topic per file.
"""
