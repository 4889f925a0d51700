"""Fills the tables and figures of README.md and docs/ from the results: python benchmarks/tables.py [--check]

A page names what it wants, and holds it between two comments, which no reader sees:

    <!-- table: eval table none vsf -->   a table, on lines of its own
    <!-- end -->

    <!-- figure: table rows/vsf/both .3f -->0.650<!-- end -->   a number within a sentence

The first word of a table is a function of `TABLES`, the others are its arguments. A figure has a result, the keys that lead to
its number, and its format. Results are the JSON files of benchmarks/results and docs/results, by their names.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from run import RESULTS, ROOT, SUITES

from training.labels import read_labels
from vsf_cli.bench.report import markdown
from vsf_cli.bench.timing import ratios
from vsf_cli.evaluation.statistics import wilson_interval
from vsf_cli.models import FAMILIES, Order
from vsf_cli.toy.judge import STATES
from vsf_cli.toy.networks import NETWORKS

FOLDERS = (RESULTS, ROOT / "docs" / "results")
BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURE = re.compile(r"(<!-- figure: (\S+) (\S+) (\S+) -->).*?(<!-- end -->)")

TITLES = {
    "count-sd3.5-large": "Stable Diffusion 3.5 Large, 1024 px, counted",
    "count-wan-1.3b": "Wan 2.1 1.3B, 81 frames of 832 x 480, counted",
    "embedded": "The built-in image model, timed",
    "embedded-clip": "The built-in video model, timed",
    "cpu-sd3.5-large": "Two blocks of Stable Diffusion 3.5 Large on a CPU, timed",
    "cpu-wan-1.3b": "One block of Wan 2.1 1.3B on a CPU, timed",
    "gpu-sd3.5-large": "Stable Diffusion 3.5 Large on a GPU, timed",
    "gpu-sd3.5-large-compiled": "The same, compiled",
    "gpu-wan-1.3b": "Wan 2.1 1.3B on a GPU, timed",
    "gpu-wan-1.3b-compiled": "The same, compiled",
}

CPU_GOALS = {
    "two blocks of Stable Diffusion 3.5 Large": ("cpu-sd3.5-large", 1.01),
    "a block of Wan 2.1 1.3B": ("cpu-wan-1.3b", 1.005),
    "the built-in images": ("embedded", 1.05),
    "the built-in videos": ("embedded-clip", 1.05),
}


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@cache
def result(name: str) -> Any:
    """The result of that name, from its JSON file."""
    (path,) = (path for folder in FOLDERS if (path := folder / f"{name}.json").is_file())
    return json.loads(path.read_text("utf-8"))


def value_at(report: Any, keys: str) -> Any:
    """The value behind keys, joined by slashes; a key of a list is the `arm`, `name` or `setting` of its entry."""
    for key in keys.split("/"):
        report = entry(report, key) if isinstance(report, list) else report[key]
    return report


def entry(rows: Iterable[Mapping[str, Any]], key: str) -> Mapping[str, Any]:
    """The row of that `arm`, `name` or `setting`."""
    return next(row for row in rows if key in (row.get("arm"), row.get("name"), row.get("setting")))


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    heads = list(head)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (heads, ["---"] * len(heads), *rows))


def spread(value: float, interval: Iterable[float], digits: int = 2) -> str:
    """A value with its interval."""
    return f"{value:.3f} [{', '.join(f'{end:.{digits}f}' for end in interval)}]"


def front() -> str:
    """The README's table: what each method reaches on the built-in models, and what a step costs at full size."""
    images, videos = result("contrast")["rows"], result("video")["rows"]
    costs = result("count-sd3.5-large")["methods"]
    methods = {"none": ("none", "none"), "NASA": ("nasa", "nasa"), "NAG": ("nag", "nag"), "**VSF**": ("vsf", "vsf-bias")}
    rows = []
    for label, (arm, costed) in {**methods, "**VSF with `--keep`**": ("vsf-keep", "vsf-keep")}.items():
        image = entry(images, arm)
        video = next((row for row in videos if row["arm"] == arm), None)
        moving = [f"{video[kind]:.3f}" if video else "" for kind in ("positive", "negative")]
        still = [f"{image[kind]:.3f}" for kind in ("positive", "negative", "rest", "quality")]
        rows.append([label, *still, *moving, f"{entry(costs, costed)['flops_times']:.3f} x"])
    kinds = ["images: object right", "part absent", "rest kept", "quality", "videos: object right", "part absent"]
    return table(["method", *kinds, "FLOPs a step, SD3.5-Large"], rows)


