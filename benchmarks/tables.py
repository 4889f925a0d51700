"""Writes the tables of docs/performance.md from benchmarks/results/*.json: python benchmarks/tables.py [--check]"""

import argparse
import json
import sys
from pathlib import Path

from run import RESULTS, ROOT, SUITES

from vsf_cli.bench.report import markdown

PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- results: by benchmarks/tables.py -->\n", "<!-- end of results -->"

TITLES = {
    "count-sd3.5-large": "Stable Diffusion 3.5 Large, 1024 px, counted",
    "count-wan-1.3b": "Wan 2.1 1.3B, 81 frames of 832 x 480, counted",
    "embedded": "The embedded model, timed",
    "embedded-clip": "The embedded model of clips, timed",
    "cpu-sd3.5-large": "Two blocks of Stable Diffusion 3.5 Large on a CPU, timed",
    "cpu-wan-1.3b": "One block of Wan 2.1 1.3B on a CPU, timed",
    "gpu-sd3.5-large": "Stable Diffusion 3.5 Large on a GPU, timed",
    "gpu-sd3.5-large-compiled": "The same, compiled",
    "gpu-wan-1.3b": "Wan 2.1 1.3B on a GPU, timed",
    "gpu-wan-1.3b-compiled": "The same, compiled",
}


def section(name: str, path: Path) -> str:
    """A heading, the chart if there is one, and the table."""
    report = json.loads(path.read_text("utf-8"))
    picture = ROOT / "docs" / "images" / f"bench-{name}.png"
    chart = f"![Bars of the time of each method](images/{picture.name})\n\n" if picture.is_file() else ""
    return f"### {TITLES[name]}\n\n{chart}{markdown(report)}\n"


GPU_TITLES = {
    "gpu-h200-sd3.5-large": "Stable Diffusion 3.5 Large on an H200",
    "gpu-h200-sd3.5-large-compiled": "The same, compiled",
    "gpu-h200-wan-1.3b": "Wan 2.1 1.3B on an H200",
}
"""Results of `benchmarks/gpu.py`."""


def row(*cells: object) -> str:
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def gpu_section(name: str) -> str:
    """A heading, the conditions, and the table of a result of `benchmarks/gpu.py`."""
    report = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    settings = ", ".join(f"{key} {value}" for key, value in report["settings"].items() if value is not None)
    versions = ", ".join(f"{package} {version}" for package, version in report["versions"].items())
    lines = [row("method", "ms/step", "x none (quartiles)", "peak MB (x none)"), row(*["---"] * 4)]
    for method in report["methods"]:
        times, seconds = method["times"], method["seconds"]["median"]
        ratios = f"{times['median']:.3f} ({times['low']:.3f}-{times['high']:.3f})"
        memory = f"{method['peak_bytes'] / 1e6:.0f} ({method['peak_times']:.3f})"
        lines.append(row(method["label"], f"{1000 * seconds:.1f}", ratios, memory))
    conditions = f"{report['shape']}; {settings}. {report['machine']['name']}; {versions}; {report['date']}."
    return "\n".join([f"### {GPU_TITLES[name]}", "", conditions, "", *lines, "", ""])


def calls_section() -> str:
    """Where the time of guidance goes on a GPU, and what single calls take."""
    report = json.loads((RESULTS / "gpu-h200-calls.json").read_text("utf-8"))
    profile, shapes = report["profile"], report["shapes"]
    totals = ", ".join(f"{name} {value} ms" for name, value in profile["milliseconds"].items())
    added = [row(each["operation"], each["milliseconds"]) for each in profile["added"]]
    calls = [
        row(each["call"], *("" if value is None else value for value in each["microseconds"].values()))
        for each in report["calls"]
    ]
    sizes = "; ".join(f"{name}: {size}" for name, size in shapes.items())
    return "\n".join(
        [
            *("### Where the time goes on an H200", "", f"{profile['what'][0].upper()}{profile['what'][1:]}: {totals}.", ""),
            *(row("added by VSF with bias", "ms"), row("---", "---"), *added, ""),
            *(f"Single calls, batch 1, {report['dtype']}, {report['layout']}; {sizes}:", ""),
            *(row("microseconds", *shapes), row("---", *["---"] * len(shapes)), *calls, "", ""),
        ]
    )


def kernels_section() -> str:
    """The times of the prototypes of fused kernels beside those of PyTorch's calls."""
    report = json.loads((RESULTS / "gpu-kernels-h200.json").read_text("utf-8"))
    shapes, found = list(report["shapes"]), {(call["shape"], call["call"]): call["microseconds"] for call in report["calls"]}
    names = dict.fromkeys(call["call"] for call in report["calls"])
    worst = max(each["error"] for each in report["relative_error_against_float64"])
    conditions = f"{report['device']}, torch {report['torch']}, Triton {report['triton']}, {report['dtype']}, {report['date']}"
    return "\n".join(
        [
            *("### Prototypes of fused kernels on an H200", ""),
            f"`benchmarks/fused_kernels.py`, batch {report['batch']}, {report['negative_tokens']} negative tokens;"
            f" {report['timing']}. The largest relative error against float64 is {worst:.4f}. {conditions}.",
            *("", row("microseconds", *shapes), row("---", *["---"] * len(shapes))),
            *(row(name, *(found.get((shape, name), "") for shape in shapes)) for name in names),
            *("", ""),
        ]
    )


def filled(page: str) -> str:
    """The page with a section for each result that is there."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    known = [(name, RESULTS / f"{name}.json") for name in SUITES]
    timed = "".join(section(name, path) for name, path in known if path.is_file())
    on_gpu = "".join(map(gpu_section, GPU_TITLES)) + calls_section() + kernels_section()
    return before + BEGIN + "\n" + timed + on_gpu + END + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="Write nothing; fail if the page is not as it would be written.")
    page = PAGE.read_text("utf-8")
    if not parser.parse_args().check:
        PAGE.write_text(filled(page), "utf-8")
    elif filled(page) != page:
        sys.exit(f"{PAGE.name} is not what the results say: run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
