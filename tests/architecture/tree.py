"""The package's sources, parsed once."""

import ast
import copy
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "kvasir"


@cache
def sources() -> dict[str, ast.Module]:
    """Path below the repository -> syntax tree."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"), str(path))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def imported_modules(tree: ast.AST) -> set[tuple[int, str]]:
    """Line and full name of every absolute import, at any depth: lazy ones count."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(node.lineno, alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {(node.lineno, f"{node.module}.{alias.name}") for alias in node.names}
            found.add((node.lineno, node.module))
    return found


class _DropFunctions(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return ast.copy_location(ast.Pass(), node)

    visit_AsyncFunctionDef = visit_FunctionDef


def without_functions(tree: ast.Module) -> ast.Module:
    """What runs when the module is imported."""
    return _DropFunctions().visit(copy.deepcopy(tree))