def evaluation(name: str, *arms: str) -> str:
    """A report of `vsf eval`: all its methods, or some."""
    rows = result(name)["rows"]
    chosen = [entry(rows, arm) for arm in arms] if arms else rows
    head = ["method", "object right", "part absent", "both", "quality", "p of both against VSF"]
    return table(head, map(evaluated, chosen))


def evaluated(row: Mapping[str, Any]) -> list[str]:
    """The cells of a method in a report of `vsf eval`."""
    shares = [spread(row[kind], row[f"{kind}_interval"]) for kind in ("positive", "negative")]
    return [row["label"], *shares, f"{row['both']:.3f}", f"{row['quality']:.3f}", p_value(row["both_p"])]


def p_value(value: float | None) -> str:
    """A p-value with one digit; empty for what is tested against."""
    return "" if value is None else f"{value:.1g}"


def families() -> str:
    """What each pipeline of each family does, from the families themselves."""
    head = ["family", "pipeline", "guided attention", "from a text", "`--image`", "`--mask`"]
    rows = []
    for family in FAMILIES.values():
        joint = any(order is not Order.CROSS for order in family.attentions.values())
        kinds = ("cross", "joint")[joint] + (", and text alone" if family.isolated else "")
        for name, uses in family.pipelines.items():
            image = "first frame" if family.video else "is edited" if uses.image == name else "is redrawn"
            image = "several are edited" if uses.several else image
            image = image if uses.image else "with a mask" if uses.mask else "no"
            rows.append([f"`{family.name}`", f"`{name}`", kinds, yes(uses.text), image, yes(uses.mask)])
    return table(head, rows)


def yes(fact: object) -> str:
    return "yes" if fact else "no"


def contrast(name: str, *arms: str) -> str:
    """The same with what must stay."""
    head = ["method", "object right", "part absent", "both", "quality", "rest kept", "all three", "p of all three against VSF"]
    rows = []
    for row in (entry(result(name)["rows"], arm) for arm in arms):
        shares = [spread(row[kind], row[f"{kind}_interval"]) for kind in ("both", "rest", "all")]
        rates = [f"{row[kind]:.3f}" for kind in ("positive", "negative")]
        rows.append([row["label"], *rates, shares[0], f"{row['quality']:.3f}", *shares[1:], p_value(row["all_p"])])
    return table(head, rows)


def auto(chooser: str, other: str, *arms: str) -> str:
    """What a judge chose, by the report of another judge, and beside it by that of the judge itself."""
    rates = ["object right", "part absent", "both", "rest kept", "all three", "quality", "runs"]
    rows = []
    for mine, own in ((entry(result(name)["rows"], arm) for name in (other, chooser)) for arm in arms):
        firsts = [f"{mine[kind]:.3f}" for kind in ("positive", "negative")]
        shares = [spread(mine["both"], mine["both_interval"]), f"{mine['rest']:.3f}", spread(mine["all"], mine["all_interval"])]
        lasts = [f"{mine['quality']:.3f}", f"{own['runs']:.2f}", f"{own['both']:.3f}", f"{own['all']:.3f}"]
        rows.append([mine["label"], *firsts, *shares, *lasts])
    return table(["method", *rates, "by the chooser: both", "by the chooser: all three"], rows)


def by_eye() -> str:
    """What two readers see in pictures that a judge chose, and what the judge saw there."""
    names = {"first": "a reader", "second": "another reader", "chooser": "the judge that chose"}
    head = ["method", "pictures", *(f"{rate}, by {name}" for name in names.values() for rate in ("both", "all three"))]
    rows = []
    for row in result("auto-by-eye")["rows"]:
        rates = (f"{row[f'{name}_{rate}']:.3f}" for name in names for rate in ("both", "all"))
        rows.append([row["label"], str(row["pictures"]), *rates])
    return table(head, rows)


def clips_by_eye() -> str:
    """What two readers see in clips, and what the judge sees that chose some of them."""
    rates = {"positive": "object right", "negative": "part absent", "damaged": "part damaged", "both": "both"}
    readers = {"first": "a reader", "second": "another reader"}
    rows = []
    for row, (reader, name) in product(result("auto-clips-by-eye")["rows"], readers.items()):
        shown = [f"{row[f'{reader}_{rate}']:.3f}" for rate in rates]
        rows.append([row["label"], f"{row['runs']:.2f}", name, *shown, f"{row['chooser_both']:.3f}"])
    return table(["method", "runs", "by", *rates.values(), "both, by the judge that chose"], rows)


