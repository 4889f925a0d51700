"""Imports run one way: a module imports only modules that stand lower in this table."""

import ast
from pathlib import Path

import vsf_cli

ROOT = Path(vsf_cli.__file__).parent

RANKS = {
    "errors": 0,
    "": 0,
    "attention": 1,
    "html": 1,
    "hub": 1,
    "patch": 1,
    "compiling": 1,
    "ranges": 1,
    "replacing": 1,
    "text_cache": 2,
    "methods": 2.5,
    "methods.tokens": 2.1,
    "methods.base": 2.2,
    "methods.none": 2.3,
    "methods.vsf": 2.4,
    "methods.nasa": 2.4,
    "methods.nag": 2.4,
    "methods.wef": 2.4,
    "methods.cfg": 2.4,
    "methods.variants": 2.4,
    "weights": 1,
    "lora_keys": 1,
    "loras": 2,
    "metadata": 1,
    "clip_files": 2,
    "values": 1.5,
    "words": 2,
    "media": 3,
    "presets": 3,
    "maps": 4,
    "outputs": 4,
    "sheets": 4,
    "families.base": 5,
    "families.processor": 5.5,
    "plots": 5,
    "recorder": 5,
    "families.sd3": 6,
    "families.wan": 6,
    "page": 6,
    "families": 7,
    "guidance": 8,
    "pipelines": 8,
    "generate": 9,
    "attn_map": 10,
    "terminal": 10,
    "options": 2,
    "run": 11,
    "planning": 12,
    "encoder_cache": 2,
    "commands": 13,
    "looking": 13,
    "compare": 14,
    "batch": 12,
    "batch.table": 13,
    "batch.items": 14,
    "batch.journal": 13,
    "batch.maker": 15,
    "batch.engines": 15.5,
    "batch.ray_engine": 15.2,
    "batch.runner": 15.7,
    "batch.facts": 14.5,
    "batch.gallery": 15,
    "batch.grids": 15,
    "batch.contact_sheet": 15.1,
    "batch.replacing": 14,
    "batch.summary": 15.8,
    "batch.timings": 15,
    "batch.command": 16,
    # The embedded models stand on the library, and of the library the evaluation alone stands on them.
    "tiny": 20,
    "tiny.scenes": 21,
    "tiny.drawing": 22,
    "tiny.curves": 21,
    "tiny.damage": 21,
    "tiny.judge": 23,
    "tiny.recipe": 23,
    "tiny.score": 24,
    "tiny.labels": 25,
    "tiny.wall": 25,
    "tiny.training": 24,
    "tiny.training.loop": 25,
    "tiny.training.autoencoder": 26,
    "tiny.training.regions": 26,
    "tiny.training.flow": 27,
    "tiny.training.shown": 27,
    "tiny.training.wear": 28,
    "tiny.training.judge": 28,
    "tiny.localise": 28,
    "tiny.train": 29,
    "tiny.clips": 23,
    "tiny.clip_recipe": 24,
    "tiny.training.clip_autoencoder": 27,
    "tiny.training.clip_flow": 27,
    "tiny.train_clips": 29,
    "boundary": 11,
    "bench": 10,
    "bench.masked": 11,
    "bench.arms": 12,
    "bench.shapes": 13,
    "bench.random_model": 14,
    "bench.counting": 14,
    "bench.analytic": 14,
    "bench.memory": 11,
    "bench.timing": 11,
    "bench.stages": 14,
    "bench.measure": 15,
    "bench.report": 16,
    "bench.command": 17,
    "bench.cli": 18,
    "evaluation": 30,
    "evaluation.prompts": 31,
    "evaluation.arms": 31,
    "evaluation.runs": 32,
    "evaluation.judging": 33,
    "evaluation.judges.scenes": 34,
    "evaluation.judges.mllm": 34,
    "evaluation.judges.clip": 34,
    "evaluation.judges": 35,
    "evaluation.gallery": 35,
    "evaluation.report": 36,
    "evaluation.sweep": 34,
    "evaluation.tradeoff": 35,
    "evaluation.command": 37,
    "evaluation.cli": 38,
    "cli": 40,
    "__main__": 41,
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the direction"
            modules = [node.module or ""]
            if node.module == "vsf_cli":
                modules = [f"vsf_cli.{alias.name}" for alias in node.names if name_of_exists(alias.name)] or ["vsf_cli"]
        found |= {module for module in modules if module.split(".")[0] == "vsf_cli"}
    return {module.removeprefix("vsf_cli").removeprefix(".") for module in found}


def name_of_exists(name: str) -> bool:
    return (ROOT / f"{name}.py").exists() or (ROOT / name / "__init__.py").exists()


def test_every_module_has_a_rank() -> None:
    assert {name_of(path) for path in ROOT.rglob("*.py")} == set(RANKS)


def test_imports_run_one_way() -> None:
    for path in ROOT.rglob("*.py"):
        name = name_of(path)
        if name == "":
            continue  # The front door hands on what stands behind it.
        for imported in imports_of(path):
            assert RANKS[imported] < RANKS[name], f"{name} imports {imported}"


def test_all_is_sorted_and_exact() -> None:
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names = ast.literal_eval(node.value)
                assert len(set(names)) == len(names), path
                source = path.read_text("utf-8")
                for exported in names:
                    assert exported in source.replace("__all__", ""), f"{path}: {exported}"
