"""Goal: the habits of the style guide hold in Python too.
Method: parse every source; what is public has a docstring, no function is longer than 70 lines, imports point down.
"""

import ast

import pytest
from conftest import PYTHON

SOURCES = sorted(path for name in ("hbmesh", "yr", "datasystem") for path in (PYTHON / name).rglob("*.py"))
FUNCTION_LINES_MAX = 70


def functions_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PYTHON)))
def test_a_source_begins_with_its_purpose(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path


def test_no_function_is_long():
    paths = SOURCES + sorted((PYTHON / "tests").glob("*.py"))
    long = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in paths
        for node in functions_of(path)
        if node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_imports_point_down():
    """_native and below know nothing of who uses them; the interface of other systems and the connectors are above."""
    rules = {"hbmesh": ("yr", "datasystem", "hbmesh.integrations"), "yr": ("datasystem", "hbmesh.integrations")}
    wrong = []
    for path in SOURCES:
        top = path.relative_to(PYTHON).parts[0]
        if "integrations" in path.parts or top == "datasystem":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            wrong += [f"{path.name}: {name}" for name in names if name.startswith(rules[top])]
    assert wrong == []


def test_what_hbmesh_exports_is_documented():
    import hbmesh

    missing = []
    for name in hbmesh.__all__:
        exported = getattr(hbmesh, name)
        if not exported.__doc__:
            missing.append(name)
        for method, value in vars(exported).items() if isinstance(exported, type) else ():
            is_own = callable(value) and not method.startswith("_")
            # The asyncio client's calls are documented where the blocking ones are.
            if is_own and not value.__doc__ and not name.startswith(("Async", "SimBuffer")):
                missing.append(f"{name}.{method}")
    assert missing == []
