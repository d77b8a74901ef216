"""Docstrings read from the source, since `python -OO` strips them and importing a network loads torch."""

from __future__ import annotations

import ast
import re
from importlib import resources


def read(module: str, name: str | None = None) -> str:
    """The docstring of a module of this package, or of its function or class `name`; empty if there is none.

    Example:
        >>> read("adabatch.lab.models.mlp", "mlp").partition(".")[0]
        'A perceptron with one hidden layer of 128'
    """
    tree = _tree(module)
    nodes = [tree] if name is None else [node for node in tree.body if getattr(node, "name", None) == name]
    found = [node for node in nodes if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]
    return (ast.get_docstring(found[0]) or "") if found else ""


def first_lines(package: str) -> dict[str, str]:
    """The first docstring lines of a package's functions: of the names in `__all__` that are in lower case.

    Example:
        >>> first_lines("adabatch.couplings")["none"]
        "No coupling: the LR stays as the user's scheduler has it, for any optimizer."
    """
    homes: dict[str, str] = {}
    offered: list[str] = []
    for node in _tree(package).body:
        if isinstance(node, ast.ImportFrom) and re.match(rf"{package}\.[a-z]", node.module or ""):  # no private file
            homes |= {alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            offered = ast.literal_eval(node.value)
    return {name: read(homes[name], name).partition("\n")[0] for name in offered if name.islower() and name in homes}


def _tree(module: str) -> ast.Module:
    """The syntax tree of a module; empty if only compiled files are installed."""
    root, parts = resources.files("adabatch"), module.split(".")[1:]
    file = root.joinpath(*parts, "__init__.py")
    if not file.is_file():
        file = root.joinpath(*parts[:-1], f"{parts[-1]}.py")
    return ast.parse(file.read_text(encoding="utf-8") if file.is_file() else "")
