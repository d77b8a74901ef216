"""Puts a finished comparison into the docs: `python benchmarks/readme.py runs/demo`, after `make demo`.

The folder's name says which: `demo`, or one of the others in COMMANDS, after its command with `--out runs/NAME`. Copies
compare.json to benchmarks/results and the demo's picture to docs/img, and writes the table and the sentences between
the markers of its page (README.md, or the one in PAGES) and of docs/reproduction.md from that file, so that no figure
is typed by hand. Without a folder it writes them anew from the files in benchmarks/results.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from gpu_words import gpu
from paired import check_clean

from adabatch.lab.comparison import Comparison
from adabatch.lab.report.scaling.words import told as estimate_words
from adabatch.lab.report.words import listed, plural
from adabatch.lab.scaling import Estimate
from adabatch.lab.study.statistics import paired_ratio

ROOT = Path(__file__).parents[1]
NAMES = {
    "fixed-small": "`fixed-small`",
    "fixed-large": "`fixed-large`, LR scaled",
    "adaptive": "`adaptive`: growing, LR coupled",
    "uncoupled": "`uncoupled`: growing, LR not coupled",
}

COMMANDS = {
    "demo": "make demo",
    "cifar10-alexnet": (
        "adabatch compare cifar10 --preset adabatch --model alexnet --batch-size 64 --max-batch-size 1024 --every 3 "
        "--lr-schedule step:0.375:3 --epochs 15 --seeds 3 --threads 1 --target 0.6 --arm fixed-small --arm adaptive "
        "--arm fixed-large"
    ),
    "cifar10-resnet20": (
        "adabatch compare cifar10 --preset adabatch --model resnet20 --every 1 --lr-schedule step:0.375:1 --epochs 5 "
        "--seeds 3 --threads 1 --target 0.5 --arm fixed-small --arm adaptive --arm fixed-large"
    ),
}


PAGES = {"cifar10-resnet20": "docs/recipes.md"}


def sizes(arm: dict[str, Any]) -> str:
    """The arm's batch sizes in short."""
    first, last = arm["batch_sizes"][0], arm["batch_sizes"][-1]
    return f"{first:,}" if first == last else f"{first:,} to {last:,}"


def table(compare: dict[str, Any]) -> str:
    """One row per arm."""
    lines = [
        "| | batch size | updates | test accuracy, % | against small, points | training time | faster |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = Comparison.of_json(compare)
    for arm in compare["arms"]:
        accuracy, seconds = arm["test_accuracy"], found.seconds(found.arm(arm["name"]))
        took = f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.2f}"
        against = compare["against_fixed_small"].get(arm["name"])
        difference = time = ""
        if against is not None:
            points = {key: 100 * value for key, value in against["accuracy_difference"].items()}
            difference = f"{points['mean']:+.2f} [{points['low']:+.2f}, {points['high']:+.2f}]"
            ratio = against["seconds_ratio"]
            time = f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"
        lines.append(
            f"| {NAMES[arm['name']]} | {sizes(arm)} | {arm['updates']:,} | {100 * accuracy['mean']:.1f} ± "
            f"{100 * accuracy['std']:.1f} | {difference} | {took} s | {time} |"
        )
    return "\n".join(lines)


def words(compare: dict[str, Any], name: str, page: Path) -> str:
    """What the figures are, for a page."""
    up = "../" * (len(page.relative_to(ROOT).parts) - 1)
    versions, arm = compare["versions"], compare["arms"][0]
    machine = f"{versions['device_name']}, {versions['threads']} thread, torch {versions['torch']}"
    n = arm["test_accuracy"]["n"]
    rare = 1 - 0.05 ** (1 / n)  # of runs, that none of n shows with 5 %
    return (
        f"{n} seeds, {machine}. Accuracy: mean ± standard deviation over seeds; differences and\n"
        f"ratios of times are paired by seed, with 95 % intervals; training time: the small batch's median, and that\n"
        f"divided by the ratio. Differences are in absolute points, over seeds, on one fixed test set; the worst seed\n"
        f"of `adaptive` is {worst(compare, 'adaptive'):+.2f} from the small batch's.\n"
        f"{n} seeds cannot show rare failures: where none of {n} runs fails, up to {100 * rare:.0f} % "
        f"may. Made by\n`{COMMANDS[name]}`;\nthe file is [{result(name)}]({up}benchmarks/results/{result(name)})."
    )


