import json

import pytest

from adabatch import couplings, policies, schedules
from adabatch.lab import cli, models, tasks
from adabatch.lab.planner import PRESETS


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["list", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def kinds(package, base):
    """The names of the schedules or couplings that a package offers, their base apart."""
    offered = {name: getattr(package, name) for name in package.__all__}
    return {name for name, it in offered.items() if isinstance(it, type) and issubclass(it, base) and it is not base}


def test_everything_has_a_line(capsys):
    lines = run(capsys).splitlines()
    names = ["geometric", "linear_ramp", "sqrt", "power", "norm-test", *tasks.names(), *models.names()]
    for name in names:
        found = [line for line in lines if line.split()[:1] == [name]]
        assert len(found) == names.count(name)  # the task quadratic has a network of its name
        assert all(len(line.split()) > 3 for line in found), found


def test_json_holds_what_the_packages_offer(capsys):
    found = json.loads(run(capsys, "--json"))
    assert list(found) == ["schedules", "policies", "couplings", "tasks", "models", "presets"]
    assert set(found["schedules"]) == kinds(schedules, schedules.Schedule)
    assert set(found["policies"]) == {name.replace("_", "-") for name in kinds(policies, policies.Policy)}
    assert set(found["couplings"]) == kinds(couplings, couplings.Coupling)
    assert set(found["tasks"]) == set(tasks.names())
    assert set(found["models"]) == set(models.names())
    assert set(found["presets"]) == set(PRESETS)
    assert all(line for kind in found.values() for line in kind.values())


def test_the_lines_are_the_docstrings_first(capsys):
    assert json.loads(run(capsys, "--json"))["schedules"]["constant"] == schedules.constant.__doc__.splitlines()[0]


def test_presets_say_for_what_from_where_and_what_is_recalled(capsys):
    found = json.loads(run(capsys, "--json"))["presets"]
    assert found["adabatch"].startswith("cifar10: resnet20, vgg19_bn, alexnet; cifar100: resnet20, vgg19_bn, alexnet")
    assert "arXiv 1712.02029, section 4.1" in found["adabatch"]
    recalled = found["adabatch"].partition("recalled, not found in print: ")[2]
    assert "(imagenet)" in recalled
    assert "cifar" not in recalled
    assert "the first and the largest batch size (cifar100, cifar10)" in found["adabatch-multi"]
