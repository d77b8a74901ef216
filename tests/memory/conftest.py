"""No test keeps a profile in the user's cache folder."""

import pytest


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ADABATCH_CACHE", str(tmp_path / "cache"))