def seen_by_eye(seen: list[tuple[bool, str]]) -> list[str]:
    """The cells of what a reader saw: for each image or video whether the object is right, and the state of the part."""
    count, both = len(seen), sum(right and state == "absent" for right, state in seen)
    sums = [sum(right for right, _ in seen), *(sum(state == one for _, state in seen) for one in STATES[1:])]
    shares = [f"{number / count:.2f}" for number in sums]
    return [str(count), *shares, spread(both / count, wilson_interval(both, count))]


def flux_by_eye() -> str:
    """What two readers see in images of the small Flux, unguided and guided."""
    labels = read_labels(ROOT / "docs" / "labels" / "check-flux")
    rows = []
    for (method, title), (reader, shown) in product(
        {"none": "none", "vsf": "VSF in all blocks"}.items(), {"label": "shown", "second": "shown_second"}.items()
    ):
        seen = [(row[shown] == "yes", row[reader]) for row in labels if row["method"] == method]
        name = "a reader" if reader == "label" else "another reader"
        rows.append([title, name, *seen_by_eye(seen)])
    return table(["method", "by", "images", "object right", "part absent", "part damaged", "both"], rows)


def strengths_by_eye() -> str:
    """What readers see in clips at each strength, by their labels."""
    seen: dict[float, list[tuple[bool, str]]] = {}
    for row in read_labels(ROOT / "docs" / "labels" / "train-video"):
        if row["part"] == row["unwanted"]:
            seen.setdefault(float(row["alpha"]), []).append((row["shown"] == "yes", row["label"]))
    rows = []
    for alpha, clips in sorted(seen.items()):
        rows.append([f"{alpha:g}" if alpha else "none", *seen_by_eye(clips)])
    return table(["alpha", "videos", "object right", "part absent", "part damaged", "both"], rows)


def judges() -> str:
    """How far the built-in judges agree with labels by eye, by their cards, and two readers with each other."""
    head = ["judge", "labels", "judge agrees", "on absent or not", "precision of absent, guided"]
    head += ["readers agree", "readers on absent or not"]
    kinds = ("agreement", "absent_agreement", "absent_precision", "readers_agreement", "readers_absent_agreement")
    rows = []
    for name, network in NETWORKS.items():
        card = network.read_card()
        rows.append([f"`{name}`", str(card["labels"]), *(f"{card[kind]:.3f}" for kind in kinds)])
    return table(head, rows)


def judged_states(*names: str) -> str:
    """What built-in judges call the parts that are present, absent or damaged to the eye."""
    head = ["label by eye", *(f"`{name}`: {state}" for name in names for state in STATES)]
    cards = [NETWORKS[name].read_card()["counts"] for name in names]
    return table(head, ([label, *(str(card[label][state]) for card in cards for state in STATES)] for label in STATES))


def chosen(choices: str, report: str) -> str:
    """The best trial of each method's sweep at a quality, and what it gives on the prompts that did not choose it."""
    columns = ["both, on the sweep's prompts", "both, on others", "object right", "part absent", "quality"]
    rows = []
    for name, one in result(choices).items():
        if (best := one["best"]) is None:
            rows.append([name, str(one["trials"]), "none at this quality", "", "", "", ""])
            continue
        row = entry(result(report)["rows"], name)
        rates = [f"{row[kind]:.3f}" for kind in ("positive", "negative", "quality")]
        both = f"{best['both']:.3f}", spread(row["both"], row["both_interval"])
        rows.append([row["label"], str(one["trials"]), *both, *rates])
    return table(["method, with its best numbers", "trials", *columns], sorted(rows, key=lambda row: row[3], reverse=True))


def areas(positive: str, quality: str, *arms: str) -> str:
    """The areas below two fronts of `vsf eval tradeoff`."""
    fronts = [result(positive), result(quality)]
    rows = [
        [fronts[0][arm]["facts"]["label"].partition(" (")[0], searched(fronts[0][arm]["facts"]["space"])]
        + [spread(front[arm]["hypervolume"], front[arm]["hypervolume_interval"], 3) for front in fronts]
        for arm in arms or fronts[0]
    ]
    return table(["method", "searched", "positive against negative", "quality against negative"], rows)


def searched(space: Mapping[str, tuple[float, float]]) -> str:
    """The settings that a sweep searched, with their bounds."""
    return ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in space.items())


