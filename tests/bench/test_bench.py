"""`vsf bench`: its methods, their order, and its report."""

import json
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from tests.contexts import attended, joint_context
from tests.processes import TIMEOUT
from vsf_cli.bench import random_model
from vsf_cli.bench.counting import count_costs
from vsf_cli.bench.methods import bench_methods, select_methods
from vsf_cli.bench.report import _draw_rows, markdown
from vsf_cli.bench.shapes import shape_of
from vsf_cli.bench.stages import STAGES
from vsf_cli.bench.timing import Sample, interleave, ratios, spread
from vsf_cli.cli.bench import BenchOptions, measure
from vsf_cli.cli.console import Console
from vsf_cli.errors import MediaError, ModelError, OutOfMemory, RequestError
from vsf_cli.methods import NAG, VSF
from vsf_cli.settings.options import Given

SD35, WAN = "stabilityai/stable-diffusion-3.5-large-turbo", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"

OPTIONS = {"method": "none,vsf-bias,cfg", "rounds": 2}


def split_options(**options: Any) -> tuple[Given, BenchOptions]:
    own = {field.name: options.pop(field.name) for field in fields(BenchOptions) if field.name in options}
    return Given({key: value for key, value in options.items() if value is not None}), BenchOptions(**{**OPTIONS, **own})


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Any:
    def run(**options: Any) -> dict[str, Any]:
        measure(*split_options(**{"device": "cpu", **options}), Console(quiet=True), as_json=True)
        report: dict[str, Any] = json.loads(capsys.readouterr().out)
        return report

    return run


def test_runs_take_turns_and_the_first_round_does_not_count() -> None:
    called: list[str] = []
    progress: list[tuple[int, int]] = []

    def run(name: str) -> Sample:
        called.append(name)
        return {"step": float(len(called))}

    runs = {name: lambda name=name: run(name) for name in "abc"}
    samples = interleave(runs, 2, lambda name, call: called.append(f"warm {name}"), lambda *numbers: progress.append(numbers))
    assert called == ["warm a", "warm b", "warm c", "b", "c", "a", "c", "a", "b"]
    assert [len(each) for each in samples.values()] == [2, 2, 2] and progress[-1] == (9, 9)


def test_times_are_compared_round_by_round() -> None:
    ours, theirs = [{"step": 2.0}, {"step": 30.0}, {"step": 6.0}], [{"step": 1.0}, {"step": 10.0}, {"step": 6.0}]
    times = ratios(ours, theirs, "step")
    assert (times.median, times.low, times.high) == (2.0, 1.5, 2.5)
    assert spread([3.0]).low == 3.0


def test_methods_are_named_and_the_baseline_is_always_among_them() -> None:
    chosen = select_methods("cfg, vsf-bias", VSF(2.0, 0.7, stop=0.5))
    assert [method.name for method in chosen] == ["none", "vsf-bias", "cfg"]
    assert chosen[1].implementation == VSF(2.0, 0.7)
    assert [method.name for method in select_methods("all", NAG())] == list(bench_methods())
    with pytest.raises(RequestError, match="'vfs', but must be one of none, nasa"):
        select_methods("vfs", VSF())


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (SD35, {"layers": 39}, RequestError, "has 38: give 1 to 38"),
        (SD35, {"size": (1000, 1000)}, RequestError, "multiples of 16"),
        (SD35, {"size": (4096, 1024)}, RequestError, "knows 3072 pixels a side"),
        ("somebody/something", {}, RequestError, "does not ship with vsf"),
        ("builtin:nothing", {}, ModelError, "not in this package"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(model: str, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        shape_of(model, "sd3", options.get("size", (1024, 1024)), None, 256, options.get("layers"))


def test_shapes_are_those_of_the_published_models() -> None:
    image, video = shape_of(SD35, "sd3", (1024, 1024), None, 256), shape_of(WAN, "wan", (832, 480), 81, 512)
    assert (image.images, image.positives, image.width, image.depth) == (4096, 333, 2432, 38)
    assert (video.images, video.positives, video.width, video.depth) == (32760, 512, 1536, 30)
    for shape, billions in ((image, 8.057), (video, 1.419)):
        model = random_model.build(shape, torch.bfloat16, torch.device("meta"), 8).transformer
        # The table of positions is a buffer.
        assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=6e-4)


def test_random_weights_at_the_width_of_the_real_model(bench: Any, tmp_path: Path) -> None:
    files = {"output": str(tmp_path / "new" / "wan.json"), "plot": str(tmp_path / "wan.png")}
    options = {"preset": "wan2.1-1.3b-causvid", "random_weights": True, "layers": 1, "size": "64x64", "frames": 5}
    report = bench(**options, dtype="float32", negative_tokens=3, **files)

    assert report["shape"] == f"{WAN}, 1 of 30 layers, width 1536, 32 + 512 tokens"
    assert report["settings"]["weights"] == "random" and report["machine"]["device"] == "cpu"
    none, vsf, cfg = report["methods"]
    assert (none["tokens"], vsf["tokens"], cfg["tokens"]) == (0, 3, 512)
    assert all(
        len(row["samples"]) == 2 and row["peak_times"] == row["peak_bytes"] / none["peak_bytes"] for row in report["methods"]
    )
    assert none["times"]["step"] == {"median": 1.0, "low": 1.0, "high": 1.0} and cfg["times"]["step"]["median"] > 1
    assert none["times"]["step_cpu"] == none["times"]["step"] and cfg["times"]["step_cpu"]["median"] > 1
    assert all(row["flops"] == row["flops_analytic"] > 0 and row["tensor_bytes"] > 0 for row in report["methods"])
    assert json.loads(Path(files["output"]).read_text("utf-8")) == report
    assert Path(files["plot"]).read_bytes().startswith(b"\x89PNG")
    assert (
        "CPU time x none" in markdown(report)
        and "| VSF with bias | " in markdown(report)
        and "1 of 30 layers" in markdown(report)
    )


def test_a_real_pipeline_is_timed_by_stages(bench: Any) -> None:
    report = bench(steps=2)
    assert report["settings"]["weights"] == "real" and "6 layers" in report["shape"]
    for row in report["methods"]:
        seconds = {stage: spread["median"] for stage, spread in row["seconds"].items()}
        assert all(seconds[stage] > 0 for stage in STAGES)
        assert seconds["step"] * 2 == pytest.approx(seconds["denoiser"]) and 0 < seconds["step_cpu"] * 2 < seconds["cpu"]
        # Medians of two rounds are means, which add up.
        assert sum(seconds[stage] for stage in STAGES) == pytest.approx(seconds["total"])
    assert report["methods"][1]["tokens"] == 5


def test_counting_takes_a_full_size_and_times_nothing(bench: Any) -> None:
    report = bench(preset="sd3.5-large-turbo", count=True, device=None, layers=2, method="vsf")
    none, vsf = report["methods"]
    assert none["seconds"] == {} and none["peak_bytes"] is None
    assert 1 < vsf["flops_times"] < 1.0025


def test_a_table_is_written_as_wide_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    measure(*split_options(count=True, preset="tiny-sd3-turbo"), Console(quiet=False))
    out, messages = capsys.readouterr()
    assert "VSF with bias" in out and "…" not in out and "tensors MB (x none)" in out
    assert messages.count("6 layers, width 192, 144 + 40 tokens") == 1 and "counted without running" in messages
    heads = re.split(" {2,}", out.splitlines()[0].strip())
    assert len({*heads}) == len(heads) > 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"preset": "tiny-sd3-turbo", "frames": 5}, RequestError, "--frames is for videos, and none is made"),
        ({"random_weights": True, "preset": "sd3.5-large-turbo", "layers": 0}, RequestError, "give 1 to 38"),
        ({"random_weights": True, "steps": 4}, RequestError, "--steps is for a real pipeline"),
        ({"count": True, "offload": "model"}, RequestError, "--offload is for a real pipeline"),
        ({"count": True, "device": None, "compile": True}, RequestError, "--compile has no effect on --count"),
        ({"plot": "/proc/nothing/plot.png"}, MediaError, "cannot be written"),
        ({"steps": 0}, RequestError, "must be at least 1"),
        ({"preset": "sdxl-turbo", "count": True, "device": None, "layers": 1}, RequestError, "blocks are all different"),
    ],
)
def test_what_is_not_legal_is_refused(bench: Any, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        bench(**options)


def test_a_model_that_does_not_fit_is_refused_before_it_is_built(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**9}))
    with pytest.raises(OutOfMemory, match=r"38 layers of .* need 16.1 GB, but 1.0 GB are free: pass fewer --layers"):
        bench(preset="sd3.5-large-turbo", random_weights=True, method="none")


