from argparse import ArgumentTypeError

import pytest

from training.command import at_least, run
from vsf_cli.errors import RequestError


@pytest.mark.parametrize(("error", "code", "line"), [(KeyboardInterrupt(), 130, "interrupted"), (RequestError("no"), 6, "no")])
def test_what_ends_a_tool_is_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    said = capsys.readouterr().err
    assert ended.value.code == code and said.startswith(f"error: {line}") and said.count("\n") == 1


def test_a_count_is_a_whole_number_from_its_least_on() -> None:
    assert (at_least(1)("12"), at_least(0)("0")) == (12, 0)
    for text in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(ArgumentTypeError, match="not a whole number of 1 or more"):
            at_least(1)(text)
