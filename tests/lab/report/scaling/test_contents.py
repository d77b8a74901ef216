import json
import re
import subprocess
import sys

import pytest
from tests.lab.report.page_branches import write_branch
from tests.lab.report.page_studies import study, write_probe, write_study
from tests.lab.report.test_contents import shown
from tests.lab.report.test_folders import ODD, places_in, what_is_said, with_another
from tests.lab.report.test_page import data_of, without_scripts

from adabatch.lab.report import folders, page
from adabatch.lab.report.folders import Studies, read, read_together
from adabatch.lab.report.scaling.charts import CHARTS
from adabatch.lab.report.scaling.lines import lines
from adabatch.lab.report.scaling.machine import machines
from adabatch.lab.report.scaling.words import advice, believed, line_words, order_words, size, told

SEVERAL = {"models": ("mlp", "cnn_small", "lenet"), "fractions": (1.0, 0.5)}


@pytest.fixture
def text(tmp_path):
    write_study(tmp_path)
    return page.write(tmp_path).read_text()


def words_of(text):
    return " ".join(re.sub("<[^>]*>", " ", without_scripts(text)).split())


def test_a_page_of_a_study(tmp_path, text):
    assert isinstance(read(tmp_path), Studies)
    found, said = study(), words_of(text)
    end = believed(found.panels[0].rules[0].test.fits).batch_at_20_percent_more_samples
    assert f"Perfect scaling on digits ends at batch size {size(end.estimate)}." in said
    assert advice(found.panels[0]).replace("  ", " ") in said
    assert told(end).partition(" [")[0] in said
    for line in lines({"": found}):
        for loss in ("test", "train"):
            assert line_words(line, loss).replace("<", "&lt;") in said
    assert "3 at the end of the budget" in said
    assert "0123456789ab, with changes" in said


def test_every_chart_has_a_form_for_each_choice(text):
    charts = data_of(text)["charts"]
    assert list(charts) == list(CHARTS)
    assert {tuple(chart["of"]) for chart in charts.values()} == {("all-test", "all-train")}
    assert sorted(re.findall(r'class="chart[^"]*" id="([^"]*)"', text)) == sorted(charts)


def test_much_has_a_menu_and_little_does_not(tmp_path, text):
    assert re.search(r'<fieldset class="switch" hidden><legend>lines', text)
    write_study(tmp_path / "much", **SEVERAL)
    much = page.write(tmp_path / "much").read_text()
    assert re.findall(r"<option[^>]*>([^<]*)", much) == [
        "mlp", "mlp, 50 %", "cnn_small", "cnn_small, 50 %", "lenet", "lenet, 50 %", "LR linear, compared",
        "LR constant, compared",
    ]  # fmt: skip
    charts = data_of(much)["charts"]
    assert len(charts["updates"]["of"]) == 2 * 8
    assert len(charts["curves"]["of"]) == 2 * 6
    assert "ends between batch sizes" in words_of(much)


def test_what_is_seen_only_under_a_choice_names_one_that_exists(tmp_path):
    write_study(tmp_path, **SEVERAL)
    text = page.write(tmp_path).read_text()
    views, losses = re.findall(r'<option value="([^"]*)"', text), ("test", "train")
    named = {key for keys in re.findall(r'data-in="([^"]*)"', text) for key in keys.split()}
    assert named == {f"{view}-{loss}" for view in views for loss in losses}


def test_several_studies_on_one_page(tmp_path):
    for name, critical in (("mnist", 200), ("cifar10", 1500)):
        write_study(tmp_path / name, task=name, critical=critical)
    written = page.write_together([tmp_path / "mnist", tmp_path / "cifar10"])
    assert written == tmp_path / "report.html"
    said = shown(written)
    assert "Perfect scaling on mnist and cifar10 ends between" in said
    chips = re.findall(r'class="chip" aria-pressed="true" data-arm="([^"]*)"', written.read_text())
    assert chips[:4] == ["mnist, LR linear", "mnist, LR constant", "cifar10, LR linear", "cifar10, LR constant"]
    assert isinstance(read_together([tmp_path / "mnist", tmp_path / "cifar10"]), Studies)


def test_an_unfinished_study_says_what_is_missing(tmp_path):
    (tmp_path / "study.db").write_text("")
    words = (
        r"`folder` must hold a finished study, got .*, which is not finished: study.json is missing; the adabatch study"
    )
    with pytest.raises(FileNotFoundError, match=words):
        read(tmp_path)
    write_study(tmp_path / "done")
    with pytest.raises(FileNotFoundError, match=words):
        read_together([tmp_path / "done", tmp_path])
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match=r"got study in '.*done', none of these in '.*run'; give what is of another"):
        read_together([tmp_path / "done", tmp_path / "run"])


def test_a_damaged_study_is_named(tmp_path):
    write_study(tmp_path)
    (tmp_path / "study.json").write_text('{"task": "digits"')
    with pytest.raises(ValueError, match=r"`folder` must hold whole files, got a damaged .*study\.json"):
        read(tmp_path)
    (tmp_path / "study.json").write_text('{"task": "digits"}')
    with pytest.raises(ValueError, match=r"must hold files of this package, got .*study\.json without panels; start"):
        read(tmp_path)


