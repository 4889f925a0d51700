"""Measures the CPU seconds of commands that load no model, and the slowest imports: python benchmarks/start_up.py

Writes benchmarks/results/start-up.json, and the tables as Markdown to stdout. CPU seconds are the minimum of several runs.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import tables
import torch

from vsf_cli.bench.report import conditions

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
        make = ["image", "a red bike on a road", "--neg", "wheels", "--seed", "1", "--steps", "2", "-o"]
        run([*make, "picture.png"], folder)
        seconds = {command: cpu_seconds(arguments, folder) for command, arguments in COMMANDS.items()}
        longest = imports([*make, "again.png"], folder)
    report = {**conditions(torch.device("cpu")), "cpu_seconds": seconds, "image_imports": longest}
    path = ROOT / "benchmarks" / "results" / "start-up.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(tables.start_up("cpu_seconds"), tables.start_up("image_imports"), sep="\n")


if __name__ == "__main__":
    main()