def worst(compare: dict[str, Any], name: str) -> float:
    """The difference of accuracies in points of the seed in which it is lowest."""
    values: dict[str, list[float]] = {arm["name"]: arm["test_accuracy"]["values"] for arm in compare["arms"]}
    return 100 * min(ours - theirs for ours, theirs in zip(values[name], values["fixed-small"], strict=True))


def result(name: str) -> str:
    """The name of the result file."""
    return f"{name.replace('-', '_')}.json"


def claims(compare: dict[str, Any]) -> dict[str, str]:
    """The cells of docs/reproduction.md."""
    n = compare["arms"][0]["test_accuracy"]["n"]
    against = compare["against_fixed_small"]

    def points(name: str) -> str:
        found = {key: 100 * value for key, value in against[name]["accuracy_difference"].items()}
        interval = f"[{found['low']:+.2f}, {found['high']:+.2f}]"
        return f"{found['mean']:+.2f} points {interval}, worst seed {worst(compare, name):+.2f}, n = {n}"

    ratio = against["adaptive"]["seconds_ratio"]
    found = {name: points(name) for name in against}
    found["adaptive seconds"] = f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}], n = {n}"
    return found


def put(path: Path, marker: str, text: str) -> None:
    """Replaces what stands between `<!-- marker -->` and `<!-- end -->`."""
    pattern = re.compile(rf"(<!-- {marker} -->).*?(<!-- end -->)", re.DOTALL)
    page, count = pattern.subn(lambda found: found[1] + text + found[2], path.read_text())
    if not count:
        raise SystemExit(f"{path} has no marker <!-- {marker} -->")
    path.write_text(page)


def blocks(compare: dict[str, Any], name: str) -> dict[tuple[Path, str], str]:
    """What stands between which markers of which page."""
    page = ROOT / PAGES.get(name, "README.md")
    found = {(page, name): f"\n{table(compare)}\n\n{words(compare, name, page)}\n"}
    for arm, text in claims(compare).items():
        found[ROOT / "docs" / "reproduction.md", f"{name} {arm}"] = text
    return found


