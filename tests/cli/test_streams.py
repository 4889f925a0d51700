"""What `vsf` does where stdout, stderr, memory or a name is not as usual: no traceback, and no work that is lost."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tests.drawn import AnyPipe, drawn
from vsf_cli.__main__ import main
from vsf_cli.cli import attn_map, compare, error_boundary, interrupts, plans
from vsf_cli.cli.app import app
from vsf_cli.errors import MediaError, ModelError, OutOfMemory
from vsf_cli.generation import choosing
from vsf_cli.loading.libraries import _check_address_space, quiet_libraries

BIKE = ["image", "a red bike", "--seed", "1", "--steps", "2"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and pictures that no model makes."""
    for module in (compare, plans):
        monkeypatch.setattr(module, "prepare", lambda *_: AnyPipe())
    monkeypatch.setattr(choosing, "generate", lambda pipe, request, *_: drawn(pipe, [request])[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def vsf(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def streams(monkeypatch: pytest.MonkeyPatch, encoding: str, *arguments: str) -> tuple[int, str, str]:
    """The exit code and the output of `vsf` with streams of an encoding."""
    outputs = [io.BytesIO(), io.BytesIO()]
    for name, output in zip(("stdout", "stderr"), outputs, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(output, encoding=encoding, errors="strict", write_through=True))
    code = run(monkeypatch, *arguments)
    return code, *(output.getvalue().decode(encoding) for output in outputs)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vsf", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int | None)
    return ended.value.code or 0


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "cp037"])
def test_letters_that_stdout_lacks_are_escapes(encoding: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["-q", "--steps", "2", "-o", "日本é.png", "--dry-run", "--json"]
    code, data, _ = streams(monkeypatch, encoding, "image", "a red bike é 😀", *options)
    assert code == 0 and json.loads(data)["prompt"] == "a red bike é 😀"
    for arguments in (
        ["--help"],
        ["image", "--help"],
        ["video", "--help"],
        ["presets", "list"],
        ["presets", "show", "tiny-sd3"],
    ):
        code, data, messages = streams(monkeypatch, encoding, *arguments)
        assert code == 0 and data and "Traceback" not in messages


def test_a_run_goes_on_where_stdout_lacks_the_letters_of_a_path(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts.signal, "signal", lambda *_: None)
    code, data, messages = streams(monkeypatch, "ascii", *BIKE, "--seed", "1,2", "-o", "日本/é.png")
    assert code == 0, messages
    assert sorted(path.name for path in Path("日本").iterdir()) == ["é-1.png", "é-2.png"]
    assert data.split() == [r"\u65e5\u672c/\xe9-1.png", r"\u65e5\u672c/\xe9-2.png"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("arguments", ["--help", "--version", "image --help", "presets list", "image bike --dry-run"])
def test_a_full_disk_behind_stdout_is_one_line(arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert run(monkeypatch, *arguments.split()) == 1
    # It could be closed: nothing is left that would fail at the end.
    assert "error: stdout cannot be written: No space left on device\n" in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_messages_that_cannot_be_written_end_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert run(monkeypatch, *BIKE, "--seed", "1..3", "--dry-run") == 0
    assert sys.stdout.getvalue().count("seed ") == 3  # type: ignore[attr-defined]


def test_streams_that_were_closed_take_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert run(monkeypatch, *BIKE, "--dry-run") == 0
    for stream in (sys.stdout, sys.stderr):
        assert stream.name == os.devnull
        stream.close()


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (MemoryError(), 5, "error: out of memory: "),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"),
            5,
            "error: out of memory: ",
        ),
        (KeyboardInterrupt(), 130, "error: interrupted; finished files are kept"),
        (OSError(36, "File name too long", "x.png"), 1, "error: x.png: File name too long"),
        (MediaError("no"), 1, "error: no"),
    ],
)
def test_what_ends_a_command_ends_its_import_alike(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, error_boundary.reporting_errors():
        raise raised
    assert ended.value.code == code and capsys.readouterr().err.startswith(line)


def test_a_limit_of_memory_is_said_before_libraries_are_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (800_000_000, 800_000_000))
    with pytest.raises(OutOfMemory, match=r"may use 0.8 GB of addresses, but its libraries take 1 GB or more: raise"):
        quiet_libraries(verbose=False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2_000_000_000, resource.RLIM_INFINITY))
    _check_address_space()