def score() -> str:
    """The benchmark of the built-in image model."""
    runs = {name: result("score")[name] for name in ("none", "vsf")}
    rows = [[run["conditions"]["method"], *scored(run["rates"])] for run in runs.values()]
    return table(["method", "object right", "part absent", "part damaged", "both right", "quality"], rows)


def compared(name: str) -> str:
    """Methods that `training.score` compared."""
    rows = [[row["label"], *scored(row), p_value(row["both_p"])] for row in result(name)["rows"]]
    kinds = ["object right", "part absent", "part damaged", "both", "quality", "p of both against VSF"]
    return table(["method", *kinds], rows)


def scored(rates: Mapping[str, Any]) -> list[str]:
    """The cells of a run of the benchmark."""
    shares = [spread(rates[kind], rates[f"{kind}_interval"]) for kind in ("positive", "negative")]
    return [*shares, *(f"{rates[kind]:.3f}" for kind in ("damaged", "both", "quality"))]


def parts() -> str:
    """The same for every part of every object."""
    vsf, none = (result("score")[name]["parts"] for name in ("vsf", "none"))
    rows = [
        [name.replace("/", " / "), str(one["pairs"])]
        + [f"{share:.2f}" for share in (one["positive"], one["negative"], none[name]["negative"])]
        for name, one in vsf.items()
    ]
    return table(["object / part", "pairs", "object right", "part absent", "without guidance"], rows)


def settings(name: str, *arms: str) -> str:
    """The settings that were compared on a dev split, by a report of `vsf eval`: all of them, or some."""
    kinds = {"positive": "object right", "negative": "part absent", "both": "both right", "quality": "quality"}
    kinds |= {"rest": "rest kept", "all": "all three"}
    rows = [entry(result(name)["rows"], arm) for arm in arms] if arms else result(name)["rows"]
    return table(["setting", *kinds.values()], ([row["label"], *(f"{row[kind]:.3f}" for kind in kinds)] for row in rows))


def localise(name: str = "localise") -> str:
    """How well each kind of map finds a part: the area under the ROC curve, and how often the greatest value is on it."""
    scores = result(name)["scores"]
    heads = {
        "share": "`share`",
        "negative": "`logits`, as negative",
        "positive": "`logits`, in the positive prompt",
        "chance": "chance",
    }
    rows = [
        [axis if axis == "all" else f"{axis} {place + 1}"]
        + [f"{(cell := scores[kind][axis][place])['auc']:.3f} / {cell['pointing']:.3f}" for kind in heads]
        for axis in ("step", "block", "all")
        for place in range(len(scores["share"][axis]))
    ]
    return table(["", *heads.values()], rows)


def bench() -> str:
    """A heading, the chart if there is one, and the table of every suite that was run."""
    return "\n" + "\n".join(section(name, RESULTS / f"{name}.json") for name in SUITES if (RESULTS / f"{name}.json").is_file())


def section(name: str, path: Path) -> str:
    """A suite with its heading."""
    image = ROOT / "docs" / "images" / f"bench-{name}.png"
    chart = f"![Bars of the time of each method](images/{image.name})\n\n" if image.is_file() else ""
    return f"### {TITLES[name]}\n\n{chart}{markdown(json.loads(path.read_text('utf-8')))}"


def traffic() -> str:
    """What a step launches, copies and makes on a GPU, and what VSF adds to each block."""
    rows = []
    for title, name in (("Stable Diffusion 3.5 Large", "count-sd3.5-large"), ("Wan 2.1 1.3B", "count-wan-1.3b")):
        report = result(name)
        methods = {row["name"]: row for row in report["methods"]}
        layers = int(report["shape"].split(" layers")[0].split()[-1])
        for row in (
            one for key, one in methods.items() if key in ("none", "vsf-bias", "vsf-keep", "none-folded", "vsf-folded")
        ):
            added = (row["launches"] - methods["none"]["launches"]) / layers
            copied = f"{row['copied_bytes'] / 1e6:.0f}"
            rows.append([title, row["label"], str(row["launches"]), f"{added:+.1f}", copied, str(row["tensors"])])
    return table(["model", "method", "launches a step", "added a block", "MB copied a step", "tensors made a step"], rows)


