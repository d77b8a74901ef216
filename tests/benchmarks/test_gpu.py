"""The benchmark of one GPU: its phases on the CPU, in small; what a failing phase costs; and its results in words."""

import copy
import importlib
import json
import statistics
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
SCRIPT = [sys.executable, str(ROOT / "benchmarks" / "gpu.py")]


@pytest.fixture(scope="module")
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(scope="module")
def gpu(scripts):
    return scripts("gpu")


@pytest.fixture(scope="module")
def speed(scripts):
    return scripts("gpu_speed")


@pytest.fixture(scope="module")
def training(scripts):
    return scripts("gpu_training")


@pytest.fixture(scope="module")
def words(scripts):
    return scripts("gpu_words")


def job(scripts, tmp_path, *arguments, former=None, seconds=60.0, full=False):
    """A phase's job on the CPU."""
    options = scripts("gpu").parsed(["--device", "cpu", *([] if full else ["--toy"]), *arguments])
    return scripts("gpu_job").Job(options, into=tmp_path / "found.json", seconds=seconds, former=former or {})


# Kernels.


@st.composite
def launched(draw):
    """Kernels on streams: they may overlap, touch, lie within each other, or leave gaps."""
    starts = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12))
    return [(draw(st.sampled_from("abc")), start, start + draw(st.integers(1, 8))) for start in starts]


@given(events=launched())
def test_busy_and_idle_time_are_those_of_a_count_of_all_moments(speed, events):
    found = speed.on_device((name, float(begin), float(end)) for name, begin, end in events)
    moments = {moment for _, begin, end in events for moment in range(begin, end)}
    first, last = min(moments), max(moments) + 1
    idle = "".join(" " if moment in moments else "." for moment in range(first, last)).split()
    assert found["launches"] == len(events)
    assert found["span_seconds"] == last - first
    assert found["busy_seconds"] == pytest.approx(len(moments))
    assert found["idle_share"] == pytest.approx(sum(map(len, idle)) / (last - first))
    assert found["gaps_seconds"] == sorted(map(len, idle), reverse=True)[:3]
    assert sum(each["count"] for each in found["kernels"]) == len(events)
    assert sum(each["seconds"] for each in found["kernels"]) == sum(end - begin for _, begin, end in events)
    assert sum(found["kinds"].values()) == pytest.approx(1)


def test_a_device_without_kernels_has_launched_nothing(speed):
    assert speed.on_device([]) == {"launches": 0}


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, int, 512, true, 1, true>(...)", "batch norm"),
        ("void at::native::batch_norm_backward_kernel<float, float, float, int>(...)", "batch norm"),
        ("void cudnn::engines_precompiled::nchwToNhwcKernel<float, float, float, false>", "change of layout"),
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc", "convolutions and products"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<...>", "optimizer"),
        ("void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, ...>>", "reductions"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "elementwise"),
        ("triton_poi_fused_0", "elementwise"),
        ("something_else", "other"),
    ],
)
def test_kernels_have_a_kind(speed, kernel, kind):
    assert speed.kind_of(kernel) == kind


def test_traffic_is_what_operators_read_and_write(speed):
    a, b, out = torch.ones(6), torch.ones(6), torch.empty(2)
    with speed.Traffic() as traffic:
        _ = a + b
    assert traffic.bytes == 3 * 24
    with speed.Traffic() as traffic:
        a.add_(b)  # reads both and writes one
    assert traffic.bytes == 3 * 24
    with speed.Traffic() as traffic:
        torch.sum(a.view(2, 3), dim=1, out=out)
        torch.empty(1_000)
        a.reshape(3, 2).t()
    assert traffic.bytes == 24 + 2 * 8


def test_traffic_counts_the_backward_pass(speed):
    weight = torch.ones(8, requires_grad=True)
    with speed.Traffic() as forward:
        loss = (weight * 2).sum()
    with speed.Traffic() as backward:
        loss.backward()
    assert forward.bytes > 0
    assert backward.bytes > 32


