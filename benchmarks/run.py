"""Makes the results of docs/benchmark.md: python benchmarks/run.py cpu-sd3.5-large, then python benchmarks/tables.py

Each suite is one call of `vsf bench`, whose results go to benchmarks/results/NAME.json with the machine, the versions and the
date, and whose chart goes to docs/images/bench-NAME.png. Times need a machine that does nothing else. The suite `gpu` is all
that is measured on a GPU, in about five minutes: kernels, models eager and compiled, memory, and the time of each operation.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"

SD35, WAN = ["--preset", "sd3.5-large-turbo"], ["--preset", "wan2.1-1.3b-causvid"]

SUITES = {
    "count-sd3.5-large": [*SD35, "--count"],
    "count-wan-1.3b": [*WAN, "--count"],
    "embedded": ["--preset", "tiny-sd3-turbo", "--rounds", "40"],
    "embedded-clip": ["--preset", "tiny-wan-causvid", "--rounds", "20"],
    "cpu-sd3.5-large": [
        # In float32: many CPUs have no instructions for bfloat16, and take hours.
        *(*SD35, "--random-weights", "--layers", "2", "--dtype", "float32", "--device", "cpu", "--rounds", "16"),
        *("--method", "none,nag,vsf,vsf-bias"),
    ],
    "cpu-wan-1.3b": [
        *(*WAN, "--random-weights", "--layers", "1", "--frames", "5", "--dtype", "float32", "--device", "cpu"),
        *("--rounds", "20", "--method", "none,nag,vsf,vsf-bias,vsf-keep,none-folded,vsf-folded"),
    ],
    "gpu-sd3.5-large": [*SD35, "--random-weights", "--device", "cuda", "--rounds", "10"],
    "gpu-sd3.5-large-compiled": [*SD35, "--random-weights", "--device", "cuda", "--rounds", "10", "--compile"],
    "gpu-wan-1.3b": [*WAN, "--random-weights", "--device", "cuda", "--rounds", "10"],
    "gpu-wan-1.3b-compiled": [*WAN, "--random-weights", "--device", "cuda", "--rounds", "10", "--compile"],
}
"""The arguments of `vsf bench`, by name, in the order of the page."""

ON_GPU = (
    ["fused_kernels.py"],
    ["gpu.py", "sd3.5-large-turbo", "--rounds", "3"],
    ["gpu.py", "sd3.5-large-turbo", "--rounds", "3", "--compile"],
    ["gpu.py", "wan2.1-1.3b-causvid", "--rounds", "2", "--steps", "3"],
    ["gpu.py", "wan2.1-1.3b-causvid", "--rounds", "2", "--steps", "3", "--compile"],
    ["gpu.py", "flux.1-schnell", "--rounds", "2", "--steps", "4"],
    ["profile_block.py", "--preset", "sd3.5-large-turbo", "--layers", "38", "--device", "cuda", "--dtype", "bfloat16"],
    ["profile_block.py", "--preset", "wan2.1-1.3b-causvid", "--layers", "30", "--device", "cuda", "--dtype", "bfloat16"],
)
"""The scripts that the suite `gpu` runs, the most important ones first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=["gpu", *SUITES], nargs="+")
    parser.add_argument("--small", action="store_true", help="One layer of a small input, one round: only tests the script.")
    options = parser.parse_args()
    if "gpu" in options.suite:
        for script, *arguments in ON_GPU:
            subprocess.run([sys.executable, str(ROOT / "benchmarks" / script), *arguments], cwd=ROOT, check=False)
    for name in set(options.suite) - {"gpu"}:
        RESULTS.mkdir(exist_ok=True)
        # Counts have no times to plot.
        plot = (
            [] if name.startswith("count") or options.small else ["--plot", str(ROOT / "docs" / "images" / f"bench-{name}.png")]
        )
        result = RESULTS / f"{name}{'-small' * options.small}.json"
        arguments = [*SUITES[name], *(small(name) if options.small else []), "-o", str(result), *plot]
        # Two threads wait for each other, and for what else the machine does.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        subprocess.run([sys.executable, "-m", "vsf_cli", "bench", *arguments], cwd=ROOT, check=True, env=environment)


def small(name: str) -> list[str]:
    """The arguments that make a suite take seconds, on any machine."""
    if name.startswith("embedded"):
        return ["--rounds", "1", "--steps", "2"]
    size = ["--size", "128x128", *(["--frames", "5"] if "wan" in name else [])]
    return [*size, "--layers", "1", *([] if name.startswith("count") else ["--rounds", "1", "--device", "auto"])]


if __name__ == "__main__":
    main()