def test_an_import_that_an_interrupt_spoils_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def spoil() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("numpy.core.multiarray failed to import") from error

    with pytest.raises(SystemExit) as ended, error_boundary.reporting_errors():
        spoil()
    assert ended.value.code == 130 and "Traceback" not in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), error_boundary.reporting_errors():
        raise ZeroDivisionError  # A bug keeps its traceback.


def test_an_interrupt_of_an_import_ends_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    before = signal.getsignal(signal.SIGINT)
    with interrupts.leaving_at_interrupt():
        signal.raise_signal(signal.SIGINT)
        with interrupts.raising_at_interrupt(), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    assert codes == [130, 130] and capfd.readouterr().err == "error: interrupted; finished files are kept\n" * 2
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.leaving_at_interrupt():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


HALF = "a red bike \udcff"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["image", HALF], "prompt"),
        (["image", "a red bike", "--neg", "wheels\udcff"], "negative"),
        (["image", "a red bike", "--neg", "wheels", "--keep", "\udce9"], "keep"),
        (["video", HALF], "prompt"),
        (["attn-map", HALF, "--neg", "wheels"], "prompt"),
        (["image", "a red bike", "--sr", "bike=>car\udcff"], "prompt"),
    ],
)
def test_a_prompt_that_is_not_utf_8_is_refused(arguments: list[str], name: str) -> None:
    found = vsf(*arguments, "--dry-run") if arguments[0] != "attn-map" else vsf(*arguments)
    line = " ".join(found.stderr.split())
    assert found.exit_code == 6 and f"error: {name} '" in line and "is not UTF-8: change the encoding" in line, found.output


@pytest.mark.parametrize("argument", ["-", "@prompt.txt"])
def test_a_file_of_a_prompt_that_is_not_utf_8_is_refused(argument: str, here: Path) -> None:
    (here / "prompt.txt").write_bytes(b"a caf\xe9")
    found = CliRunner().invoke(app, ["image", argument, "--dry-run"], input=b"a caf\xe9")
    line = f"error: prompt {argument} is not UTF-8: unexpected end of data at byte 5; save it as UTF-8\n"
    assert found.exit_code == 6 and found.stderr == line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_of_a_prompt_is_read_as_editors_save_it(encoding: str, here: Path) -> None:
    data = "a red bike\r\n".encode(encoding)
    (here / "prompt.txt").write_bytes(data)
    for argument in ("@prompt.txt", "-"):
        found = CliRunner().invoke(app, ["image", argument, "--dry-run", "--json"], input=data)
        assert json.loads(found.stdout)["prompt"] == "a red bike"


def test_a_nul_in_a_text_is_refused_before_the_work(here: Path) -> None:
    (here / "prompt.txt").write_bytes(b"a red\0 bike")
    (here / "t.json").write_text(r'[{"prompt": "a red bike", "negative": "whe\u0000els"}]')
    for arguments in (["image", "@prompt.txt"], ["video", "@prompt.txt"], ["batch", "t.json"]):
        found = vsf(*arguments)
        assert found.exit_code == 6 and "has a NUL character" in " ".join(found.stderr.split()), found.output


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", f"{LONG}/x.png"], 1, "File name too long; choose another place with -o"),
        (["-o", f"new/{LONG}/x.png"], 1, "File name too long; choose another place with -o"),
        (["-o", "y/" * 2500 + "x.png"], 1, "File name too long; choose another place with -o"),
        (["-m", LONG], 4, "is neither a folder"),
        (["--preset", LONG], 6, "does not exist"),
        (["--preset", f"{LONG}.toml"], 6, "there is no such file"),
        (["--lora", f"{LONG}.safetensors"], 4, "there is no such file"),
        (["--image", f"{LONG}.png"], 1, "File name too long"),
    ],
)
def test_a_name_that_is_too_long_is_one_line_before_the_work(arguments: list[str], code: int, message: str) -> None:
    found = vsf(*BIKE, *arguments)
    line = " ".join(found.stderr.split())
    assert found.exit_code == code and message in line and "Traceback" not in line, found.output
    assert not any(Path().iterdir())


@pytest.mark.parametrize("command", ["info", "again", "attn-map", "batch"])
def test_a_file_whose_name_is_too_long_is_one_line(command: str) -> None:
    found = vsf(command, f"{LONG}.png")
    assert found.exit_code in (1, 6) and "File name too long" in " ".join(found.stderr.split()), found.output


def test_a_long_name_is_cut_and_told(here: Path) -> None:
    found = vsf(*BIKE, "-o", f"{LONG}.png", "--exists", "error")
    (path,) = here.glob("*.png")
    assert found.exit_code == 0 and found.stdout == f"{path.name}\n" and len(path.name) == 200


