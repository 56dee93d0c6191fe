"""The `kvasir` command: one module per subcommand, imported only when it is called.

Ring: front. Input -> output: words of a command line -> an exit code.

Knows nothing about: torch; how options are declared (kvasir.config) or resolved (kvasir.assembly).
"""
