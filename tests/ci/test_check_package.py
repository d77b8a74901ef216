"""The check of the package notices what is missing in wheel and sdist; one test builds both."""

from __future__ import annotations

import importlib.util
import io
import tarfile
import zipfile

import pytest
from tests.test_docs import ROOT

from adabatch import __version__

_spec = importlib.util.spec_from_file_location("check_package", ROOT / ".ci" / "check_package.py")
check_package = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check_package)
METADATA = f"Metadata-Version: 2.4\nName: adabatch\nVersion: {__version__}\n" + "".join(
    f"Provides-Extra: {extra}\n" for extra in ("torch", "cli", "data", "plot", "all")
)


def wheel(folder, *, metadata=METADATA, without=(), more=()):
    path = folder / "a.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"adabatch-{__version__}.dist-info/METADATA", metadata)
        for name in (*check_package.WANTED, *more):
            if name not in without:
                archive.writestr(name, "")
    return path


def sdist(folder, *, without=(), more=()):
    path = folder / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in (*check_package.IN_SDIST, *more):
            if name not in without:
                archive.addfile(tarfile.TarInfo(f"adabatch-1/{name}"), io.BytesIO())
    return path


def failed(wheel, sdist):
    return [text for text, _, holds in check_package.contents(wheel, sdist) if not holds]


def test_nothing_is_missing(tmp_path):
    assert failed(wheel(tmp_path), sdist(tmp_path)) == []


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"metadata": METADATA.replace(__version__, "9.9")}, "the version is the one of _version.py"),
        ({"metadata": METADATA + "Requires-Dist: torch>=2.11\n"}, "the core needs no other package"),
        ({"metadata": METADATA.replace("Provides-Extra: torch\n", "")}, "the README's extras are offered"),
        ({"without": ["adabatch/py.typed"]}, "the wheel holds types and the pages' script"),
        ({"more": ["tests/test_x.py"]}, "the wheel holds nothing else"),
    ],
)
def test_what_a_wheel_lacks(tmp_path, told, text):
    assert failed(wheel(tmp_path, **told), sdist(tmp_path)) == [text]


def test_an_extra_s_packages_are_no_dependency(tmp_path):
    assert (
        failed(wheel(tmp_path, metadata=METADATA + 'Requires-Dist: torch; extra == "torch"\n'), sdist(tmp_path)) == []
    )


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"without": ["LICENSE"]}, "the sdist holds what a packager needs"),
        ({"more": ["tests/test_x.py"]}, "the sdist holds nothing else"),
    ],
)
def test_what_an_sdist_lacks(tmp_path, told, text):
    assert failed(wheel(tmp_path), sdist(tmp_path, **told)) == [text]


def test_it_builds_and_deletes_nothing_else(tmp_path):
    """Without a network; `make package` also installs what is built here, with all that it needs."""
    out = tmp_path / "out"
    out.mkdir()
    kept = {"notes.txt", "other-1.0.tar.gz", "adabatch-notes.txt"}
    for name in (*kept, "adabatch-0.0.1.tar.gz", "adabatch-0.0.1-py3-none-any.whl"):
        (out / name).write_text("before")
    wheel, sdist = check_package.build(out, tmp_path / "scratch")
    assert {path.name for path in out.iterdir()} == {*kept, wheel.name, sdist.name}
    assert all((out / name).read_text() == "before" for name in kept)
    assert (wheel.name, sdist.name) == (f"adabatch-{__version__}-py3-none-any.whl", f"adabatch-{__version__}.tar.gz")
    assert failed(wheel, sdist) == []
