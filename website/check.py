"""Checks a built site: `python website/check.py [FOLDER]`. Every link leads somewhere, nothing comes from other hosts.

Prints what is wrong, one line each, and a closing line `N passed, N failed`, which counts pages; exit code 1 if one
failed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""Tags that make a browser fetch something, and the attribute that names it."""
_IN_CSS = re.compile(r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)|@import\s+['\"]((?:https?:)?//[^'\"]+)")


class Page(HTMLParser):
    """The anchors of a page, its links, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[str] = []
        self.loads: list[str] = []
        self._in_style = False
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes a tag."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADING and LOADING[tag] in found:
            self.loads.append(found[LOADING[tag]])
        self.loads += [part.split()[0] for part in found.get("srcset", "").split(",") if part.strip()]
        self._css(found.get("style", ""))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        """Notes the end of a style sheet within the page."""
        self._in_style = self._in_style and tag != "style"

    def handle_data(self, data: str) -> None:
        """Reads a style sheet within the page."""
        if self._in_style:
            self._css(data)

    def _css(self, text: str) -> None:
        self.loads += ["".join(found) for found in _IN_CSS.findall(text)]


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """What is wrong, by file."""
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    if not pages:
        yield str(folder), "holds no page; run: make docs"
    for path, page in pages.items():
        name = str(path.relative_to(folder.resolve()))
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    yield name, f"loads {link}"
                continue
            if name == "404.html":
                continue  # it is served for any address, so its links begin at the root
            at = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            at = at / "index.html" if at.is_dir() else at
            if not at.exists():
                yield name, f"links to {link}, which is not there"
            elif at in pages and unquote(parts.fragment) not in pages[at].anchors | {"__top"}:
                yield name, f"links to {link}, an anchor that is not there"
    for path in sorted(folder.rglob("*.css")):
        for found in _IN_CSS.findall(path.read_text(encoding="utf-8")):
            yield str(path.relative_to(folder)), f"loads {''.join(found)}"


def main(folder: Path) -> int:
    """Checks a site; returns the exit code."""
    found = list(faults(folder))
    for name, text in found:
        print(f"FAILED: {name} {text}")
    pages, bad = len(list(folder.rglob("*.html"))), len({name for name, _ in found})
    print(f"{max(pages - bad, 0)} passed, {bad} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/site")))
