"""`kvasir` over poisoned cores: `python -m tests.faults.poisoned_server serve ...`."""

import sys

from kvasir.assembly import front
from kvasir.entrypoints.cli.main import main

if __name__ == "__main__":
    front.CORE_MODULE = "tests.faults.poisoned_core"
    sys.exit(main())
