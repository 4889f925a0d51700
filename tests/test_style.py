"""Rules of style that a machine can hold: short functions, no path of a machine, tests that repeat and end."""

import ast
import re
import shutil
import statistics
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.processes import ROOT, TIMEOUT

MAX_LINES, MAX_COMPLEXITY = 50, 15
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.comprehension, ast.match_case)


@cache
def functions() -> list[tuple[str, ast.AST]]:
    """Each function of the package, with its name and that of its file."""
    found = []
    for path in sorted((ROOT / "vsf_cli").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.append((f"{path.relative_to(ROOT / 'vsf_cli').as_posix()}: {node.name}", node))
    return found


def lines(function: ast.AST) -> int:
    """The lines of a whole `def`, signature and docstring included."""
    return function.end_lineno - function.lineno + 1  # type: ignore[attr-defined, no-any-return]


def complexity(function: ast.AST) -> int:
    """The cyclomatic complexity: 1, and 1 for each branch, loop, condition of a comprehension, and `and` or `or`."""
    nodes = list(ast.walk(function))
    conditions = sum(len(node.ifs) for node in nodes if isinstance(node, ast.comprehension))
    operators = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    return 1 + sum(isinstance(node, BRANCHES) for node in nodes) + conditions + operators


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("pass", (2, 1)),
        ("if a and b or c: pass", (2, 4)),
        ("for a in b:\n  while c: pass\n else: pass", (4, 3)),
        ("try: a\n except B: c\n except D: e\n finally: f", (5, 3)),
        ("return [a if b else c for d in e if f if g]", (2, 5)),
        ("match a:\n  case 1: b\n  case _: c", (4, 3)),
    ],
)
def test_functions_are_measured(source: str, wanted: tuple[int, int]) -> None:
    function = ast.parse(f"def f():\n {source}").body[0]
    assert (lines(function), complexity(function)) == wanted


def test_functions_are_short_and_simple() -> None:
    above = {name for name, node in functions() if lines(node) > MAX_LINES or complexity(node) > MAX_COMPLEXITY}
    assert not above, "split these, or make them simpler"


def test_half_of_the_functions_have_eight_lines_at_most() -> None:
    assert statistics.median(lines(node) for _, node in functions()) <= 8


def test_nine_of_ten_functions_have_twenty_lines_at_most() -> None:
    assert statistics.quantiles((lines(node) for _, node in functions()), n=10)[-1] <= 20


# Names of places on a machine, other than those that tests make up.
MACHINE = re.compile(
    rb"/(?<![\w.~*-]/)(?:home/(?!person\b|me\b|you\b)|root/|Users/|work/|workspace/|mnt/|data/|scratch/|tmp/\w)[\w.-]*"
)


def tracked() -> list[Path]:
    if not (shutil.which("git") and (ROOT / ".git").exists()):
        pytest.skip("git knows which files are tracked")
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_file_holds_a_path_of_a_machine() -> None:
    assert MACHINE.search(b"read from /" + b"home/ann/x") and not MACHINE.search(b"https://x.org/home/page ./tmp/a")
    found = []
    for path in tracked():
        found += [f"{path.relative_to(ROOT)}: {match[0].decode()}" for match in MACHINE.finditer(path.read_bytes())]
    assert not found, "\n".join(found)


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """Each call in the tests, with its place and the name that it calls, as it is written."""
    found = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                found.append((f"{path.relative_to(ROOT).as_posix()}:{node.lineno}", ast.unparse(node.func), node))
    return found


def test_every_child_process_of_a_test_has_a_time_out() -> None:
    children = {f"subprocess.{name}" for name in ("run", "call", "check_call", "check_output", "Popen")}
    started = [(place, node) for place, name, node in calls() if name in children]
    endless = [place for place, node in started if "timeout" not in {keyword.arg for keyword in node.keywords}]
    assert len(started) > len(endless) and [place.split(":")[0] for place in endless] == ["tests/processes.py"], endless


def test_random_numbers_of_tests_are_the_same_in_every_run() -> None:
    unseeded = {"random.Random", "Random", "np.random.default_rng", "default_rng", "np.random.RandomState"}
    wrong = [place for place, name, node in calls() if name in unseeded and not (node.args or node.keywords)]
    wrong += [place for place, name, _ in calls() if "SystemRandom" in name or name.startswith(("secrets.", "uuid.uuid4"))]
    assert not wrong, "\n".join(wrong)


def test_no_test_asserts_seconds_of_the_clock() -> None:
    """A clock may only be read to wait for something, in `tests/processes.py`."""
    clocks = {f"time.{name}" for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")}
    assert {place.split(":")[0] for place, name, _ in calls() if name in clocks} == {"tests/processes.py"}
