"""The report of a benchmark as JSON, and its table and chart, which can be made again from the JSON alone."""

import io
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from matplotlib.figure import Figure

from vsf_cli.bench.measure import Row
from vsf_cli.bench.methods import UNGUIDED
from vsf_cli.bench.timing import ratios, spread
from vsf_cli.config.names import counted
from vsf_cli.media.metadata import versions

__all__ = ["build_report", "chart", "columns", "conditions", "describe_conditions", "machine", "markdown"]

SCHEMA = 3

COLUMNS = {
    "step": "s/step",
    "times": "time x none (quartiles)",
    "cpu_times": "CPU time x none (quartiles)",
    "total": "s in all",
    "text": "text s",
    "vae": "VAE s",
    "writing": "write s",
    "flops": "GFLOP/step",
    "flops_times": "FLOPs x none",
    "analytic": "GFLOP by formula",
    "calls": "attentions",
    "launches": "launches",
    "copied": "MB copied",
    "tensors": "tensors MB (x none)",
    "memory": "peak MB (x none)",
    "tokens": "negative",
}
"""The columns and their heads; "negative" is the number of tokens of the negative prompt."""


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what times depend on: the system, the device, its name, threads and cores; nothing identifies the machine."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    facts = {"system": platform.system(), "device": device.type, "name": name, "threads": torch.get_num_threads()}
    return {**facts, "cores": os.cpu_count()}


def conditions(device: torch.device) -> dict[str, Any]:
    """Returns the conditions of a result: the date, the versions and the machine."""
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "versions": dict(versions()), "machine": machine(device)}


