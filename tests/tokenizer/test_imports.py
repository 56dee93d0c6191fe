"""The tokenizer starts fast: neither torch nor transformers is behind it."""

import subprocess
import sys


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from kvasir.tokenizer import get_tokenizer; import kvasir.engine.output, kvasir.engine.input\n"
        "heavy = {'torch', 'transformers', 'numpy', 'starlette'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
