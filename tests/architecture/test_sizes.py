"""Bounds on the maximum, since averages never warn: lines of a file, lines of a function, methods of a seam."""

import ast

from tests.architecture.tree import ROOT, sources

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_KERNEL_LINES = 200
"""A kernel is one loop nest; splitting it costs registers, not only readers."""
MAX_SEAM_METHODS = 5
WIDER_SEAMS = {"Tokenizer": 8}
"""The face of a library, where no feature hangs itself on."""


def test_files():
    long = {path: n for path in sources() if (n := len((ROOT / path).read_text().splitlines())) > MAX_FILE_LINES}
    assert not long, f"more than {MAX_FILE_LINES} lines: {long}"


def test_functions():
    long = {}
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                bound = MAX_KERNEL_LINES if _is_kernel(node) else MAX_FUNCTION_LINES
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > bound:
                    long[f"{path}:{node.lineno} {node.name}"] = length
    assert not long, f"more than {MAX_FUNCTION_LINES} lines (a kernel: {MAX_KERNEL_LINES}): {long}"


def test_seams_are_small():
    large = {}
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(_is_protocol(base) for base in node.bases):
                methods = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
                methods = [m for m in methods if not any(_base(d) == "property" for d in m.decorator_list)]
                if len(methods) > WIDER_SEAMS.get(node.name, MAX_SEAM_METHODS):
                    large[f"{path}:{node.lineno} {node.name}"] = len(methods)
    assert not large, f"a seam has at most {MAX_SEAM_METHODS} methods: {large}"


def test_packages_say_what_they_are():
    """Docstring of every top-level package: what it does, its ring, what it knows nothing about."""
    for path, tree in sources().items():
        if path.count("/") == 2 and path.endswith("/__init__.py"):
            text = ast.get_docstring(tree) or ""
            assert text, f"{path} has no docstring"
            if path != "kvasir/assets/__init__.py":
                words = text.replace("*", "").lower()
                assert "ring" in words and "knows nothing about" in words, f"{path}: ring, or what it does not know"


def test_every_folder_is_a_package():
    """A folder without `__init__.py` is left out of the wheel, and of the check of the ranks."""
    folders = {path.rpartition("/")[0] for path in sources()}
    missing = {folder for folder in folders if f"{folder}/__init__.py" not in sources()}
    assert not missing


def _is_protocol(base: ast.expr) -> bool:
    owner = getattr(getattr(base, "value", None), "id", "typing")
    return _base(base) == "Protocol" and owner == "typing"  # asyncio.Protocol is another thing


def _is_kernel(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(_base(decorator).startswith("jit") for decorator in node.decorator_list)


def _base(node: ast.expr) -> str:
    """`Protocol` of `Protocol[T]`, `jit` of `triton.jit(...)`."""
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Subscript):
        node = node.value
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
