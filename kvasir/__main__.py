"""`python -m kvasir` is the command `kvasir`."""

from kvasir.entrypoints.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
