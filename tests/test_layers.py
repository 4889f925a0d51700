"""Imports run one way: a package imports only itself and what stands before it in this row."""

import ast
from pathlib import Path

import vsf_cli

ROOT = Path(vsf_cli.__file__).parent

ORDER = (
    *("errors", "attention", "prompts", "config", "methods", "media", "models", "maps", "loading", "settings", "generation"),
    *("batch", "bench", "toy", "evaluation", "cli", "__main__"),
)


def package_of(module: str) -> str:
    return module.removeprefix("vsf_cli").removeprefix(".").split(".")[0]


def imported_modules(path: Path) -> set[str]:
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative imports hide the direction"
            modules |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "vsf_cli" else {node.module or ""}
            )
    return {module for module in modules if module.split(".")[0] == "vsf_cli"}


def test_every_package_has_its_place() -> None:
    assert {
        package_of(f"vsf_cli.{path.stem}") for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    } - {"__init__"} == set(ORDER)


def test_imports_run_one_way() -> None:
    wrong = []
    for path in ROOT.rglob("*.py"):
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # The front door hands on what stands behind it.
        for module in imported_modules(path):
            package = package_of(module)
            if package in ORDER and ORDER.index(package) > ORDER.index(own):
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(sorted(wrong))
