"""What the site adds to the pages in `docs`: those in the root, the files they link to, examples and the reference.

Pages are written for those who read them in the repository. Here their links are turned towards the site's copies, and
their Markdown is brought into the form that Python's Markdown reads as it was meant.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT: Final = Path(__file__).parents[1]
BESIDE: Final = {
    "README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md", "RELEASING.md": "releasing.md",
}  # fmt: skip
"""Pages in the root of the repository, and their names on the site."""
ROOMS: Final = (
    "scheduler", "data", "accumulate", "schedules", "schedules.lr", "couplings", "policies", "units", "lr_clock",
    "memory", "noise", "norm", "optim", "types",
)  # fmt: skip
"""Modules and packages with pages of their own; `adabatch` itself comes first, frameworks after them."""
_LINK: Final = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_COMMENT: Final = re.compile(r"<!--.*?-->")
_ITEM: Final = re.compile(r"^( {2,7})([-*]|\d+\.) ")


def on_config(config: Any) -> Any:
    """Names the pages that `nav` leaves out, and those of the reference."""
    sections = {title: item for entry in config.nav for title, item in entry.items()}
    named = {page for item in sections.values() for page in (item if isinstance(item, list) else [item])}
    here = Path(config.docs_dir)
    sections["How to"] += sorted(path.name for path in here.glob("*.md") if path.name not in named)
    sections["How to"] += ["examples.md"] if examples() else []
    sections["Reference"] += [{title: f"reference/{name}.md"} for title, name, _ in references()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages in the root, the result files and the reference."""
    from mkdocs.structure.files import File

    for source, uri in BESIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / source).read_text(encoding="utf-8")))
    found = linked()
    for folder in filter(lambda path: (ROOT / path).is_dir(), sorted(found)):
        inside = sorted(path.name for path in (ROOT / folder).iterdir() if path.is_file())
        files.append(File.generated(config, f"{folder}/index.md", content=_listed(folder, inside)))
        found = (found - {folder}) | {f"{folder}/{name}" for name in inside}
    for path in sorted(found):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    if text := examples():
        files.append(File.generated(config, "examples.md", content=text))
    for _, name, text in references():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def linked() -> set[str]:
    """The files and folders of the repository outside `docs` that pages link to, other than pages and examples."""
    found = set()
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / source for source in BESIDE)]:
        for link in _LINK.finditer(page.read_text(encoding="utf-8")):
            path = posixpath.normpath(posixpath.join(page.parent.relative_to(ROOT).as_posix(), link[2]))
            outside = path.partition("/")[0] not in ("docs", "examples", "..", ".") and path not in BESIDE
            if outside and not re.match(r"[a-z]+:", link[2]) and (ROOT / path).exists():
                found.add(path)
    return found


def _listed(folder: str, names: list[str]) -> str:
    return "\n".join([f"# {folder}\n", *(f"- [{name}]({name})" for name in names)]) + "\n"


def examples() -> str:
    """A page with the code of each example; empty if there are none."""
    files = sorted((ROOT / "examples").glob("*.py"))
    parts = [f"## {file.name}\n\n```python\n{file.read_text(encoding='utf-8').rstrip()}\n```\n" for file in files]
    return "\n".join(["# Examples\n\nEach runs as it stands.\n", *parts]) if parts else ""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A page as Python's Markdown reads it, with links to the site's pages."""
    uri = page.file.src_uri
    if uri.startswith("benchmarks/") or uri == "examples.md":  # written here, with the site's links
        return markdown
    source = next((path for path, name in BESIDE.items() if name == uri), f"docs/{uri}")
    return "\n".join(_lines(markdown, source, uri))


def _lines(markdown: str, source: str, uri: str) -> Iterator[str]:
    """The lines of a page without comments: nested items are indented by four, lists and tables begin a paragraph."""
    fence, before, inside = "", "", False
    for line in markdown.split("\n"):
        mark = re.match(r"\s*(```+|~~~+)", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence:
            line = _COMMENT.sub("", line)
            line = _LINK.sub(lambda found: f"{found[1]}{target(found[2], source, uri)}{found[3] or ''}{found[4]}", line)
            if item := _ITEM.match(line):
                line = " " * (4 if len(item[1]) < 5 else 8) + line.lstrip()
            begins = re.match(r"\s*([-*]|\d+\.) |\|", line) is not None
            if before and line and begins and not inside:
                yield ""
            inside = bool(line.strip()) and (inside or begins)
        yield line
        before = line


def target(link: str, source: str, uri: str) -> str:
    """The link on the page `uri` that leads where `link` leads in the repository's file `source`."""
    if re.match(r"[a-z]+:", link):
        return link
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    found = BESIDE.get(path, path.removeprefix("docs/"))
    if path.partition("/")[0] == "examples":
        found = "examples.md"
    elif not path.startswith("docs") and (ROOT / path).is_dir():
        found = f"{path}/index.md"
    return posixpath.relpath(found, posixpath.dirname(uri) or ".")