def test_bytes_of_a_sample_do_not_depend_on_what_a_step_moves_anyway(scripts, speed, tmp_path):
    """Weights and the optimizer are the same at both batch sizes: only samples count."""
    here = job(scripts, tmp_path)
    found = speed.bytes_of_a_sample(here, "small_cnn", speed.PLAIN)
    steps, counts = speed.steps_of(here, "small_cnn", speed.PLAIN, [8]), {}
    for size in (8, 40):
        steps.time(size, 1)
        with speed.Traffic() as traffic:
            steps.time(size, 1)
        counts[size] = traffic.bytes
    assert found == pytest.approx((counts[40] - counts[8]) / 32, rel=1e-3)
    assert found > 2 * 3 * 32 * 32 * 4  # an image in float32, written and read


def test_a_roofline_says_bytes_bandwidth_and_the_share_reached(speed):
    options = {
        "plain": {"settings": {"precision": "float32"}, "sizes": {"8": rated(100.0), "64": rated(400.0)}},
        "bf16": {"settings": {"precision": "bf16"}, "sizes": {"8": rated(300.0), "64": {"error": "out of memory"}}},
        "graphs": {"error": "left out"},
    }
    assert speed.best(options, 8) == ("bf16", 300.0)
    assert speed.best(options, 64) == ("plain", 400.0)
    assert speed.best({"graphs": {"error": "no"}}, 8) is None
    told = speed.roofline("net", options, {"float32": 2e6, "bf16": 1e6}, 2e9)
    assert "read and write 2.00 MB for a sample in float32; at the 2 GB/s of a copy that bounds it at 1,000" in told
    assert told.endswith("the fastest option at 64 (plain) trains 400, 40 % of that")
    assert speed.roofline("net", {}, {}, 1.0) == "net: not measured"


def rated(rate):
    return {"samples_per_second": {"median": rate}}


# Phases, their errors and limits.