def points(found: dict[str, Any]) -> str:
    """A difference of accuracies with its interval."""
    mean, low, high = (f"{100 * found[key]:+.2f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def large_batches(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """The ablation: the table of docs/large-batches.md and the cells of docs/reproduction.md."""
    heads = ("batch sizes", "updates", "test accuracy, %", "against small, points", "against akiba, points", "faster")
    lines = [f"| | {' | '.join(heads)} |", "|" + " --- |" * 7]
    seconds = {name: arm["seconds"]["values"] for name, arm in found["arms"].items()}
    for name, arm in found["arms"].items():
        accuracy, sizes = arm["test_accuracy"], ", ".join(f"{size:,}" for size in arm["batch_sizes"])
        against = ["" if name == other else points(arm[f"against_{other}"]) for other in ("small", "akiba")]
        spread = f"{100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f}"
        ratio = paired_ratio(seconds["small"], seconds[name])
        faster = "" if name == "small" else f"{ratio.median:.2f}x [{ratio.low:.2f}, {ratio.high:.2f}]"
        cells = [name, sizes, f"{arm['updates']:,}", spread, *against, faster]
        lines.append(f"| {' | '.join(cells)} |")
    plain, akiba = found["arms"]["plain"], found["arms"]["akiba"]
    searched = "; ".join(
        f"{int(size):,}: {points(tried['against_small'])}" for size, tried in found["searched"].items()
    )
    n = plain["test_accuracy"]["n"]
    page, rows = ROOT / "docs" / "large-batches.md", ROOT / "docs" / "reproduction.md"
    cell = (
        f"{found['task']}, ResNet-20, batch {found['large_batch']:,}, n = {n}: against the small batch "
        f"{points(plain['against_small'])} points plain, {points(akiba['against_small'])} with all parts"
    )
    return {
        (page, "large-batches"): "\n" + "\n".join(lines) + "\n",
        (page, "searched"): f"{searched} points, n = {n}",
        (rows, "large-batches"): cell,
    }


def performance(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """Predicted against measured seconds on this machine: the table of docs/plan.md."""
    lines = ["| network | processes | batch size | measured, to one process | predicted | error |", "|" + " --- |" * 6]
    for network, of in found["networks"].items():
        for point in of["points"]:
            if not point["held_out"]:
                continue
            ratios = [f"{point[f'{kind}_ratio']:.2f}" for kind in ("measured", "predicted")]
            if point["processes"] == 1:
                ratios = [f"{1000 * point[f'{kind}_seconds']:.3g} ms" for kind in ("measured", "predicted")]
            error = f"{100 * (point['predicted_over_measured'] - 1):+.0f} %"
            cells = [network, str(point["processes"]), f"{point['batch_size']:,}", *ratios, error]
            lines.append(f"| {' | '.join(cells)} |")
    largest = max(of["largest_error"] for of in found["networks"].values())
    page = ROOT / "docs" / "plan.md"
    return {
        (page, "performance"): "\n" + "\n".join(lines) + "\n",
        (page, "largest error"): f"{100 * largest:.0f} %",
    }


def published(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """The model against trainings in print: tables of docs/plan.md and cells of docs/reproduction.md."""
    page, rows = ROOT / "docs" / "plan.md", ROOT / "docs" / "reproduction.md"
    minutes, four = found["minutes_on_1024"], found["speedup_on_four"]
    needed = 1000 * four["overhead_that_would_explain_it"]

    def inputs(of: dict[str, Any]) -> str:
        lines = ["| input | value | source | sensitivity |", "| --- | --- | --- | --- |"]
        for name, one in of["inputs"].items():
            recalled = ", recalled" if one["recalled"] else ""
            cells = [name.replace("_", " "), f"{one['value']:.4g}", one["source"] + recalled]
            lines.append(f"| {' | '.join(cells)} | {of['sensitivity'][name]:+.2f} |")
        return "\n" + "\n".join(lines) + "\n"

    told = f"{minutes['predicted']:.1f} minutes for {minutes['published']:.0f}, {100 * minutes['error']:+.0f} %"
    gain = f"{four['predicted']:.2f}x"
    return {
        (page, "published minutes"): told,
        (page, "inputs of minutes"): inputs(minutes),
        (page, "published speedup"): f"{gain}, where {four['published']}x is published",
        (page, "overhead"): f"{needed:.0f} ms",
        (page, "inputs of speedup"): inputs(four),
        (rows, "published minutes"): told,
        (rows, "published speedup"): gain,
    }


VERDICTS = {
    "holds": "shown in small",
    "does not hold": "not shown: we find otherwise",
    "cannot tell": "not shown: the intervals cannot tell",
}


def inefficiency(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """A finding of the fourth paper: the last three cells of its row in docs/reproduction.md."""
    name, train = found["part"], found["verdicts"]["train"]
    figure = f"{FINDINGS[name](train)}; n = {found['n']}"
    verdict, other = VERDICTS[train["verdict"]], VERDICTS[found["verdicts"]["test"]["verdict"]]
    verdict += "" if other == verdict else f"; by the test loss {other}"
    link = f"[inefficiency_{name}](../benchmarks/results/inefficiency_{name}.json)"
    return {(ROOT / "docs" / "reproduction.md", f"inefficiency {name}"): f"{figure} | {link} | {verdict}"}


def estimated(value: dict[str, Any]) -> str:
    """A quantity with its interval."""
    return estimate_words(Estimate.of_json(value))


def three_regimes(train: dict[str, Any]) -> str:
    """Part a: borders by the fit, and what is told between neighbouring batch sizes."""
    tuned = train["rules"]["tuned"]
    words = {"linear": "linearly", "sub-linear": "sub-linearly", "not at all": "not at all"}
    parts = []
    for regime, word in words.items():
        steps = [row for row in tuned["slopes"] if row["regime"] == regime]
        if steps:
            count = f"{len(steps)} {plural('doubling', len(steps))}"
            parts.append(f"{word} in {count} between {steps[0]['from']:,} and {steps[-1]['to']:,}")
    of = tuned["borders"]
    borders = f"perfect scaling ends at {estimated(of['batch_at_20_percent_more_samples'])}, stagnation begins at "
    borders += estimated(of["stagnation_batch"])
    told = f"updates fall {listed(parts)}" if parts else "of no doubling is it told which of the three"
    known = [row for row in tuned["slopes"] if row["slope"]["middle"] is not None]
    ends = [f"{interval(row['slope'])} from {row['from']:,} to {row['to']:,}" for row in (known[0], known[-1])]
    return f"Fashion-MNIST, LR and momentum tuned: {borders}; the slope is {', '.join(ends)}; {told}"


def interval(found: dict[str, float]) -> str:
    """A middle with its interval, which may lie below 0."""
    return f"{found['middle']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def lr_rules(train: dict[str, Any]) -> str:
    """Part b: the batch sizes at which a rule needs fewer and more updates."""

    def sizes(of: dict[str, Any], which: str) -> str:
        return listed([f"{size:,}" for size in of[f"{which}_updates_at"]]) or "none"

    rules = [
        f"{rule} needs fewer updates than a constant LR at batch sizes {sizes(train[rule], 'fewer')}, more at "
        f"{sizes(train[rule], 'more')}"
        for rule in ("linear", "sqrt")
    ]
    return f"Fashion-MNIST: {'; '.join(rules)}"


def network_against_size(train: dict[str, Any]) -> str:
    """Part c: how far critical batch sizes lie apart."""
    networks, shares = (estimated(train[f"largest_ratio_over_{name}"]) for name in ("networks", "shares"))
    return f"digits, 3 networks, shares 1, 0.5, 0.25: the largest ratio over networks {networks}, over shares {shares}"


def difficulty(train: dict[str, Any]) -> str:
    """Part d: the critical batch sizes."""
    found = {NAMED[name]: estimated(value) for name, value in train["critical_batch"].items()}
    return f"critical batch sizes: {listed([f'{name} {value}' for name, value in found.items()])}"


def kinds(train: dict[str, Any]) -> str:
    """Part e: the critical batch sizes, and the ratios of images to them."""
    parts = []
    for kind in ("text", "camvid"):
        ratios = [f"{NAMED[key.split(' over ')[0]]} {estimated(of)}" for key, of in train[kind]["ratios"].items()]
        parts.append(f"{NAMED[kind]} {estimated(train[kind]['critical_batch'])}, over it {listed(ratios)}")
    return f"critical batch sizes: {'; '.join(parts)}"


NAMED = {
    "mnist": "MNIST",
    "fashion": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "text": "LSTM on tiny Shakespeare",
    "camvid": "segmentation of CamVid",
}
FINDINGS = {"a": three_regimes, "b": lr_rules, "c": network_against_size, "d": difficulty, "e": kinds}


def workers(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """Growth on two processes: cells of docs/reproduction.md, and the sentence of docs/distributed.md."""
    runs = found["runs"]
    ratio = runs["comparison"]["against_fixed_small"]["adaptive"]["seconds_ratio"]
    n = runs["comparison"]["arms"][0]["test_accuracy"]["n"]
    time = f"{ratio['median']:.2f}x [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    accuracy = f"{points(runs['accuracy'])} points"
    rows = ROOT / "docs" / "reproduction.md"
    return {
        (rows, "workers"): f"AlexNet, 32 to 512, two processes: time {time}, accuracy {accuracy}, n = {n}",
        (ROOT / "docs" / "distributed.md", "workers"): f"{time} less time, accuracy {accuracy} from the small batch's, "
        f"{n} seeds",
    }


def worker_bytes(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """Bytes of gradients of an epoch, first and last, with and without compression: docs/distributed.md."""
    by_arm = found["runs"]["bytes_by_epoch"]
    samples = found["samples"]["train"]

    def told(name: str) -> str:
        sent = [f"{count / samples / 1024:,.0f}" for count in (by_arm[name][0], by_arm[name][-1])]
        return sent[0] if sent[0] == sent[1] else " to ".join(sent)

    text = f"{told('fixed-small')} KiB for each sample at the small batch, {told('adaptive')} as it grows, "
    return {(ROOT / "docs" / "distributed.md", "worker bytes"): f"{text}{told('compressed')} with bf16"}


def worker_speeds(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """Samples per second of each network on two processes by batch size: the table of docs/distributed.md."""
    sizes = [point["batch_size"] for point in next(iter(found["speeds"].values()))["curve"]]
    lines = [f"| network | {' | '.join(f'{size:,}' for size in sizes)} | gain |", "|" + " --- |" * (len(sizes) + 2)]
    for network, probe in found["speeds"].items():
        gain = probe["curve"][-1]["against_first"]
        rates = [f"{point['samples_per_second']['median']:,.0f}" for point in probe["curve"]]
        told = f"{gain['median']:.2f}x [{gain['low']:.2f}, {gain['high']:.2f}]"
        lines.append(f"| {' | '.join([network, *rates, told])} |")
    return {(ROOT / "docs" / "distributed.md", "worker speeds"): "\n" + "\n".join(lines) + "\n"}


def held(of: dict[str, Any], key: str) -> str:
    """How many of how many, as a share with its interval."""
    low, high = (f"{100 * of[end]:.0f}" for end in ("low", "high"))
    return f"{of[key]} of {of['of']} [{low}, {high}] %"


def known_answers(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """How often intervals hold known answers: sentences of docs/study.md and cells of docs/reproduction.md."""
    sweeps, branches, n = found["sweeps"], found["branches"], found["seeds"]
    ratio = sweeps["median_high_over_low"]
    width = "without an upper end" if ratio is None else f"{ratio:.2f}"
    sweep = f"{held(sweeps['coverage'], 'covered')} of the intervals, {n} seeds each, median high/low {width}"
    shares = branches["share_of_each_study"]
    branch = f"{100 * branches['coverage']:.1f} % of {branches['intervals']:,} intervals in {len(shares)} branchings"
    study, rows = ROOT / "docs" / "study.md", ROOT / "docs" / "reproduction.md"
    return {
        (study, "known answers"): f"{sweep}; {branch}",
        (rows, "known answers"): sweep,
        (rows, "known branches"): branch,
    }


def advice(found: dict[str, Any]) -> dict[tuple[Path, str], str]:
    """How good forecasts were: the sentences of docs/advice.md and a cell of docs/reproduction.md."""
    cases = len(found["cases"])
    verdicts = ", ".join(f"{name} in {count}" for name, count in sorted(found["verdicts"].items()))
    within = [f"intervals of {level} % held {held(found[f'within_{level}'], 'held')}" for level in (80, 95)]
    parts = [f"{cases} cases, {verdicts}", *within]
    if (regret := found["regret"]) is not None:
        told = f"{regret['median']:.2f} in the median, {regret['largest']:.2f} at most"
        parts.append(f"regret {told}, known in {regret['of']} cases")
    harmed = found["harmed"]
    shown = "" if harmed is None else held(harmed, "held")
    parts.append(f"growth that was advised was shown to be slower in {shown}" if shown else "growth was never advised")
    text = "; ".join(parts)
    return {
        (ROOT / "docs" / "advice.md", "advice"): text,
        (ROOT / "docs" / "reproduction.md", "advice"): text,
    }


# Result files whose blocks are made from the file alone.
OTHERS = {"large_batches_digits": large_batches, "performance": performance, "published": published}
OTHERS |= {"workers": workers, "worker_bytes": worker_bytes, "worker_speeds": worker_speeds}
MEASURED = sorted((ROOT / "benchmarks" / "results").glob("inefficiency_*.json"))  # parts that were done
OTHERS |= {path.stem: inefficiency for path in MEASURED}
for made in (known_answers, advice, gpu):
    if (ROOT / "benchmarks" / "results" / f"{made.__name__}.json").exists():
        OTHERS[made.__name__] = made


def main() -> None:
    """Reads the folder named and writes the pages; without one, from the result files that are kept."""
    if len(sys.argv) == 1:
        for name in COMMANDS:
            write(name)
        for name, made in OTHERS.items():
            put_all(made(json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())))
        return
    folder = Path(sys.argv[1])
    name = folder.name
    if name not in COMMANDS:
        raise SystemExit(f"the folder must be named {', '.join(COMMANDS)}, got {name}")
    compare = json.loads((folder / "compare.json").read_text())
    kept = ROOT / "benchmarks" / "results" / result(name)
    check_clean(compare["versions"]["git"], kept)
    shutil.copy(folder / "compare.json", kept)
    if name == "demo":
        shutil.copy(folder / "compare.png", ROOT / "docs" / "img" / "demo.png")
    write(name)


def write(name: str) -> None:
    """Writes what stands between the markers, from the result file."""
    compare = json.loads((ROOT / "benchmarks" / "results" / result(name)).read_text())
    put_all(blocks(compare, name))


def put_all(made: dict[tuple[Path, str], str]) -> None:
    """Writes what stands between the markers."""
    for (page, marker), text in made.items():
        put(page, marker, text)


if __name__ == "__main__":
    main()
