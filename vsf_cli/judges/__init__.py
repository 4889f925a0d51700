"""The judges by name. A judge is built from options of the command line, and loads its model at the first image."""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vsf_cli.config.names import check_choice
from vsf_cli.errors import RequestError
from vsf_cli.judges.clip import ClipJudge
from vsf_cli.judges.judgement import Judge
from vsf_cli.judges.mllm import MllmJudge
from vsf_cli.judges.scenes import ScenesJudge, SecondScenesJudge, VideoScenesJudge
from vsf_cli.judges.vlm import VlmJudge

__all__ = ["JUDGES", "judge_named"]

_CLASSES: tuple[Any, ...] = (ScenesJudge, SecondScenesJudge, VideoScenesJudge, MllmJudge, VlmJudge, ClipJudge)
JUDGES: Mapping[str, Callable[..., Judge]] = MappingProxyType({judge.name: judge for judge in _CLASSES})


def judge_named(name: str, options: Mapping[str, Any]) -> Judge:
    """Returns a judge with the options that are not None.

    Raises:
        RequestError: If there is no such judge, or an option is not its own.
    """
    check_choice("--judge", name, JUDGES)
    given = {key: value for key, value in options.items() if value is not None}
    if unknown := [key for key in given if key not in inspect.signature(JUDGES[name]).parameters]:
        raise RequestError(f"judge {name} takes no {unknown[0].replace('_', ' ')}: leave it out, or choose another judge")
    return JUDGES[name](**given)
