"""The site's pages: their names, their links, and the Markdown that Python's Markdown reads as it was meant."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from tests.test_docs import ROOT


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"website_{name}", ROOT / "website" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks = load("hooks")


def text(markdown: str, source: str = "docs/page.md") -> str:
    return "\n".join(hooks._lines(markdown, source, hooks.BESIDE.get(source, source.removeprefix("docs/"))))


def test_the_menu_names_pages_that_are_there():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = [page for entry in nav for item in entry.values() for page in (item if isinstance(item, list) else [item])]
    there = {path.name for path in (ROOT / "docs").glob("*.md")} | set(hooks.BESIDE.values())
    assert set(named) <= there, f"mkdocs.yml names pages that are not there: {sorted(set(named) - there)}"
    assert len(set(named)) == len(named)
    assert all((ROOT / source).is_file() for source in hooks.BESIDE)


def test_pages_that_the_menu_does_not_name_come_under_how_to(tmp_path, monkeypatch):
    for name in ("tutorial.md", "frameworks.md", "gpu.md"):
        (tmp_path / name).touch()
    monkeypatch.setattr(hooks, "references", lambda: iter([("adabatch", "adabatch", "")]))
    monkeypatch.setattr(hooks, "examples", lambda: "")
    nav = [{"Start": "index.md"}, {"Tutorial": "tutorial.md"}, {"How to": []}, {"Reference": []}]
    config = hooks.on_config(SimpleNamespace(nav=nav, docs_dir=str(tmp_path)))
    assert config.nav[2:] == [
        {"How to": ["frameworks.md", "gpu.md"]}, {"Reference": [{"adabatch": "reference/adabatch.md"}]}
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("link", "source", "uri", "wanted"),
    [
        ("docs/tutorial.md", "README.md", "index.md", "tutorial.md"),
        ("docs/img/demo.png", "README.md", "index.md", "img/demo.png"),
        ("benchmarks/results/demo.json", "README.md", "index.md", "benchmarks/results/demo.json"),
        ("CONTRIBUTING.md", "README.md", "index.md", "contributing.md"),
        ("../README.md", "docs/tutorial.md", "tutorial.md", "index.md"),
        ("../benchmarks/results/demo.json", "docs/plan.md", "plan.md", "benchmarks/results/demo.json"),
        ("design.md", "docs/plan.md", "plan.md", "design.md"),
        ("docs/design.md", "CONTRIBUTING.md", "contributing.md", "design.md"),
        ("https://example.org/a.md", "README.md", "index.md", "https://example.org/a.md"),
        ("plan.md", "docs/deeper/page.md", "deeper/page.md", "plan.md"),
        ("../examples", "docs/frameworks.md", "frameworks.md", "examples.md"),
        ("../benchmarks/results", "docs/gpu.md", "gpu.md", "benchmarks/results/index.md"),
        ("../examples/trainer.py", "docs/frameworks.md", "frameworks.md", "examples.md"),
    ],
)
def test_links_lead_to_the_site_s_copies(link, source, uri, wanted):
    assert hooks.target(link, source, uri) == wanted


def test_what_pages_link_to_is_on_the_site(tmp_path, monkeypatch):
    (tmp_path / "docs").mkdir()
    for name in hooks.BESIDE:
        (tmp_path / name).write_text("[a](docs/page.md) [b](https://example.org/x.json) [c](LICENSE) [d](none.json)")
    (tmp_path / "LICENSE").touch()
    (tmp_path / "data.json").touch()
    (tmp_path / "docs" / "page.md").write_text("[a](../data.json#x) [b](../examples/one.py) [c](../README.md)")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    assert hooks.linked() == {"LICENSE", "data.json"}
    assert hooks.examples() == ""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "one.py").write_text("print(1)\n")
    assert hooks.examples() == "# Examples\n\nEach runs as it stands.\n\n## one.py\n\n```python\nprint(1)\n```\n"


def test_a_framework_s_page_needs_no_framework(tmp_path):
    file = tmp_path / "one.py"
    file.write_text('"""One."""\nimport no_such_framework\ndef grow(): ...\nclass Growth: ...\ndef _own(): ...\n')
    page = hooks._framework("adabatch.integrations.one", file)
    assert page.startswith("# adabatch.integrations.one\n\nOne.\n")
    assert re.findall(r"^::: (.*)$", page, re.MULTILINE) == [
        "adabatch.integrations.one.grow", "adabatch.integrations.one.Growth"
    ]  # fmt: skip


def test_links_keep_their_anchors_and_code_stays():
    assert text("[a](docs/from-lr.md#epochs) [b](#here)\n```\n[c](docs/x.md)\n```", "README.md") == (
        "[a](from-lr.md#epochs) [b](#here)\n```\n[c](docs/x.md)\n```"
    )


def test_lists_and_tables_begin_a_paragraph_and_nested_items_are_indented_by_four():
    assert text("text\n- one\n  more\n- two\n  - inner\n4. four\n   - inner") == (
        "text\n\n- one\n  more\n- two\n    - inner\n4. four\n    - inner"
    )
    assert text("before\n<!-- mark -->\n| a |\n| - |\n<!-- end -->\nafter") == "before\n\n| a |\n| - |\n\nafter"


def test_comments_are_left_out_and_cut_no_sentence():
    assert text("What ran:\n<!-- mark -->nothing\nyet.<!-- end -->") == "What ran:\nnothing\nyet."
    assert text("```\n<!-- code -->\n```") == "```\n<!-- code -->\n```"


def test_the_reference_has_every_public_name():
    import adabatch as ab

    pages = {name: content for _, name, content in hooks.references()}
    written = "".join(pages.values())
    for name in ab.__all__:
        thing = getattr(ab, name)
        assert f"| [`ab.{name}`]" in pages["adabatch"]
        if not inspect.ismodule(thing):
            assert written.count(f"\n::: {thing.__module__}.{thing.__qualname__}\n") == 1, name
    for room in hooks.ROOMS:
        for name in getattr(importlib.import_module(f"adabatch.{room}"), "__all__", []):
            assert re.search(rf"heading: (ab\.)?{name}\n", pages[room]), f"{room}: {name}"
    for command in ("train", "plan", "study"):
        assert f"\n## adabatch {command}\n" in pages["command"]
    assert "`--emit`" in pages["command"]
