"""What is tried, and who chooses, by the settings."""

from typing import Any

from vsf_cli.config.names import BUILT_IN_JUDGES
from vsf_cli.config.strengths import AUTO, given_strengths, is_auto, parse_strengths
from vsf_cli.errors import RequestError
from vsf_cli.methods import Method
from vsf_cli.prompts.texts import Texts
from vsf_cli.settings.presets import Settings

__all__ = ["choice_of"]


def choice_of(texts: Texts, settings: Settings, guidance: Method) -> dict[str, Any]:
    """Returns the fields of a request that say what is tried and who chooses; none if nothing is.

    Raises:
        RequestError: If strengths cannot be parsed.
    """
    if not texts.negative:
        return {}
    best_of = settings["best_of"]
    fields: dict[str, Any] = {"best_of": 1 if best_of is None else best_of}
    if guidance.name == "vsf" and is_auto(settings["alpha"]):
        fields["strengths"] = _strengths(settings["alpha"]) or settings.preset.strengths_for(bool(texts.keep))
    if fields == {"best_of": 1} and texts.keep != (AUTO,):
        return {}
    return {**fields, **_judge(settings)}


def _strengths(alpha: str) -> str:
    """Returns the strengths of a value of alpha, written in one way, so that equal ones are one item of a batch."""
    try:
        given = given_strengths(alpha)
        return ",".join(map(str, parse_strengths(given))) if given else ""
    except ValueError as error:
        raise RequestError(f"alpha: {error}") from error


def _judge(settings: Settings) -> dict[str, Any]:
    """Returns the judge, its model and its threshold."""
    judge = {name: settings[name] for name in ("judge", "judge_model", "judge_threshold")}
    if judge["judge"] not in BUILT_IN_JUDGES:
        return judge
    # What stands for another judge in the environment or the user's file does not count.
    return {name: value for name, value in judge.items() if name == "judge" or settings.origin(name).origin == "option"}
