"""The check of the built site notices dead links, dead anchors and what comes from other hosts."""

from __future__ import annotations

import pytest
from tests.website.test_hooks import load

check = load("check")
PAGE = '<html><head>{head}</head><body><h1 id="top">x</h1><a href="{link}">y</a>{more}</body></html>'


def site(folder, *, link="#top", head="", more=""):
    (folder / "index.html").write_text(PAGE.format(head=head, link=link, more=more))
    (folder / "other.html").write_text(PAGE.format(head="", link="index.html#top", more=""))
    (folder / "data.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    "link", ["#top", "other.html", "other.html#top", "./other.html", "data.json", "https://example.org/x", "."]
)
def test_links_that_lead_somewhere(tmp_path, link, capsys):
    assert check.main(site(tmp_path, link=link)) == 0
    assert capsys.readouterr().out == "2 passed, 0 failed\n"


@pytest.mark.parametrize("link", ["#none", "none.html", "other.html#none", "../up.html"])
def test_links_that_lead_nowhere(tmp_path, link, capsys):
    assert check.main(site(tmp_path, link=link)) == 1
    assert f"FAILED: index.html links to {link}, " in capsys.readouterr().out


@pytest.mark.parametrize(
    "told",
    [
        {"head": '<script src="https://example.org/a.js"></script>'},
        {"head": '<link rel="stylesheet" href="//example.org/a.css">'},
        {"more": '<img src="http://example.org/a.png">'},
        {"more": '<img src="data.json" srcset="data.json 1x, https://example.org/a.png 2x">'},
        {"more": '<p style="background: url(https://example.org/a.png)">x</p>'},
        {"head": "<style>b {color: red} @import 'https://example.org/a.css';</style>"},
    ],
)
def test_what_comes_from_other_hosts(tmp_path, told, capsys):
    assert check.main(site(tmp_path, **told)) == 1
    assert "loads " in capsys.readouterr().out
    assert check.main(site(tmp_path)) == 0


def test_styles_from_other_hosts_and_no_site_at_all(tmp_path, capsys):
    (site(tmp_path) / "a.css").write_text(
        "@import 'https://example.org/font.css'; b {background: url(//example.org/p)}"
    )
    assert [text for _, text in check.faults(tmp_path)] == [
        "loads https://example.org/font.css", "loads //example.org/p"
    ]  # fmt: skip
    (tmp_path / "none").mkdir()
    assert check.main(tmp_path / "none") == 1
    assert "holds no page; run: make docs" in capsys.readouterr().out