def counted(*presets: str) -> str:
    """What methods take of the FLOPs without guidance, by model."""
    names = ("vsf", "vsf-keep", "nag", "cfg")
    rows = []
    for preset in presets:
        report = result(f"count-{preset}")
        methods = {row["name"]: row for row in report["methods"]}
        tera = f"{methods['none']['flops'] / 1e12:.1f}"
        rows.append(
            [f"`{preset}`", report["shape"].split(", ", 1)[1], tera, *(f"{methods[name]['flops_times']:.4f}" for name in names)]
        )
    return table(["preset", "transformer", "TFLOP a step, unguided", "VSF", "VSF with `--keep`", "NAG", "CFG"], rows)


def cross_attention() -> str:
    """The cross attention of Wan, timed alone."""
    rows = []
    for row in result("cross-attention")["methods"].values():
        took, added = row["seconds"], row["added"]
        seconds = f"{took['median']:.3f} ({took['low']:.3f} to {took['high']:.3f})"
        rows.append([row["label"], seconds, f"{added['median']:+.2%} ({added['low']:+.2%} to {added['high']:+.2%})"])
    return table(["method", "cross attention, s (quartiles)", "added to a step"], rows)


def cpu_goals() -> str:
    """The goals of a step's CPU time, and what VSF with and without a bias takes: medians of rounds, with their quartiles."""

    rows = []
    for what, (name, goal) in CPU_GOALS.items():
        none, alone, biased = (entry(result(name)["methods"], method)["samples"] for method in ("none", "vsf", "vsf-bias"))
        both = ratios(alone + biased, none + none, "step_cpu")
        medians = (f"{ratios(samples, none, 'step_cpu').median:.3f}" for samples in (alone, biased))
        middle = f"{both.median:.3f} ({both.low:.3f}-{both.high:.3f})"
        rows.append([what, f"{goal:.3f}", middle, *medians, str(len(alone + biased))])
    return table(["CPU time of a step, x none", "goal", "VSF, all rounds (quartiles)", "no bias", "with bias", "rounds"], rows)


def profile(name: str, *operations: str) -> str:
    """What VSF adds to the operations of a step."""
    report = result(name)
    none, vsf = report["none"], report["vsf"]
    whole = sum(none.values())

    def row(label: str, before: float, after: float) -> list[str]:
        return [label, f"{before:.3f} s", f"{after:.3f} s", f"{(after - before) / whole:+.2%}"]

    rows = [row(f"`{name}`", none.get(name, 0.0), vsf.get(name, 0.0)) for name in operations]
    return table(["operation", "no guidance", "VSF", "added to the step"], [*rows, row("all", whole, sum(vsf.values()))])


def batch() -> str:
    """What `vsf batch` costs beside calls of the library."""
    report = result("batch")
    labels = {"calls": "calls of the library", "batch": "`vsf batch`"}
    rows = []
    for name, took in report["seconds"].items():
        label = labels.get(name, f"`vsf batch --batch-size {report['size']}`")
        ratios = sorted(one / bare for one, bare in zip(took, report["seconds"]["calls"], strict=True))
        times = f"{median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        rows.append([label, f"{median(took):.1f}", times, f"{report['items'] / median(took):.1f}"])
    return table(["", "s", "x the calls (range)", "images a second"], rows)


def start_up(part: str) -> str:
    """CPU seconds of commands, or seconds of imports."""
    head = {"cpu_seconds": ("command", "CPU seconds"), "image_imports": ("import in `vsf image`", "seconds")}[part]
    prefix = "vsf " if part == "cpu_seconds" else ""
    return table(head, ([f"`{prefix}{name}`", f"{number:.2f}"] for name, number in result("start-up")[part].items()))


def command_to_file() -> str:
    """The time from command to file, beside the imports alone."""
    report, rows = result("start-up")["command_to_file"], []
    for kind, name in (("clock", "by the clock"), ("cpu", "of the CPU")):
        took, times = report[kind], report[kind]["times"]
        ratio = f"{times['median']:.2f} ({times['low']:.2f} to {times['high']:.2f})"
        rows.append([f"seconds {name}", *(f"{took[one]['median']:.1f}" for one in ("imports", "image")), ratio])
    return table(["", f"`{report['imports']}`", "`vsf image`, built-in model", "ratio (quartiles)"], rows)


def tried() -> str:
    """What was tried for the small parts, in milliseconds."""
    columns = result("tried")["seconds"]
    names = next(iter(columns.values()))
    rows = ([name, *(f"{1000 * column[name]:.1f}" for column in columns.values())] for name in names)
    return table(["ms", *columns], rows)


def measured_on(report: Mapping[str, Any]) -> str:
    """The machine, the versions and the date of a result."""
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    return f"{report['machine']['name']}; {versions}; {report['date']}."


