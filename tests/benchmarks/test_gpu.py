"""The GPU scripts on a CPU: kernels by Triton's interpreter, the cost of guidance on one small layer."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_kernels_equal_float64_by_the_interpreter() -> None:
    command = [sys.executable, str(FOLDER / "fused_kernels.py"), "--check"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(FOLDER.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=True)
    errors = json.loads(done.stdout.splitlines()[-1])
    assert {name: list(kernels) for name, kernels in errors.items()} == {
        "joint": ["guide_image", "attend_text"],
        "cross": ["guide_image", "attend_few_keys"],
    }
    assert all(0 < error < 1e-6 for kernels in errors.values() for error in kernels.values())


def test_the_cost_of_guidance_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("gpu", FOLDER / "gpu.py")
    assert spec and spec.loader
    gpu = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gpu)
    path = tmp_path / "cost.json"
    small = ["--device", "cpu", "--layers", "1", "--steps", "2", "--rounds", "1", "--methods", "vsf-bias,vsf-masked"]
    monkeypatch.setattr("sys.argv", ["gpu.py", "tiny-sd3-turbo", *small, "--size", "96x96", "--output", str(path)])
    gpu.main()
    report = json.loads(path.read_text())
    assert [method["name"] for method in report["methods"]] == ["none", "vsf-bias", "vsf-masked"]
    assert report["methods"][0]["times"]["median"] == 1 and all(one["seconds"]["median"] > 0 for one in report["methods"])
    differences = report["differences"]
    assert differences["vsf-bias against vsf-masked"] < 1e-5 < differences["vsf-bias against none"]