def build_report(rows: Sequence[Row], device: torch.device, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the report of a benchmark as JSON; `measured` has its shape and settings."""
    baseline = next(row for row in rows if row.method.name == UNGUIDED)
    head = {"schema": SCHEMA, **conditions(device), **measured}
    # Beside another device, CPU time is that of its calls alone.
    compared = ("step", "total", "cpu", *(("step_cpu",) if device.type == "cpu" else ()))
    return {**head, "methods": [_report_row(row, baseline, compared) for row in rows]}


def _report_row(row: Row, baseline: Row, compared: Sequence[str]) -> dict[str, Any]:
    stages = list(row.samples[0]) if row.samples else []
    parameters = row.method.implementation.parameters.items()
    return {
        "name": row.method.name,
        "label": row.method.label,
        "parameters": {name: value for name, value in parameters if not isinstance(value, str) and value != float("inf")},
        "tokens": row.tokens,
        "samples": [dict(sample) for sample in row.samples],
        "seconds": {stage: spread([sample[stage] for sample in row.samples]).to_json() for stage in stages},
        "times": {stage: ratios(row.samples, baseline.samples, stage).to_json() for stage in compared if stage in stages},
        "flops": row.costs.flops,
        "flops_analytic": row.analytic,
        "flops_times": row.costs.flops / baseline.costs.flops,
        "attention_calls": row.costs.attention_calls,
        "launches": row.costs.launches,
        "copied_bytes": row.costs.copied_bytes,
        "tensors": row.costs.tensors,
        "tensor_bytes": row.costs.peak_bytes,
        "tensor_times": row.costs.peak_bytes / baseline.costs.peak_bytes,
        "peak_bytes": row.memory,
        "peak_times": row.memory / baseline.memory if row.memory and baseline.memory else None,
    }


def columns(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the heads and the rows of the table, without columns that are empty."""
    cells = [_cells(row) for row in report["methods"]]
    shown = [name for name in COLUMNS if any(name in row for row in cells)]
    rows = [[row["label"], *(cells[n].get(name, "") for name in shown)] for n, row in enumerate(report["methods"])]
    return ["method", *(COLUMNS[name] for name in shown)], rows


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    measured = {name: _seconds(row["seconds"][name]["median"]) for name in COLUMNS if name in row["seconds"]}
    for name, stage in {"times": "step", "cpu_times": "step_cpu"}.items():
        if times := row["times"].get(stage):
            measured[name] = f"{times['median']:.3f} ({times['low']:.3f}-{times['high']:.3f})"
    if row["peak_bytes"] is not None:
        measured["memory"] = f"{row['peak_bytes'] / 1e6:.0f} ({row['peak_times']:.3f})"
    return {
        **measured,
        "flops": _gigas(row["flops"]),
        **({} if row["flops_analytic"] is None else {"analytic": _gigas(row["flops_analytic"])}),
        "flops_times": f"{row['flops_times']:.4f}",
        "calls": str(row["attention_calls"]),
        **({} if "launches" not in row else _traffic(row)),
        "tensors": f"{row['tensor_bytes'] / 1e6:.1f} ({row['tensor_times']:.3f})",
        "tokens": str(row["tokens"]),
    }


def _traffic(row: Mapping[str, Any]) -> dict[str, str]:
    return {"launches": str(row["launches"]), "copied": f"{row['copied_bytes'] / 1e6:.1f}"}


def _gigas(number: int) -> str:
    return f"{number / 1e9:.4g}" if number < 1e12 else f"{number / 1e9:.0f}"


def _seconds(number: float) -> str:
    return f"{number:.4f}" if number < 1 else f"{number:.2f}"


def markdown(report: Mapping[str, Any]) -> str:
    """Returns the table as Markdown, below a line with its conditions."""
    heads, rows = columns(report)
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join([describe_conditions(report), "", *lines, ""])


def describe_conditions(report: Mapping[str, Any]) -> str:
    """Returns the shape, the settings and the conditions as one line."""
    facts = report["machine"]
    settings = ", ".join(f"{key} {value}" for key, value in report["settings"].items() if value is not None)
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    device = "counted without running" if facts["device"] == "meta" else facts["device"]
    hardware = f"{facts['system']} {facts['name']}, {device}, {counted(facts['threads'], 'thread')}"
    return f"{report['shape']}; {settings}. {hardware}; {versions}; {report['date']}."


def chart(report: Mapping[str, Any]) -> bytes:
    """Returns a bar chart as the bytes of a PNG: the time and the FLOPs of each method as multiples of those of no guidance."""
    rows = [row for row in report["methods"] if row["name"] != UNGUIDED]
    figure = Figure(figsize=(7, 1.3 + 0.42 * len(rows)), layout="constrained", dpi=150)
    axes = figure.subplots()
    _draw_rows(axes, rows)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    # The whole shape is wider than the axes.
    axes.set_title(report["shape"].replace(", ", "\n", 1), fontsize=9)
    figure.legend(loc="outside lower right", ncols=2, fontsize=8, frameon=False)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_rows(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    positions = list(range(len(rows)))
    times = [row["times"]["step"] for row in rows if "step" in row["times"]]
    if times:
        medians = [time["median"] for time in times]
        errors = [[t["median"] - t["low"] for t in times], [t["high"] - t["median"] for t in times]]
        colors = {"color": "#4c72b0", "ecolor": "#222222"}
        axes.barh(positions, medians, xerr=errors, height=0.6, capsize=3, label="time, quartiles", **colors)
    flops = [row["flops_times"] for row in rows]
    axes.plot(flops, positions, "D", color="#dd8452", markersize=6, markeredgecolor="white", label="FLOPs")
    axes.axvline(1, color="#222222", linewidth=0.8, linestyle="--")
    maximum = max([*flops, *(time["high"] for time in times)], default=1.0)
    for position, row in zip(positions, rows, strict=True):
        number = row["times"]["step"]["median"] if times else row["flops_times"]
        end, mark = row["times"]["step"]["high"] if times else row["flops_times"], row["flops_times"]
        # Beside the bar, or beside the diamond where that would stand in the number.
        beside = mark if end < mark < end + 0.16 * maximum else end
        axes.text(
            beside + 0.025 * maximum, position, f"{number:.3f}", va="center", fontsize=8, bbox={"color": "white", "pad": 0.5}
        )
    axes.set(yticks=positions, yticklabels=[row["label"] for row in rows], xlabel="times a step without guidance")
    axes.set_xlim(0, maximum * 1.14)