def test_cases_go_on_after_an_error_and_are_left_out_when_time_is_short(scripts, tmp_path, monkeypatch):
    module = scripts("gpu_job")
    here = job(scripts, tmp_path, seconds=10)
    clock = iter(range(0, 1_000, 4))  # each look takes four seconds
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    here._ends = 33

    def fails():
        raise RuntimeError(f"no\n  luck in {ROOT}/benchmarks")

    found = here.each({"one": fails, "two": lambda: {"x": 1}, "three": lambda: {"x": 2}, "four": lambda: {}})
    assert found["one"] == {"error": "RuntimeError: no luck in /benchmarks"}
    assert found["two"] == {"x": 1}
    assert found["four"]["error"].startswith("left out: ")
    assert module.worked(found).keys() <= {"two", "three"}
    kept = json.loads((tmp_path / "found.json").read_text())["found"]
    assert kept["two"] == {"x": 1}


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Phases that fail in every way, in a module of their own."""
    code = """
        import os, signal, subprocess, sys, time

        def errs(job):
            job.report({"half": 1})
            raise ValueError("too much")

        def crashes(job):
            job.report({"half": 2})
            os.kill(os.getpid(), signal.SIGSEGV)

        def hangs(job):
            worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            job.report({"worker": worker.pid})
            time.sleep(600)

        def ends(job):
            sys.exit(3)

        def tells(job):
            return {"former": job.former, "only": job.options.only}
        """
    (tmp_path / "broken.py").write_text(textwrap.dedent(code))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'src'}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_phase_that_fails_costs_itself_alone(gpu, broken):
    def done(name, seconds=500.0):
        few, former = ["--toy", "--device", "cpu"], {"before": {"found": 1}}
        return gpu.done(f"broken:{name}", few, limit=seconds, former=former)

    told = done("tells")
    assert (told["found"], told["error"]) == ({"former": {"before": {"found": 1}}, "only": None}, None)
    assert (told["limit_seconds"], len(told["code_sha256"])) == (500, 64)
    assert told["git"] is None or len(told["git"]["revision"]) == 40
    failed = done("errs")
    assert (failed["found"], failed["error"]) == ({"half": 1}, "ValueError: too much")
    failed = done("crashes")
    assert (failed["found"], failed["error"]) == ({"half": 2}, "ended by SIGSEGV")
    failed = done("ends")
    assert (failed["found"], failed["error"]) == ({}, "ended with exit code 3")
    limit = round(10 + 3 * told["seconds"])  # imports take their time
    failed = done("hangs", limit)
    assert failed["error"] == f"ended at its limit of {limit} s"
    assert failed["seconds"] < limit + 20
    worker = Path(f"/proc/{failed['found']['worker']}/stat")
    assert not worker.exists() or worker.read_text().split(") ")[1][0] == "Z"  # what it had started is gone too


def test_a_phase_that_found_nothing_leaves_what_was_there(gpu):
    good = {"found": {"x": 1}, "error": None, "seconds": 1.0}
    phases = {"loops": good, "gpt": good}
    empty = {"found": {}, "error": "ended by SIGSEGV", "seconds": 2.0}
    assert gpu.merged(phases, "loops", empty) == {"loops": good | {"error": "ended by SIGSEGV"}, "gpt": good}
    half = {"found": {"x": 2}, "error": "late", "seconds": 2.0}
    assert gpu.merged(phases, "loops", half)["loops"] == half
    whole = {"found": {"a": {"x": 1, "y": 2}}, "error": None, "seconds": 9.0}
    assert gpu.merged({"loops": whole}, "loops", half)["loops"] == whole | {"error": "late"}
    assert gpu.merged({"loops": whole}, "loops", good)["loops"] == good
    assert list(gpu.merged(phases, "loaders", good)) == ["loops", "loaders", "gpt"]
    assert gpu.merged({}, "loops", empty) == {"loops": empty}


def test_phases_fit_the_time_that_a_call_has(gpu):
    assert list(gpu.PHASES)[:3] == ["environment", "kernels", "throughput"]
    alone = {name: phase.seconds for name, phase in gpu.PHASES.items() if phase.alone}
    together = sum(phase.seconds for phase in gpu.PHASES.values() if not phase.alone)
    assert list(alone) == ["headline"]
    assert max(together, *alone.values(), 0) <= 60 * gpu.MINUTES


def test_a_result_that_is_no_gpus_is_not_kept_as_one(gpu):
    message = r"benchmarks/results/gpu.json is for results of a GPU, and {}; give another file with --out"
    with pytest.raises(SystemExit, match=message.format("none is used here")):
        gpu.check_gpu(gpu.KEPT, None)
    with pytest.raises(SystemExit, match=message.format("this is a toy")):
        gpu.check_gpu(gpu.KEPT, "H100", toy=True)
    gpu.check_gpu(gpu.KEPT, "H100")
    gpu.check_gpu(Path("elsewhere.json"), None, toy=True)


def test_wrong_arguments_are_refused(gpu, capsys, tmp_path):
    for arguments, message in (
        (["--only", "loops,loop"], "--only must be of environment, kernels,"),
        (["--arms", "fixed,shrunk"], "--arms must be of fixed, grown, fixed-one-gpu, grown-from-128, got shrunk"),
    ):
        with pytest.raises(SystemExit, match="2"):
            gpu.parsed(arguments)
        assert message in capsys.readouterr().err
    other = tmp_path / "other.json"
    for text in ("{", "[]", '{"phases": 3, "toy": false}', '{"phases": {}, "toy": true}'):
        other.write_text(text)
        with pytest.raises(SystemExit, match=r"other.json must be new or a result of this benchmark without --toy"):
            gpu.read(other, toy=False)
    assert gpu.read(other, toy=True) == {"phases": {}, "toy": True}
    assert gpu.read(tmp_path / "none.json", toy=False) == {"phases": {}}


# A result of a machine that has no git.

CLEAN = {"revision": "a" * 40, "changed": False}


@pytest.fixture
def measured(gpu, tmp_path, monkeypatch):
    """A result of the code here, that does not know its revision."""
    code = {"git": None, "code_sha256": gpu.provenance()["code_sha256"]}
    monkeypatch.setattr(importlib.import_module("gpu_job"), "revision", lambda: CLEAN)
    phases = {
        "loops": {"found": {"x": 1}, "error": None, "seconds": 1.0, **code},
        "headline": {"found": {"runs": [{"seed": 0, **code}]}, "error": None, "seconds": 1.0, **code},
    }
    content = {"environment": {"gpu": "H100", "torch": "2.11.0", "git": None}, "toy": False, "phases": phases}
    (tmp_path / "there.json").write_text(json.dumps(content))
    return tmp_path / "there.json"


def test_a_result_of_the_code_here_is_kept_with_its_revision(gpu, measured, tmp_path):
    gpu.keep(measured, tmp_path / "here.json")
    kept = json.loads((tmp_path / "here.json").read_text())
    assert kept["environment"]["gpu"] == "H100"
    assert [phase["git"] for phase in kept["phases"].values()] == [CLEAN, CLEAN]
    assert kept["phases"]["headline"]["found"]["runs"][0]["git"] == CLEAN


def test_a_result_of_an_older_revision_is_not_kept(gpu, measured, tmp_path):
    """A clean one, with other code."""
    content = json.loads(measured.read_text())
    for phase in content["phases"].values():
        phase |= {"git": CLEAN, "code_sha256": "0" * 64}
    measured.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="--keep must name a result of the code here, got loops of other code"):
        gpu.keep(measured, tmp_path / "here.json")


def test_what_was_kept_before_stays(gpu, measured, tmp_path):
    gpu.keep(measured, tmp_path / "here.json")
    content = json.loads(measured.read_text())
    content["phases"] = {"gpt": content["phases"].pop("loops")}
    content["environment"]["gpu"] = "H200"
    measured.write_text(json.dumps(content))
    gpu.keep(measured, tmp_path / "here.json")
    kept = json.loads((tmp_path / "here.json").read_text())["phases"]
    assert {name: phase["gpu"] for name, phase in kept.items()} == {"loops": "H100", "headline": "H100", "gpt": "H200"}


def test_phases_of_two_cards_are_told_as_such(words):
    environment = {"gpu": "H200", "torch": "2.13"}
    phases = {
        name: {"error": None, "gpu": gpu} for name, gpu in (("loops", "H100"), ("gpt", "H200"), ("probe", "H100"))
    }
    text = words.where({"environment": environment, "phases": phases})
    assert text == f"H100, torch 2.13: {words.listed(['loops', 'probe'])}. H200, torch 2.13: {words.listed(['gpt'])}."


def test_results_without_micro_batches_or_rates_have_words(words):
    found = {"batch_size": 4096, "memory_bytes": 2e9, "micro_batch_size": None, "refused": False}
    assert words.memory(found) == "4,096 fits within 2.0 GB, whole"
    found = {"sizes": {"128": {"ratio": None}}, "seconds": {"probe": 1.0, "sweep": 2.0}}
    assert words.probe(found) == "memory ran out at the first size, so no rate is compared"


def test_a_result_of_other_code_is_not_kept(gpu, measured, tmp_path):
    content = json.loads(measured.read_text())
    content["phases"]["headline"]["found"]["runs"][0]["code_sha256"] = "0" * 64
    measured.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match="--keep must name a result of the code here, got"):
        gpu.keep(measured, tmp_path / "here.json")
    with pytest.raises(SystemExit, match=r"--keep must name a result of this benchmark, got .*none.json"):
        gpu.keep(tmp_path / "none.json", tmp_path / "here.json")
    assert not (tmp_path / "here.json").exists()


def test_what_is_kept_is_of_known_code_on_a_gpu(gpu):
    found = json.loads(gpu.KEPT.read_text()) if gpu.KEPT.exists() else {"toy": False, "phases": {}}
    runs = found["phases"].get("headline", {}).get("found", {}).get("runs", [])
    assert all(each["git"]["changed"] is False for each in [*found["phases"].values(), *runs])
    assert not found["toy"]
    assert all(run["gpu"] for run in runs)


def test_a_machine_without_git_has_no_revision(scripts, monkeypatch, tmp_path):
    paired = scripts("paired")
    monkeypatch.setattr(paired, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert paired.revision() is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert paired.revision() is None


# Loops.


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_both_loops_train_an_epoch_in_turns_at_one_size_after_another(scripts, speed, tmp_path):
    loops = scripts("gpu_loops")
    here = job(scripts, tmp_path)
    configs = {size: speed.config_of(here, "small_cnn", speed.PLAIN, [size]) for size in (8, 16)}
    with loops.workers(configs) as sides:
        for size, pairs in ((8, 2), (16, 3)):
            found = loops.in_turns(sides, size, 4 * size, pairs)
            assert (found["rounds"], found["pairs"], found["bound"], found["samples"]) == (pairs, pairs, 0.97, 4 * size)
            ours, theirs = ([seconds for (seconds,) in found[f"{side}_seconds"]] for side in ("ours", "theirs"))
            ratios = [by_hand / own for own, by_hand in zip(ours, theirs, strict=True)]
            assert found["ratio"]["median"] == pytest.approx(statistics.median(ratios))
            assert found["samples_per_second"]["ours"] == pytest.approx(4 * size / statistics.median(ours))
        with pytest.raises(RuntimeError, match="the loop ours: ArgumentError: `batch_size` must be at most the 4 sa"):
            loops.in_turns(sides, 8, 4, 1)
        with pytest.raises(RuntimeError, match="the process of the loop ours ended with 1"):
            loops.in_turns(sides, 8, 32, 1)


# The headline.


def test_arms_are_the_papers_at_their_length(scripts, training, tmp_path):
    here = job(scripts, tmp_path, full=True)
    for arm, updates, warm_up in (
        ("fixed", 39_000, False),
        ("grown", 1_860, True),
        ("fixed-one-gpu", 39_000, False),
        ("grown-from-128", 15_080, False),
    ):
        config, option = training.config_of_arm(here, arm, 3)
        assert (config.plan(50_000).updates, config.epochs, config.seed, option) == (updates, 100, 3, "auto")
        assert config.lr_schedule.startswith("warmup:4:0.125+") is warm_up
        assert config.evaluate_every == "10 epochs"
    assert [training.config_of_arm(here, arm, 0)[0].lr for arm in training.ARMS] == [0.1, 0.8, 0.01, 0.01]


def test_every_network_and_data_set_has_its_arms(scripts, training, tmp_path):
    for network in ("resnet20", "vgg19_bn"):
        for data_set in ("cifar10", "cifar100"):
            here = job(scripts, tmp_path, "--network", network, "--data-set", data_set, full=True)
            for arm in training.ARMS:
                config, _ = training.config_of_arm(here, arm, 0)
                assert (config.model, config.task) == (network, data_set)


def test_an_arm_takes_the_option_that_was_fastest_near_its_first_batch_size(scripts, training, tmp_path):
    def sizes(small, large):
        return {"settings": {}, "sizes": {"128": rated(small), "1024": rated(large)}}

    options = {"plain": sizes(1.0, 2.0), "compile": sizes(3.0, 1.0), "graphs": {"error": "no"}}
    former = {"throughput": {"found": {"networks": {"resnet20": options}}}}
    here = job(scripts, tmp_path, full=True, former=former)
    config, option = training.config_of_arm(here, "fixed", 0)
    assert (option, config.compile, config.channels_last) == ("compile", True, False)
    config, option = training.config_of_arm(here, "grown", 0)
    assert (option, config.compile) == ("plain", False)
    elsewhere = {"throughput": {**former["throughput"], "gpu": "another card"}}
    there = job(scripts, tmp_path, full=True, former=elsewhere)
    assert training.config_of_arm(there, "fixed", 0)[1] == "auto"
    given = job(scripts, tmp_path, "--option", "bf16", full=True, former=former)
    assert training.config_of_arm(given, "fixed", 0)[0].precision == "bf16"


def run(arm, seed, seconds, accuracy, *, gpu="H100", rate=100.0):
    head = {"network": "resnet20", "data_set": "cifar10", "arm": arm, "epochs": 100, "seed": seed}
    values = {"train_seconds": seconds, "whole_seconds": seconds + 10, "test_accuracy": accuracy, "gpu": gpu}
    return {**head, **values, "samples_per_second": {"128": rate}, "diverged": False}


def test_seeds_are_paired_and_have_an_interval_from_three_on(training, words):
    runs = [run("fixed", seed, 100.0 + seed, 0.9) for seed in range(3)]
    runs += [run("grown", seed, 50.0, 0.89 + 0.001 * seed, rate=300.0) for seed in range(2)]
    (two,) = training.told(runs)["against"]
    assert (two["n"], two["seconds_ratio"]) == (2, {"median": pytest.approx(2.01), "low": None, "high": None})
    assert two["accuracy_difference"]["mean"] == pytest.approx(-0.0095)
    assert two["ceiling"] == pytest.approx(3.0)
    assert words.sentence(two) == (
        "resnet20 on cifar10, 100 epochs, grown against fixed: 2.01x less time, accuracy -0.95 points, n = 2; the "
        "ceiling, the ratio of samples per second, is 3.00x where 6.25x is claimed"
    )
    (three,) = training.told([*runs, run("grown", 2, 50.0, 0.892, rate=300.0)])["against"]
    assert three["n"] == 3
    assert three["seconds_ratio"]["low"] < 2.02 < three["seconds_ratio"]["high"]
    assert " [" in words.sentence(three)


def test_runs_of_another_card_are_no_pair(training):
    runs = [run("fixed", 0, 100.0, 0.9), run("grown", 0, 10.0, 0.9, gpu="A100")]
    assert training.told(runs) == {"runs": runs, "against": []}


def test_runs_of_other_code_or_options_are_no_statistic(training, words):
    runs = [run("fixed", 0, 100.0, 0.9) | {"code_sha256": "a"}, run("grown", 0, 50.0, 0.9) | {"code_sha256": "b"}]
    assert training.told(runs)["against"] == []
    runs = [run(arm, seed, 100.0, 0.9) | {"option": option} for arm in ("fixed", "grown")
            for seed, option in ((0, "plain"), (1, "compile"), (2, "compile"))]  # fmt: skip
    against = training.told(runs)["against"]
    assert [(each["n"], each["options"]) for each in against] == [
        (1, ["plain", "plain"]), (2, ["compile", "compile"])
    ]  # fmt: skip
    assert "n = 2, options compile against compile" in words.sentence(against[1])


def test_a_seed_that_was_begun_is_gone_on_with(scripts, training, tmp_path):
    """Only the arm that is not there is trained; one of another card or of other code counts as not there."""
    here, code = job(scripts, tmp_path, full=True), {"code_sha256": scripts("gpu_job").provenance()["code_sha256"]}
    done = run("fixed", 0, 1.0, 0.9, gpu=None) | code
    arms = ["fixed", "grown"]
    assert training.missing([done], here, arms, 0, gpu=None) == ["grown"]
    assert training.missing([done], here, arms, 0, gpu="H100") == arms
    assert training.missing([done | {"code_sha256": "0"}], here, arms, 0, gpu=None) == arms
    assert training.joined({"runs": [done]}, {"runs": [run("grown", 0, 2.0, 0.9)]})["against"] == []


def test_a_claim_that_is_reached_needs_no_ceiling(training, words):
    runs = [run("fixed", 0, 100.0, 0.9), run("grown", 0, 10.0, 0.9)]
    assert words.sentence(training.told(runs)["against"][0]).endswith("10.00x less time, accuracy +0.00 points, n = 1")


def test_the_next_seed_is_the_first_that_is_not_complete(scripts, training, tmp_path):
    here = job(scripts, tmp_path, full=True)
    arms = ["fixed", "grown"]
    assert training.next_seed([], here, arms) == 0
    runs = [run("fixed", 0, 1.0, 0.9), run("grown", 0, 1.0, 0.9), run("fixed", 1, 1.0, 0.9)]
    assert training.next_seed(runs, here, arms) == 1
    assert training.next_seed(runs, here, ["fixed"]) == 2


# A language model.


def test_the_best_constant_batch_is_the_first_at_the_ramps_loss(training):
    done = {
        "ramp": {"train_seconds": 10.0, "test_loss": 2.0, "losses": [[5.0, 3.0], [10.0, 2.0]]},
        "constant 8": {"losses": [[6.0, None], [12.0, 2.0], [18.0, 1.9]]},
        "constant 16": {"losses": [[4.0, 3.0], [9.0, 2.1]]},
        "constant 32": {"error": "left out"},
    }
    found = training.with_best(done)
    assert (found["best_constant"], found["seconds_ratio"], found["n"]) == ("constant 8", 1.2, 1)
    del done["constant 8"]
    assert training.with_best(done)["best_constant"] is None
    assert training.with_best({})["runs"] == {}


# The whole script.


def whole(folder, *arguments, device="cpu"):
    """The script at its smallest; returns what it wrote."""
    (folder / "input.txt").write_text("Some text that repeats itself, and then some more. " * 400)
    few = ["--toy", "--device", device, "--data", str(folder / "input.txt"), "--out", str(folder / "gpu.json")]
    subprocess.run([*SCRIPT, *few, *arguments], cwd=ROOT, check=True)
    return json.loads((folder / "gpu.json").read_text())


def check_phases(gpu, found, *, graphs):
    """Every phase found something, without an error in any case."""
    assert list(found["phases"]) == [name for name, phase in gpu.PHASES.items() if not phase.alone]
    for name, phase in found["phases"].items():
        assert phase["error"] is None, name
        assert phase["found"], name
        assert "error" not in json.dumps(phase["found"]), name
    phases = {name: phase["found"] for name, phase in found["phases"].items()}
    modes = ["eager", "compiled", *(["graphs"] if graphs else [])]
    assert list(phases["loops"]) == [f"small_cnn, {mode}, batch 8" for mode in modes]
    assert {of["pairs"] for of in phases["loops"].values()} == {2}
    assert len(phases["throughput"]["networks"]["small_cnn"]) == (7 if graphs else 6)
    assert phases["throughput"]["bytes_of_a_sample"]["small_cnn"]["float32"] > 1e4
    assert len(phases["loaders"]) == 3
    assert list(phases["probe"]["sizes"]) == ["8", "16"]
    assert phases["memory"]["samples_trained_on"] == 4096
    assert phases["memory"]["micro_batch_size"] < 4096
    assert list(phases["gpt"]["runs"]) == ["ramp", "constant 2", "constant 6"]


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    return folder, whole(folder)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_phase_runs_on_a_cpu(gpu, on_the_cpu):
    check_phases(gpu, on_the_cpu[1], graphs=False)


@pytest.mark.gpu
def test_every_phase_runs_on_a_gpu(gpu, tmp_path):
    found = whole(tmp_path, device="cuda")
    check_phases(gpu, found, graphs=True)
    assert found["phases"]["memory"]["found"]["refused"].startswith("ArgumentError: `micro_batch_size` must be given")
    kernels = next(iter(found["phases"]["kernels"]["found"].values()))
    assert kernels["launches"] > 10
    assert 0 <= kernels["idle_share"] < 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_was_found_is_told_on_the_page(words, on_the_cpu):
    found = copy.deepcopy(on_the_cpu[1])
    for (page, marker), text in words.gpu(found).items():
        assert f"<!-- {marker} -->" in page.read_text()
        assert "|" not in text
        if marker not in ("gpu headline", "gpu compiled"):
            assert "not measured" not in text, marker
    assert words.gpu(found)[words.ROOT / "docs" / "gpu.md", "gpu headline"] == "not measured yet"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_phase_is_replaced_and_seeds_are_appended(on_the_cpu):
    """The file has all phases but the headline; two calls add a seed each, and the others stay."""
    folder, before = on_the_cpu
    (folder / "input.txt").unlink()
    few = ["--toy", "--device", "cpu", "--out", str(folder / "gpu.json"), "--only", "headline"]
    for seed in range(2):
        subprocess.run([*SCRIPT, *few], cwd=ROOT, check=True)
        found = json.loads((folder / "gpu.json").read_text())
        runs = found["phases"]["headline"]["found"]["runs"]
        assert [(each["arm"], each["seed"]) for each in runs] == [
            (arm, number) for number in range(seed + 1) for arm in ("fixed", "grown")
        ]
        assert {name: of for name, of in found["phases"].items() if name != "headline"} == before["phases"]
    (against,) = found["phases"]["headline"]["found"]["against"]
    assert (against["n"], against["seconds_ratio"]["low"]) == (2, None)
    assert runs[1]["samples_per_second"].keys() == {"32", "64", "128", "256", "512"}
