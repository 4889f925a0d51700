"""Measures what starting costs: python benchmarks/start_up.py

The CPU seconds of commands that load no model, the minimum of several runs; the slowest imports; and the seconds from command
to file beside those of the imports that nobody can leave out, in turn. Writes benchmarks/results/start-up.json, and the tables
as Markdown to stdout.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tables
import torch

from vsf_cli.bench.report import conditions
from vsf_cli.bench.timing import spread

ROOT = Path(__file__).parent.parent
COMMANDS = {
    "--help": ["--help"],
    "presets list": ["presets", "list"],
    "info FILE": ["info", "picture.png"],
    "batch TABLE --dry-run": ["batch", "table.csv", "--dry-run"],
    "image PROMPT --dry-run": ["image", "a red bike", "--dry-run"],
}
MODULES = (
    "torch",
    "diffusers",
    "transformers",
    "vsf_cli.generation.generate",
    "typer",
    "rich.console",
    "numpy",
    "PIL.Image",
)
IMPORTS = "import torch; from diffusers import StableDiffusion3Pipeline"
MAKE = ["image", "a red bike on a road", "--neg", "wheels", "--seed", "1", "--quiet", "--exists", "overwrite", "-o"]
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s*(\S+)")


def run(arguments: list[str], folder: Path, *options: str) -> str:
    command = [sys.executable, *options, "-m", "vsf_cli", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stderr


def cpu_seconds(arguments: list[str], folder: Path, times: int = 9) -> float:
    """The minimum of the CPU seconds of several runs, children included."""
    seconds = []
    for _ in range(times):
        # Not `os.times`, which counts in hundredths of a second.
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(arguments, folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return round(min(seconds), 3)


def seconds_of(command: list[str], folder: Path) -> tuple[float, float]:
    """The seconds that a command takes, by the clock and of the CPU."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command_to_file(folder: Path, rounds: int = 7) -> dict[str, Any]:
    """The time from command to file beside that of the imports alone, as ratios pair by pair."""
    imported, made = [sys.executable, "-c", IMPORTS], [sys.executable, "-m", "vsf_cli", *MAKE, "image.png"]
    pairs = [(seconds_of(imported, folder), seconds_of(made, folder)) for _ in range(rounds)]
    report: dict[str, Any] = {"rounds": rounds, "imports": IMPORTS}
    for place, name in enumerate(("clock", "cpu")):
        first, second = ([pair[kind][place] for pair in pairs] for kind in (0, 1))
        ratios = [own / base for base, own in zip(first, second, strict=True)]
        took = {"imports": first, "image": second, "times": ratios}
        report[name] = {key: spread(values).to_json() for key, values in took.items()}
    return report


def imports(arguments: list[str], folder: Path) -> dict[str, float]:
    """Seconds of the import of known modules, with all that they import, the slowest first."""
    output = run(arguments, folder, "-X", "importtime")
    # A module within another one of the list is counted in both.
    seconds = {name: int(total) / 1e6 for _, total, name in LINE.findall(output) if name in MODULES}
    return dict(sorted(seconds.items(), key=lambda entry: -entry[1]))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "table.csv").write_text("prompt,negative\na red bike on a road,wheels\n", "utf-8")
        run([*MAKE, "picture.png"], folder)
        seconds = {command: cpu_seconds(arguments, folder) for command, arguments in COMMANDS.items()}
        longest, whole = imports([*MAKE, "again.png"], folder), command_to_file(folder)
    report = {**conditions(torch.device("cpu")), "cpu_seconds": seconds, "image_imports": longest, "command_to_file": whole}
    path = ROOT / "benchmarks" / "results" / "start-up.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(tables.start_up("cpu_seconds"), tables.start_up("image_imports"), tables.command_to_file(), sep="\n")


if __name__ == "__main__":
    main()
