"""Policies in text."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adabatch import policies
from adabatch.lab.training import deciding
from adabatch.lab.training.deciding import KINDS, chosen, text_of, usual_every

NUMBERS = st.floats(1e-6, 1e6)


def test_every_policy_can_be_chosen_and_has_an_example():
    assert {kind.__name__ for kind in KINDS.values()} == {name for name in policies.__all__ if name != "Policy"}
    for name in KINDS:
        example = deciding._remedy(name).rpartition("'")[0].rpartition("'")[2] or deciding._remedy(name).split()[-1]
        assert isinstance(chosen(example).policy, KINDS[name])


@st.composite
def texts(draw):
    """A policy, the text of it in some order, and how often it measures."""
    name = draw(st.sampled_from(sorted(KINDS)))
    own = {"noise-scale": "c", "norm-test": "eta", "diversity": "delta", "similarity": "c", "cabs": "loss_floor"}
    own |= {"sign-noise": "theta", "branch": "tolerance"}
    value = draw(st.floats(0.01, 0.3 if name == "sign-noise" else 0.99))  # 0.3: it may grow by any of the factors
    given, told = {own.get(name): value}, repr(value)
    if name == "goodput":
        curve = draw(
            st.dictionaries(st.integers(1, 512), st.floats(1, 1e5).map(lambda x: float(f"{x:.6g}")), min_size=1)
        )
        given, told = {"throughput": curve}, " ".join(f"{size}:{rate!r}" for size, rate in curve.items())
    more = {
        "factor": draw(st.none() | st.floats(1.01, 16)),
        "warmup_samples": draw(st.none() | st.integers(0, 10**9)),
        "shrinks": draw(st.none() | st.booleans()) if name != "branch" else None,
    }
    if name == "goodput":
        more["gain"] = draw(st.none() | st.floats(0, 1))
    if name == "branch":
        more |= {"every": draw(st.none() | st.floats(0.01, 0.99)), "pairs": draw(st.none() | st.integers(2, 99))}
    given |= {key: it for key, it in more.items() if it is not None}
    every = draw(st.none() | st.integers(1, 50))
    items = [f"{key.replace('_', draw(st.sampled_from('-_')))}={str(it).lower()}"
             for key, it in more.items() if it is not None]  # fmt: skip
    items += [] if every is None else [f"measure-every={every}"]
    return KINDS[name](**given, maximum=2**62), every, ",".join([f"{name}:{told}", *draw(st.permutations(items))])


@settings(max_examples=200, deadline=None)
@given(texts())
def test_text_is_read_as_it_is_written(drawn):
    policy, every, text = drawn
    assert chosen(text) == (policy, every)
    assert chosen(text_of(text)) == (policy, every)
    assert text_of(text_of(text)) == text_of(text)
    assert chosen(text).with_maximum(64) == type(policy)(**{**vars(policy), "maximum": 64})


def test_a_curve_is_taken_from_what_a_probe_wrote(tmp_path):
    folder = tmp_path / "a probe, of mine=1"
    folder.mkdir()
    rates = {16: 3000.123456, 64: 9000.0}
    curve = [{"batch_size": size, "samples_per_second": {"median": rate}} for size, rate in rates.items()]
    (folder / "probe.json").write_text(json.dumps({"curve": curve}))
    for path in (folder, folder / "probe.json"):
        assert text_of(f"goodput:{path},gain=0.2") == "goodput:16:3000.12 64:9000,gain=0.2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be one of branch, cabs, diversity, goodput, noise-scale, norm-test, "),
        ("noise", "must be one of branch, cabs, diversity, goodput, noise-scale, norm-test, "),
        ("norm-test", "norm-test must have a value: eta, got 'norm-test'; write for example norm-test:0.5"),
        ("noise-scale:", "noise-scale must have a number as c, got ''; write for example noise-scale:1"),
        ("noise-scale:x", "noise-scale must have a number as c, got 'x'; write for example noise-scale:1"),
        ("noise-scale:-1", "noise-scale: `c` must be greater than 0, got -1.0"),
        ("noise-scale:inf", "noise-scale: `c` must be finite, got inf"),
        ("noise-scale:1,factor=1", "noise-scale: `factor` must be greater than 1, got 1.0; 2 doubles the batch"),
        ("noise-scale:1,shrinks=yes", "noise-scale must have true or false as shrinks, got 'yes'"),
        ("noise-scale:1,warmup-samples=1.5", "noise-scale must have a whole number as warmup-samples, got '1.5'"),
        (
            "noise-scale:1,gain=2",
            "noise-scale must have arguments among c, factor, warmup-samples, shrinks, measure-every",
        ),
        ("noise-scale:1,factor=2,factor=3", "measure-every, each once, got factor twice; write for example"),
        ("noise-scale:1,c=2", "measure-every, each once, got c twice; write for example noise-scale:1"),
        ("noise-scale:1,maximum=64", "noise-scale must come without a maximum, which is the setting `max_batch_size`"),
        ("noise-scale:1,measure-every=0", "noise-scale: `measure-every` must be at least 1, got 0"),
        ("goodput:16:0", "goodput: `throughput` must be greater than 0, got 0.0"),
        ("goodput:16:1 16:2", "goodput: `throughput` must name each batch size once, got 2 pairs"),
        ("goodput:missing", "goodput must name a probe, got 'missing' (FileNotFoundError: "),
        (
            "goodput:other.json",
            "goodput must name a probe, got 'other.json' (KeyError: 'curve'); write for example goodput:",
        ),
    ],
)
def test_what_is_no_policy(text, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.json").write_text("{}")
    for read in (chosen, text_of):
        with pytest.raises(ValueError, match=re.escape(message)):
            read(text)


def test_an_epoch_has_twenty_measured_updates_if_it_has_as_many():
    for updates in range(1, 1000):
        every = usual_every(updates)
        assert updates // every >= min(updates, 20)
        assert every == 10 or updates // (every + 1) < 20
