from tests.lab.advices import advice, no_gain, outcome

from adabatch.lab.report.advising.contents import of_advices
from adabatch.lab.report.folders import Advices


def text(made):
    return made.body.replace("&nbsp;", " ")


def test_the_page_of_one():
    made = of_advices(Advices({"here": advice()}))
    assert made.title == "advice: digits, mlp"
    assert set(made.charts) == {"losses", "ratios"}
    assert "Forecast beside outcome" not in made.body
    assert "<dt>budget seconds</dt>" in made.body
    assert {"batch 32", "batch 128", "batch 512", "early", "late"} < set(made.paint)


def test_the_page_of_one_with_its_outcome():
    made = of_advices(Advices({"here": advice(outcome=outcome())}))
    assert "Forecast beside outcome" in made.body
    assert "regret against the best constant batch: 0.714" in made.body


def test_the_page_where_nothing_was_trained():
    made = of_advices(Advices({"here": no_gain()}))
    assert made.charts == {}
    assert "No evidence that growth pays here." in made.body
    assert "1.03×" in made.body


def test_the_page_of_several():
    made = of_advices(Advices({"a": advice(outcome=outcome()), "b": no_gain()}))
    assert set(made.charts) == {"ratios"}
    assert "the 80 % interval held 1 of 1" in text(made)
    bare = of_advices(Advices({"a": no_gain(), "b": no_gain()}))
    assert bare.charts == {}
    assert "adabatch advise TASK --check" in bare.body
