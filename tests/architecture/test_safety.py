"""No data can become code: no pickle, no eval, no code from model folders."""

import ast

from tests.architecture.tree import imported_modules, sources

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_METHODS = {
    ("torch", "load"): "weights come from safetensors only",
    ("np", "load"): "it unpickles",
    ("numpy", "load"): "it unpickles",
    ("yaml", "load"): "use safe_load",
    ("os", "system"): "a command line through a shell",
    ("os", "popen"): "a command line through a shell",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


def test_no_module_that_runs_data():
    found = [
        f"{path}:{line} {module}"
        for path, tree in sources().items()
        for line, module in imported_modules(tree)
        if module.split(".")[0] in FORBIDDEN_MODULES
    ]
    assert not found


def test_no_call_that_runs_data():
    found = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name) and node.func.id in FORBIDDEN_CALLS:
                    found.append(f"{path}:{node.lineno} {node.func.id}")
                name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
                owner = getattr(getattr(node.func, "value", None), "id", "")
                if (owner, name) in FORBIDDEN_METHODS:
                    found.append(f"{path}:{node.lineno} {owner}.{name}: {FORBIDDEN_METHODS[owner, name]}")
                if any(k.arg == "shell" and getattr(k.value, "value", None) is True for k in node.keywords):
                    found.append(f"{path}:{node.lineno} a command line through a shell")
    assert not found


def test_nothing_unfinished():
    """A feature that is not there is refused with an error of kvasir.errors, not with a hole."""
    found = [
        f"{path}:{node.lineno}"
        for path, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id in ("NotImplementedError", "NotImplemented")
    ]
    assert not found