def references() -> Iterator[tuple[str, str, str]]:
    """Title, name and text of each page of the reference."""
    yield "adabatch", "adabatch", _face()
    for room in ROOMS:
        yield f"adabatch.{room}", room, _room(f"adabatch.{room}")
    for file in sorted((ROOT / "src" / "adabatch" / "integrations").glob("[a-z]*.py")):
        name = f"integrations.{file.stem}"
        yield name, name, _framework(f"adabatch.{name}", file)
    yield "The command", "command", _command()


def _face() -> str:
    """The page of `adabatch`: a line for each name."""
    ab = importlib.import_module("adabatch")
    text = f"# adabatch\n\n{inspect.getdoc(ab)}\n\nAfter `import adabatch as ab`:\n\n| name | |\n| --- | --- |\n"
    for name in ab.__all__:
        thing = getattr(ab, name)
        link = f"({name}.md)" if inspect.ismodule(thing) else f"[{_path(thing)}]"
        text += f"| [`ab.{name}`]{link} | {_cell((inspect.getdoc(thing) or '').partition(chr(10))[0])} |\n"
    return text


def _room(name: str) -> str:
    """The page of a module or package: the names that it offers, and those of the face that are written there."""
    module, ab = importlib.import_module(name), importlib.import_module("adabatch")
    things = {each: getattr(module, each) for each in getattr(module, "__all__", _own(module))}
    of_the_face = {each: getattr(ab, each) for each in ab.__all__}
    things |= {each: thing for each, thing in of_the_face.items() if _path(thing).startswith(f"{name}.")}
    text = f"# {name}\n\n{inspect.getdoc(module)}\n"
    for each, thing in things.items():
        if not inspect.ismodule(thing):
            path = _path(thing) if hasattr(thing, "__qualname__") else f"{name}.{each}"
            shown = f"{'ab.' if each in of_the_face else ''}{each}"
            text += f"\n::: {path}\n    options:\n      heading: {shown}\n      toc_label: {shown}\n"
    return text


def _framework(name: str, file: Path) -> str:
    """The page of a framework's module, which is read without importing: the framework need not be there."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    text = f"# {name}\n\n{ast.get_docstring(tree) or ''}\n"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            text += (
                f"\n::: {name}.{node.name}\n    options:\n      heading: {node.name}\n      toc_label: {node.name}\n"
            )
    return text


def _own(module: Any) -> list[str]:
    """The public names that a module without `__all__` defines."""
    return [name for name, thing in vars(module).items()
            if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__]  # fmt: skip


def _path(thing: Any) -> str:
    """Where a class or function is written; empty for other things."""
    return f"{thing.__module__}.{thing.__qualname__}" if hasattr(thing, "__qualname__") else ""


def _command() -> str:
    """The page of the command: the help of each."""
    typer = importlib.import_module("typer")
    cli = importlib.import_module("adabatch.lab.cli")
    commands = typer.main.get_command(cli.app()).commands
    text = "# The command\n\n`adabatch COMMAND --help` prints the same.\n"
    for name in cli.COMMANDS:
        text += f"\n## adabatch {name}\n\n{inspect.cleandoc(commands[name].help)}\n"
        text += "\n| option | | group |\n| --- | --- | --- |\n"
        for option in commands[name].params:
            words = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts) if word.startswith("-"))
            words = words or f"`{option.metavar or option.name.upper()}`"
            group = getattr(option, "rich_help_panel", None) or ""
            told = " ".join((option.help or "").split())
            text += f"| {words} | {_cell(told)} | {group} |\n"
    return text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
