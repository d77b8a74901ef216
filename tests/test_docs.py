"""Every Python block in README and docs runs, in order, one namespace a page; shell blocks name real commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str, str]]:
    text = page.read_text()
    return [
        (text[: match.start()].count("\n") + 2, match[2].strip(), match[3])
        for match in BLOCK.finditer(text)
        if match[1] == language
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(page, "python")
    if not found:
        return
    space: dict[str, object] = {"__name__": f"docs_{page.stem}"}
    for line, _, code in found:
        exec(compile("\n" * (line - 1) + code, str(page), "exec"), space)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_shell_blocks_parse(page: Path) -> None:
    """Each `adabatch ...` line names a command and options that exist."""
    typer = pytest.importorskip("typer")
    from adabatch.lab.cli import app

    commands = typer.main.get_command(app()).commands
    for line, _, code in blocks(page, "sh"):
        for text in code.replace("\\\n", " ").splitlines():
            words = shlex.split(text, comments=True)
            if not words or words[0] != "adabatch" or len(words) < 2 or words[1].startswith("-"):
                continue
            where = f"{page.name}:{line}: {text}"
            assert words[1] in commands, where
            known = {option for param in commands[words[1]].params for option in (*param.opts, *param.secondary_opts)}
            used = {word.split("=")[0] for word in words[2:] if word.startswith("--")} - {"--help"}
            assert used <= known, f"{where}: {sorted(used - known)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
