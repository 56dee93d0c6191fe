"""`kvasir serve` over the stub core: `python -m benchmarks.frontend.server FLAGS`."""

import sys

from kvasir.assembly import front
from kvasir.entrypoints.cli import serve

if __name__ == "__main__":
    front.CORE_MODULE = "benchmarks.frontend.core"
    sys.exit(serve.run(sys.argv[1:]))
