import logging

import pytest

from vsf_cli.loading.libraries import quietly


@pytest.mark.parametrize("handlers", [[], [logging.NullHandler()]])
def test_libraries_are_quiet_inside_unless_logging_is_set_up(
    handlers: list[logging.Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    logs = diffusers, transformers

    def state() -> list[tuple[int, bool]]:
        return [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]

    before = state()
    with quietly():
        levels = [level for level, _ in before] if handlers else [logging.ERROR] * 2
        assert state() == [(level, False) for level in levels]
    assert state() == before