@pytest.mark.slow
def test_values_of_another_kind_are_named_or_do_no_harm(tmp_path):
    """With any other value there is a page, or an error that names the fault."""
    whole = json.loads(json.dumps(study(rules=("linear",), seeds=2).to_json()))
    refused = 0
    for path in places_in(whole):
        for odd in ODD:
            (tmp_path / "study.json").write_text(json.dumps(with_another(whole, path, odd)))
            said = what_is_said(tmp_path)
            assert said == "" or said.startswith("`folder` must hold "), (path, odd)
            refused += said != ""
    assert refused > 50


def test_where_the_data_lie_is_nobodys_business(text):
    assert "somebody" not in text
    assert "<dd>digits</dd>" in text


def test_names_cannot_break_out(tmp_path):
    write_study(tmp_path, task="</script><script>alert(1)</script>", models=("<b>mlp",))
    text = page.write(tmp_path).read_text()
    assert "alert(1)</script>" not in text
    assert "&lt;b&gt;mlp" in text
    assert "<b>mlp, LR" not in without_scripts(text)


def test_a_page_needs_no_extra_and_no_torch(tmp_path):
    write_study(tmp_path)
    code = (
        "import sys; from pathlib import Path; sys.modules |= dict.fromkeys(['matplotlib', 'rich', 'typer', 'torch',"
        "'scipy', 'optuna']); from adabatch.lab.report import page; page.write(Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (tmp_path / "report.html").read_text() == page.html(read(tmp_path))


def test_one_seed_shows_no_interval_of_a_mean(tmp_path):
    write_study(tmp_path, seeds=1, rules=("linear",))
    assert "One seed gives no interval of a mean" in shown(page.write(tmp_path))
    assert isinstance(folders.findings(tmp_path, type(study())), type(study()))


def test_a_probe_sets_the_machine_beside_the_borders(tmp_path):
    write_study(tmp_path / "study", rules=("linear",))
    write_probe(tmp_path / "probe")
    written = page.write_together([tmp_path / "study", tmp_path / "probe"])
    assert written == tmp_path / "study" / "report.html", "the page of the study, with more on it"
    text = written.read_text()
    said = words_of(text)
    assert "Which comes first" in said
    (line,) = lines({"": study(rules=("linear",))}, machines(read_together([tmp_path / "study", tmp_path / "probe"])))
    for loss in ("test", "train"):
        assert order_words(line, loss) in said.replace("&nbsp;", " ")
    assert "memory full at" in said
    assert "memory is full at 128 to 256 by the probe" in said
    assert "a cross where memory is full" in said
    alone = words_of(page.write(tmp_path / "study").read_text())
    assert "Which comes first" not in alone
    assert "by the probe" not in alone


@pytest.mark.parametrize(
    ("probes", "words"),
    [
        ([{"task": "mnist"}], "must be a probe of a task and network of the studies .* got '.*/probe-0' of mnist, mlp"),
        ([{"model": "lenet"}], "of digits, lenet; they are of digits, mlp: adabatch probe digits --model mlp"),
        ([{}, {}], "must be the only probe of its network, got '.*/probe-1' of .*; leave it or '.*/probe-0' out"),
    ],
)
def test_a_probe_of_something_else_is_named(tmp_path, probes, words):
    write_study(tmp_path / "study")
    for place, changes in enumerate(probes):
        write_probe(tmp_path / f"probe-{place}", **changes)
    with pytest.raises(ValueError, match=words):
        read_together([tmp_path / "study", *(tmp_path / f"probe-{place}" for place in range(len(probes)))])


def test_a_probe_of_each_network(tmp_path):
    write_study(tmp_path / "study", models=("mlp", "lenet"))
    folders = [tmp_path / "study"]
    for model in ("mlp", "lenet"):
        write_probe(tmp_path / model, model=model)
        folders.append(tmp_path / model)
    assert len(read_together(folders).probes) == 2
    assert page.write_together(folders, tmp_path / "page.html") == tmp_path / "page.html"


def test_a_probe_beside_a_branching_or_alone_is_refused(tmp_path):
    write_branch(tmp_path / "branch")
    write_probe(tmp_path / "probe")
    write_probe(tmp_path / "other", model="lenet")
    with pytest.raises(ValueError, match=r"must be a probe of a task and network of the studies .* leave it out"):
        read_together([tmp_path / "branch", tmp_path / "probe"])
    with pytest.raises(
        ValueError, match=r"where several are given: .*, got probe in '.*probe', probe in '.*other'; give"
    ):
        read_together([tmp_path / "probe", tmp_path / "other"])


def test_a_damaged_probe_is_named(tmp_path):
    write_study(tmp_path / "study")
    write_probe(tmp_path / "probe")
    (tmp_path / "probe" / "probe.json").write_text("{}")
    with pytest.raises(ValueError, match=r"must hold files of this package, got .*probe\.json without task"):
        read_together([tmp_path / "study", tmp_path / "probe"])


def test_errors_of_the_linear_approximation_are_told(text):
    said = words_of(text)
    assert "linear-approximation error" in said
    assert "passes 1 at batch size 128" in said
    assert "Above about 1 the step is too long" in said
