"""A headless Chromium driven over its debugging pipe: no driver program, no package, no open port."""

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
HOW_TO_INSTALL = "no Chromium here; to run these tests: apt-get update && apt-get install -y chromium"
DESKTOP = {"width": 1280, "height": 900, "mobile": False}
PHONE = {"width": 375, "height": 812, "mobile": True, "scale": 2}


def executable():
    """The path of Chromium; None if it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


NEEDED = pytest.mark.skipif(executable() is None, reason=HOW_TO_INSTALL)


class Chromium:
    """One browser with one tab; what it logs, throws and asks the network for is kept."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="adabatch-chromium-")
        to_browser, self.outgoing = os.pipe()
        self.incoming, from_browser = os.pipe()
        # The browser reads commands from descriptor 3 and writes answers to 4; copies keep the two apart from both.
        read, write = os.dup(to_browser), os.dup(from_browser)
        while min(read, write) < 5:
            read, write = os.dup(read), os.dup(write)
        log = os.open(os.path.join(self.profile, "log"), os.O_WRONLY | os.O_CREAT)
        arguments = [executable(), *FLAGS, f"--user-data-dir={self.profile}/data", "about:blank"]
        actions = [
            (os.POSIX_SPAWN_DUP2, read, 3),
            (os.POSIX_SPAWN_DUP2, write, 4),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ]
        self.process = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions, setpgroup=0)
        for descriptor in {to_browser, from_browser, read, write, log}:
            os.close(descriptor)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """Sends one command and returns its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.outgoing, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self.number:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]

    def open(self, page, *, device=DESKTOP, dark=False):
        """Opens a file as that device and waits until its charts are drawn."""
        self.events.clear()
        metrics = {"width": device["width"], "height": device["height"], "mobile": device["mobile"]}
        self.send("Emulation.setDeviceMetricsOverride", deviceScaleFactor=device.get("scale", 1), **metrics)
        touch = {"maxTouchPoints": 5} if device["mobile"] else {}
        self.send("Emulation.setTouchEmulationEnabled", enabled=device["mobile"], **touch)
        self.theme(dark=dark)
        self.send("Page.navigate", url=Path(page).resolve().as_uri())
        self.wait("document.documentElement?.dataset.drawn === 'yes'")

    def theme(self, *, dark):
        """Sets whether the user prefers dark pages."""
        value = "dark" if dark else "light"
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": value}])

    def run(self, script):
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition, *, seconds=60):
        """Waits until an expression in the page is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}; {self.complaints()}"
            time.sleep(0.05)

    def mouse(self, kind, x, y, **more):
        """One event of the mouse, at a place in the window."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def click(self, selector):
        """A click in the middle of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.mouse("mouseMoved", x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, button="left", clickCount=1)

    def picture(self, path, *, whole=True):
        """A screenshot of the whole page, or of the window."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def complaints(self):
        """Errors and warnings that the page logged or threw."""
        kinds = {
            "Runtime.exceptionThrown": "exceptionDetails",
            "Runtime.consoleAPICalled": "args",
            "Log.entryAdded": "entry",
        }
        self.run("0")
        return [event["params"][kinds[event["method"]]] for event in self.events if event["method"] in kinds]

    def requests(self):
        """Addresses that the page requested, except its own file and data in it."""
        self.run("0")
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        urls = [event["request"]["url"] for event in sent if event.get("type") != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    def held_back(self):
        """Why requests failed, in the browser's words."""
        self.run("0")
        return [
            event["params"].get("blockedReason") for event in self.events if event["method"] == "Network.loadingFailed"
        ]

    def close(self):
        """Ends the browser and removes its profile."""
        with contextlib.suppress(OSError, AssertionError, TimeoutError):
            self.session = None
            self.send("Browser.close")
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.outgoing)
        os.close(self.incoming)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _receive(self):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.incoming], [], [], 90)
            if not ready:
                raise TimeoutError("the browser does not answer")
            chunk = os.read(self.incoming, 1 << 20)
            if not chunk:
                raise ConnectionError(f"the browser ended: {Path(self.profile, 'log').read_text()[-2000:]}")
            self.buffer += chunk
        message, _, self.buffer = self.buffer.partition(b"\0")
        found = json.loads(message)
        if "method" in found:
            self.events.append(found)
        return found


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests of a file: `browser = chromium.browser` there, and `pytestmark = chromium.NEEDED`."""
    found = Chromium()
    yield found
    found.close()
