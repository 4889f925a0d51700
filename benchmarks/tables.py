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


def filled(page: str) -> str:
    """The page with a section for each result that is there."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    known = [(name, RESULTS / f"{name}.json") for name in SUITES]
    return before + BEGIN + "\n" + "".join(section(name, path) for name, path in known if path.is_file()) + END + after


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
