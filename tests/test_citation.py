"""CITATION.cff is read, names no one but the authors of the package, and cites the papers that the README names."""

from __future__ import annotations

import re

import yaml
from tests.test_docs import ROOT


def test_the_papers_are_those_of_the_readme():
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (found["cff-version"], found["type"], found["license"]) == ("1.2.0", "software", "MIT")
    assert found["authors"] == [{"name": "The adabatch authors"}]
    papers = re.search(r"^The papers: .*", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    cited = {paper["url"] for paper in found["references"]}
    assert cited == set(re.findall(r"\((https://arxiv.org/abs/[\d.]+)\)", papers))
    for paper in found["references"]:
        assert paper["type"] == "article"
        assert paper["title"]
        assert all({"family-names", "given-names"} == set(author) for author in paper["authors"])