def on_gpu(name: str) -> str:
    """What the methods cost on a GPU, with the conditions."""
    report = result(name)
    settings = ", ".join(f"{key} {value}" for key, value in report["settings"].items() if value is not None)
    rows = []
    for row in report["methods"]:
        times = row["times"]
        ratio = f"{times['median']:.3f} ({times['low']:.3f} to {times['high']:.3f})"
        memory = f"{row['peak_bytes'] / 1e6:.0f} ({row['peak_times']:.3f})"
        rows.append([row["label"], f"{1000 * row['seconds']['median']:.1f}", ratio, memory])
    head = ["method", "ms/step", "x none (quartiles)", "peak MB (x none)"]
    return f"{report['shape']}; {settings}. {measured_on(report)}\n\n{table(head, rows)}"


def gpu_added() -> str:
    """The time of a step on a GPU, without guidance and with VSF, and what VSF adds by operation."""
    profile = result("gpu-h200-calls")["profile"]
    whole = [[f"a step, {name}", f"{took:.1f}"] for name, took in profile["milliseconds"].items()]
    added = [[f"added: {row['operation']}", f"+{row['milliseconds']:.1f}"] for row in profile["added"]]
    return table(["kernels of SD3.5-Large at 1024 px", "ms"], [*whole, *added])


def gpu_calls() -> str:
    """Single calls of attention on a GPU, in microseconds, with their shapes."""
    report = result("gpu-h200-calls")
    shapes = report["shapes"]
    took = ([row["call"], *(str(row["microseconds"][shape] or "") for shape in shapes)] for row in report["calls"])
    sizes = "; ".join(f"{name}: {size}" for name, size in shapes.items())
    return f"Batch {report['batch']}, {report['dtype']}, {report['layout']}; {sizes}.\n\n{table(['µs', *shapes], took)}"


def kernels() -> str:
    """The prototypes of fused kernels beside PyTorch's calls, in microseconds, with the conditions."""
    report = result("gpu-kernels-h200")
    took = {(row["shape"], row["call"]): f"{row['microseconds']:.1f}" for row in report["calls"]}
    calls = dict.fromkeys(row["call"] for row in report["calls"])
    rows = ([call, *(took.get((shape, call), "") for shape in report["shapes"])] for call in calls)
    timing = f"Batch {report['batch']}, {report['dtype']}, {report['negative_tokens']} negative tokens; {report['timing']}."
    worst = max(error for errors in report["relative_error_against_float64"].values() for error in errors.values())
    accuracy = f"The largest relative error against float64 is {worst:.4f}."
    return f"{timing} {accuracy} {measured_on(report)}\n\n{table(['µs', *report['shapes']], rows)}"


TABLES: dict[str, Callable[..., str]] = {
    "front": front,
    "eval": evaluation,
    "auto": auto,
    "by-eye": by_eye,
    "clips-by-eye": clips_by_eye,
    "strengths-by-eye": strengths_by_eye,
    "flux-by-eye": flux_by_eye,
    "judges": judges,
    "judged-states": judged_states,
    "chosen": chosen,
    "areas": areas,
    "score": score,
    "compared": compared,
    "parts": parts,
    "settings": settings,
    "contrast": contrast,
    "families": families,
    "localise": localise,
    "bench": bench,
    "counted": counted,
    "traffic": traffic,
    "cross-attention": cross_attention,
    "cpu-goals": cpu_goals,
    "profile": profile,
    "batch": batch,
    "start-up": start_up,
    "command-to-file": command_to_file,
    "tried": tried,
    "on-gpu": on_gpu,
    "gpu-added": gpu_added,
    "gpu-calls": gpu_calls,
    "kernels": kernels,
}


def filled(page: str) -> str:
    """The page with every table and figure as the results have them."""

    def block(found: re.Match[str]) -> str:
        name, *arguments = found[2].split()
        return f"{found[1]}\n{TABLES[name](*arguments).strip()}\n\n{found[3]}"

    def figure(found: re.Match[str]) -> str:
        return f"{found[1]}{value_at(result(found[2]), found[3]):{found[4]}}{found[5]}"

    return FIGURE.sub(figure, BLOCK.sub(block, page))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; fail if a page is not as it would be written.")
    check = parser.parse_args().check
    stale = {path: text for path in pages() if (text := filled(path.read_text("utf-8"))) != path.read_text("utf-8")}
    if check and stale:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"{names}: not what the results say. Run python benchmarks/tables.py")
    for path, text in stale.items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