def test_two_processes_that_skip_leave_one_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race(monkeypatch, Path("x.png"))
    found = vsf(*BIKE, "-o", "x.png", "--exists", "skip")
    assert found.exit_code == 0 and found.stdout == "x.png\n" and Path("x.png").read_bytes() == b"another's"
    assert "x.png was written by another process meanwhile" in " ".join(found.stderr.split())


@pytest.mark.parametrize("extra", [[], ["--neg", "wheels", "--compare", "none,vsf"]])
def test_two_processes_that_add_a_suffix_write_two_files(extra: list[str], here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race(monkeypatch, Path("x.png"))
    found = vsf(*BIKE, *extra, "-o", "x.png")
    assert found.exit_code == 0 and found.stdout == "x-2.png\n" and Path("x.png").read_bytes() == b"another's"


def test_two_processes_that_skip_a_strip_leave_one_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    race(monkeypatch, Path("x.png"))
    found = vsf(*BIKE, "--neg", "wheels", "--compare", "none,vsf", "-o", "x.png", "--exists", "skip")
    assert found.exit_code == 0 and found.stdout == "x.png\n" and Path("x.png").read_bytes() == b"another's"


def race(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Another process writes a file just before this one names its own."""
    from vsf_cli.media import files

    genuine = files._name_new

    def late(partial: Path, target: Path) -> bool:
        if target == path and not path.exists():
            path.write_bytes(b"another's")
        return genuine(partial, target)

    monkeypatch.setattr(files, "_name_new", late)


@pytest.mark.parametrize("links", [True, False])
def test_a_file_is_not_replaced_where_none_may_be(here: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from vsf_cli.media.files import write_bytes

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    write_bytes(Path("x"), b"1", replace=False)
    with pytest.raises(FileExistsError):
        write_bytes(Path("x"), b"2", replace=False)
    assert Path("x").read_bytes() == b"1" and [path.name for path in here.iterdir()] == ["x"]


def test_maps_replace_their_own_folder_and_no_other(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begins(*_: Any) -> None:
        raise ModelError("the work begins")

    monkeypatch.setattr(attn_map, "prepare", begins)
    (here / "m" / "steps").mkdir(parents=True)
    for name in ("maps.npz", "summary.json", "index.html", "grid-logits.png", "steps/2.png"):
        (here / "m" / name).touch()
    maps = ["attn-map", "a red bike", "--neg", "wheels", "-o", "m", "--exists"]
    assert "the work begins" in vsf(*maps, "overwrite").stderr
    assert vsf(*maps, "skip").stdout == "m/index.html\n"
    assert json.loads(vsf(*maps, "skip", "--json").stdout) == {"path": "m"}
    (here / "m" / "diary.txt").write_text("of mine")
    found = vsf(*maps, "overwrite")
    assert found.exit_code == 1 and "holds other things" in " ".join(found.stderr.split())


def test_what_exists_is_listed_though_nothing_was_left_to_do(here: Path) -> None:
    made = [*BIKE, "-o", "x.png", "--seed", "1,2", "--neg", "wheels"]
    assert vsf(*made).exit_code == 0
    Path("x-2.png").unlink()
    assert vsf(*made, "--exists", "skip").stdout == "x-1.png\nx-2.png\n"
    assert vsf(*made, "--exists", "skip").stdout == "x-1.png\nx-2.png\n"
    lines = [json.loads(line) for line in vsf(*made, "--exists", "skip", "--json").stdout.splitlines()]
    assert [(line["path"], line["request"]["seed"]) for line in lines] == [("x-1.png", 1), ("x-2.png", 2)]
    assert vsf(*made, "--exists", "skip", "--sidecar").exit_code == 0
    assert [json.loads(Path(f"x-{seed}.png.json").read_text())["request"]["seed"] for seed in (1, 2)] == [1, 2]
    assert "--dump-attn has no effect on x-1.png, which exists" in " ".join(
        vsf(*made, "--exists", "skip", "--dump-attn").stderr.split()
    )
    Path("x-1.png.json").unlink()
    Path("x-1.png").write_bytes(b"")
    told = vsf(*made, "--exists", "skip", "--sidecar").stderr
    assert "--sidecar has no effect on x-1.png, which exists and has no metadata" in " ".join(told.split())
    lines = [json.loads(line) for line in vsf(*made, "--exists", "skip", "--json").stdout.splitlines()]
    assert lines[0] == {"path": "x-1.png", "seconds": None}