def test_running_out_of_memory_is_one_line(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("vsf_cli.bench.measure.clock", fail)
    with pytest.raises(OutOfMemory, match="pass fewer --layers"):
        bench(random_weights=True, preset="tiny-sd3-turbo", method="none")


def test_a_number_stands_beside_its_bar() -> None:
    def row(label: str, median: float, flops: float) -> dict[str, Any]:
        return {"label": label, "times": {"step": {"low": median, "median": median, "high": median}}, "flops_times": flops}

    axes = Figure().subplots()
    _draw_rows(axes, [row("short", 1.0, 1.0), row("marked", 1.1, 1.15), row("long", 2.0, 2.0)])
    places = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert 1.0 < places["1.000"] < 1.1 and 1.15 < places["1.100"] < 1.3 and 2.0 < places["2.000"] < 2.1


def test_counting_calls_the_function_itself() -> None:
    calls = []
    weight = torch.ones(8, 8)
    costs = count_costs(lambda: calls.append(weight @ weight))
    assert costs.flops == 2 * 8**3 and costs.peak_bytes == 256 and len(calls) == 2


def test_the_mask_is_made_once_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from vsf_cli.bench.masked import MaskedVSF, _mask, forget_mask
    from vsf_cli.methods import KeyValue, TextGroup

    method = MaskedVSF(1.5, 0.2)

    def attend(query: torch.Tensor) -> torch.Tensor:
        context = joint_context(KeyValue(query, query), 5, TextGroup(query[:, :, :2], query[:, :, :2]))
        return attended(method, query, context)

    forget_mask()
    query = torch.randn(1, 2, 8, 16)
    compiled = torch.compile(attend, backend="eager")
    torch.testing.assert_close(compiled(query), attend(query))
    compiled(query + 1)
    assert (_mask.cache_info().misses, _mask.cache_info().hits) == (1, 2), "compiled code makes no mask of its own"
    forget_mask()
    assert _mask.cache_info().currsize == 0


PEAKS = """
import torch
from vsf_cli.bench.memory import peak_memory
print(*(peak_memory(torch.device("cpu"), lambda: torch.ones(count).sum()) for count in (1, 50_000_000)))
"""


def test_peak_memory_sees_what_is_freed_before_the_end() -> None:
    # In a process of its own: one that has made and freed as much before may take that again, and grows no further.
    done = subprocess.run([sys.executable, "-c", PEAKS], capture_output=True, text=True, timeout=TIMEOUT, check=True)
    small, large = done.stdout.split()
    assert (small == "None") == (large == "None")
    assert small == "None" or int(large) - int(small) > 150_000_000
