"""The built site: whole and without a warning; in a browser its search finds, and pages fit, in light and dark."""

from __future__ import annotations

import functools
import http.server
import os
import subprocess
import sys
import threading

import pytest
from tests.lab.report import chromium
from tests.lab.report.chromium import DESKTOP, PHONE
from tests.test_docs import ROOT
from tests.website.test_check import check

pytestmark, browser = pytest.mark.slow, chromium.browser
PAGES = ("index", "tutorial", "frameworks", "gpu", "distributed", "reference/scheduler", "reference/command")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and logs nothing."""

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module", params=["from a server", "from the disk"])
def address(site, request):
    """Where the pages of the site begin, and the only place that they may ask."""
    if request.param == "from the disk":
        yield f"{site.as_uri()}/"
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def opened(browser, url, *, device, dark):
    browser.send("Page.navigate", url="about:blank")  # what the page before still asks for must not count
    browser.wait("location.href === 'about:blank' && document.readyState === 'complete'")
    browser.events.clear()
    size = {"width": device["width"], "height": device["height"], "mobile": device["mobile"]}
    browser.send("Emulation.setDeviceMetricsOverride", deviceScaleFactor=1, **size)
    browser.theme(dark=dark)
    browser.send("Page.navigate", url=url)
    browser.wait(f"location.href === {url!r} && document.readyState === 'complete'")


def test_it_is_whole(site):
    assert list(check.faults(site)) == []
    assert "BatchSizeScheduler" in (site / "reference" / "adabatch.html").read_text()
    assert (site / "benchmarks" / "results" / "demo.json").is_file()


@chromium.NEEDED
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE | {"width": 390}], ids=["desktop", "phone"])
def test_pages_fit_follow_the_system_and_ask_nobody_else(browser, address, device, dark):
    for page in PAGES:
        opened(browser, f"{address}{page}.html", device=device, dark=dark)
        browser.wait(f"document.body.dataset.mdColorScheme === '{'slate' if dark else 'default'}'")
        assert browser.run("document.documentElement.scrollWidth") <= device["width"], page
        assert browser.complaints() == [], page
        assert [url for url in browser.requests() if not url.startswith(address)] == [], page


@chromium.NEEDED
def test_the_search_finds(browser, address):
    opened(browser, f"{address}index.html", device=DESKTOP, dark=False)
    browser.click("input.md-search__input")
    for letter in "accumulate":
        browser.send("Input.dispatchKeyEvent", type="keyDown", text=letter, key=letter)
        browser.send("Input.dispatchKeyEvent", type="keyUp", key=letter)
    browser.wait("document.querySelector('.md-search-result__item a')?.href.includes('h=accumulate')")
    found = browser.run("[...document.querySelectorAll('.md-search-result__item a')].map(link => link.href)")
    pages = [link.partition("?")[0].removeprefix(address) for link in found]
    assert {"reference/accumulate.html", "memory.html"} <= {*pages}
    browser.run("document.querySelector('.md-search-result__item a').click()")  # the mouse may miss what still moves
    browser.wait("location.pathname.endsWith('/reference/accumulate.html')")
    browser.wait("document.readyState === 'complete'")
    assert browser.complaints() == []
