"""Environment variables: few, in one table, read nowhere else."""

import ast

from kvasir import envs
from tests.architecture.tree import sources

MAX_VARIABLES = 20
READERS = {"kvasir/envs.py", "kvasir/entrypoints/cli/env.py"}
"""The table, and the command that shows a bug reporter what is set."""


def test_few():
    assert 0 < len(envs.ALL) <= MAX_VARIABLES
    assert len({v.name for v in envs.ALL}) == len(envs.ALL)
    assert all(v.help.endswith(".") for v in envs.ALL)


def test_read_in_one_place():
    """Handing the whole environment to a child is not reading it, so `os.environ.copy()` and `dict(...)` pass."""
    readers = []
    for path, tree in sources().items():
        if path in READERS:
            continue
        allowed = {id(part) for node in ast.walk(tree) if _copies(node) for part in ast.walk(node)}
        for node in ast.walk(tree):
            name = node.attr if isinstance(node, ast.Attribute) else ""
            if name in ("environ", "getenv", "environb") and id(node) not in allowed:
                readers.append(f"{path}:{node.lineno}")
    assert not readers, f"environment read outside {sorted(READERS)}: {readers}"


def _copies(node: ast.AST) -> bool:
    """`{**os.environ, ...}`, `dict(os.environ)`, `os.environ | {...}`, `os.environ.copy()`: the whole, for a child."""
    if isinstance(node, ast.Dict):
        return any(key is None for key in node.keys)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return True
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "copy"
