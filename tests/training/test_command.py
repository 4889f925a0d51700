import pytest

from training.command import run
from vsf_cli.errors import RequestError


@pytest.mark.parametrize(("error", "code", "line"), [(KeyboardInterrupt(), 130, "interrupted"), (RequestError("no"), 6, "no")])
def test_what_ends_a_tool_is_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    said = capsys.readouterr().err
    assert ended.value.code == code and said.startswith(f"error: {line}") and said.count("\n") == 1
