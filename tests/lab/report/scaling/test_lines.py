from tests.lab.report.page_studies import probe, study

from adabatch.lab.report.look import COLOURS
from adabatch.lab.report.scaling.lines import lines, network, paint, views
from adabatch.lab.report.scaling.machine import Machine

SEVERAL = {"models": ("mlp", "cnn_small"), "fractions": (1.0, 0.5), "rules": ("linear", "constant")}


def names(view):
    return [line.name for line in view.lines]


def test_a_single_line_is_named_by_its_rule():
    assert [line.name for line in lines({"here": study(rules=("sqrt",))})] == ["LR sqrt"]


def test_little_is_drawn_at_once():
    (view,) = views({"here": study(models=("mlp", "cnn_small"))})
    assert names(view) == ["mlp, LR linear", "mlp, LR constant", "cnn_small, LR linear", "cnn_small, LR constant"]


def test_much_is_drawn_by_network_and_by_rule():
    found = views({"here": study(**SEVERAL)})
    assert [view.title for view in found] == [
        "mlp", "mlp, 50 %", "cnn_small", "cnn_small, 50 %", "LR linear, compared", "LR constant, compared",
    ]  # fmt: skip
    assert names(found[1]) == ["LR linear", "LR constant"]
    assert names(found[4]) == ["mlp, 100 %", "mlp, 50 %", "cnn_small, 100 %", "cnn_small, 50 %"]
    assert all(network(line.panel) == "mlp, 50 %" for line in found[1].lines)
    assert all(line.rule.rule == "constant" for line in found[5].lines)


def test_folders_are_compared_first():
    found = views({"a": study(**SEVERAL), "b": study(**SEVERAL)})
    assert found[0].title == "LR linear, compared"
    assert names(found[0])[:2] == ["a, mlp, 100 %", "a, mlp, 50 %"]
    (view,) = views({"a": study(task="mnist"), "b": study(task="cifar10"), "c": study()})
    assert names(view)[:3] == ["a, LR linear", "a, LR constant", "b, LR linear"]


def test_lines_of_a_view_differ_in_colour():
    colours = paint(views({"here": study(**SEVERAL)}))
    assert list(colours) == [
        "LR linear", "LR constant", "mlp, 100 %", "mlp, 50 %", "cnn_small, 100 %", "cnn_small, 50 %",
    ]  # fmt: skip
    assert len(set(colours.values())) == 6
    assert colours["LR linear"] == COLOURS["fixed-small"]


def test_each_line_has_the_machine_of_its_network():
    both = study(models=("mlp", "lenet"), rules=("linear",))
    machine = Machine.of(probe())
    assert [line.machine for line in lines({"": both}, {("digits", "mlp"): machine})] == [machine, None]
    assert [line.machine for line in lines({"": both}, {("mnist", "mlp"): machine})] == [None, None]
