"""Imports run one way: a package imports only itself and what stands before it in this row."""

import ast
import importlib
import re
from pathlib import Path

import vsf_cli

ROOT = Path(vsf_cli.__file__).parent
MAIN = "vsf_cli.__main__"  # Runs the command line where it is imported.

ORDER = (
    *("errors", "attention", "prompts", "config", "methods", "media", "models", "maps", "loading", "settings", "toy", "judges"),
    *("generation", "batch", "bench", "evaluation", "cli", "__main__"),
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


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


PATHS = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
OUTSIDE = [path for folder in ("training", "benchmarks") for path in sorted((ROOT.parent / folder).rglob("*.py"))]


def names_used(path: Path) -> set[tuple[str, str]]:
    """The names that a file takes from modules of the package, as (module, name)."""
    tree = ast.parse(path.read_text("utf-8"))
    imports = [(node.module, alias) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    modules = {alias.asname or alias.name: f"{module}.{alias.name}" for module, alias in imports}
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return {(module, alias.name) for module, alias in imports if module in PATHS and f"{module}.{alias.name}" not in PATHS} | {
        (modules[node.value.id], node.attr)
        for node in attributes
        if isinstance(node.value, ast.Name) and modules.get(node.value.id) in PATHS
    }


def sort_key(name: str) -> tuple[int, list[str | int]]:
    """Ruff's order (RUF022): constants, classes, the rest; digits by their value."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def test_all_is_sorted_and_exact() -> None:
    """Each name that another module uses is public, each public name exists, and the list is in order."""
    exported = {module: getattr(importlib.import_module(module), "__all__", None) for module in PATHS if module != MAIN}
    wrong = [
        f"{path.name} uses {module}.{name}, which is not in its __all__"
        for path in (*PATHS.values(), *OUTSIDE)
        for module, name in names_used(path)
        if name not in (exported[module] or ())
    ]
    for module, names in exported.items():
        if names is not None:
            wrong += [f"{module} has no {name}" for name in names if not hasattr(importlib.import_module(module), name)]
            wrong += [f"{module}: __all__ is not sorted"] * (names != sorted(set(names), key=sort_key))
    assert not wrong, "\n".join(sorted(wrong))
