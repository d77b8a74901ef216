import json
import re
import subprocess
import sys

import pytest
from tests.lab.report.page_branches import branching, write_branch
from tests.lab.report.page_studies import write_study
from tests.lab.report.scaling.test_contents import words_of
from tests.lab.report.test_folders import ODD, places_in, what_is_said, with_another
from tests.lab.report.test_page import data_of

from adabatch.lab.report import page
from adabatch.lab.report.branching.words import answer, sentences
from adabatch.lab.report.folders import Studies, read, read_together

IDS = ["branch-cost", "branch-harmless", "branch-schedule"]


def test_a_page_of_a_branching(tmp_path):
    found = write_branch(tmp_path)
    assert read(tmp_path).branches[tmp_path.name].to_json() == found.to_json()
    text = page.write(tmp_path).read_text()
    said = words_of(text)
    assert answer(found) in said
    for sentence in sentences(found):
        assert sentence.replace("&nbsp;", " ") in said.replace("&nbsp;", " ")
    assert "3 seeds" in said
    assert "0123456789ab, with changes" in said
    assert "somebody" not in text, "where the data lie is nobody's business"
    assert list(data_of(text)["charts"]) == IDS
    assert sorted(re.findall(r'class="chart[^"]*" id="([^"]*)"', text)) == IDS
    chips = re.findall(r'class="chip" aria-pressed="true" data-arm="([^"]*)"', text)
    assert chips[:4] == ["at 5 %", "at 15 %", "at 35 %", "at 65 %"]
    assert "Crosses: the truth" not in said


def test_the_truth_is_told_where_it_is_known(tmp_path):
    write_branch(tmp_path, truth=True)
    assert "Crosses: the truth" in words_of(page.write(tmp_path).read_text())


def test_several_branchings_on_one_page(tmp_path):
    write_branch(tmp_path / "mlp")
    write_branch(tmp_path / "lenet", model="lenet", growth="early")
    written = page.write_together([tmp_path / "mlp", tmp_path / "lenet"])
    assert written == tmp_path / "report.html"
    text = written.read_text()
    assert len(data_of(text)["charts"]) == 6
    said = words_of(text)
    assert "2 branchings side by side." in said
    assert "mlp: Late growth suits" in said
    assert "lenet: Early growth suits" in said
    assert "lenet: What a larger batch costs" in said


def test_a_branching_beside_a_study(tmp_path):
    write_study(tmp_path / "study")
    write_branch(tmp_path / "branch")
    both = [tmp_path / "study", tmp_path / "branch"]
    assert isinstance(read_together(both), Studies)
    text = page.write_together(both).read_text()
    charts = data_of(text)["charts"]
    assert list(charts)[-3:] == IDS
    assert set(charts) > {"updates", "curves"}
    assert sorted(re.findall(r'class="chart[^"]*" id="([^"]*)"', text)) == sorted(charts)
    said = words_of(text)
    assert "Perfect scaling on digits ends" in said
    assert "branch: The largest batch that does no harm" in said


def test_a_branching_that_is_not_finished(tmp_path):
    (tmp_path / "branches.json").write_text("{}")
    words = r"must hold a finished branching, got .*, which is not finished: branch.json is missing; the adabatch study"
    with pytest.raises(FileNotFoundError, match=words):
        read(tmp_path)
    write_branch(tmp_path / "done")
    with pytest.raises(FileNotFoundError, match=words):
        read_together([tmp_path / "done", tmp_path])


@pytest.mark.slow
def test_values_of_another_kind_are_named_or_do_no_harm(tmp_path):
    """With any other value there is a page, or an error that names the fault."""
    whole = json.loads(json.dumps(branching(windows=(1 / 16,), truth=True).to_json()))
    refused = 0
    for path in places_in(whole):
        for odd in ODD:
            (tmp_path / "branch.json").write_text(json.dumps(with_another(whole, path, odd)))
            said = what_is_said(tmp_path)
            assert said == "" or said.startswith("`folder` must hold "), (path, odd)
            refused += said != ""
    assert refused > 50


def test_names_cannot_break_out(tmp_path):
    write_branch(tmp_path, task="</script><script>alert(1)</script>", model="<b>mlp")
    text = page.write(tmp_path).read_text()
    assert "alert(1)</script>" not in text
    assert "&lt;b&gt;mlp" in text


def test_a_page_needs_no_extra_and_no_torch(tmp_path):
    write_branch(tmp_path)
    code = (
        "import sys; from pathlib import Path; sys.modules |= dict.fromkeys(['matplotlib', 'rich', 'typer', 'torch',"
        "'scipy', 'optuna']); from adabatch.lab.report import page; page.write(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "report.html").read_text() == page.html(read(tmp_path))
