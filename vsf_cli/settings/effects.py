"""Options without effect: what was given and cannot act is refused, or said. What an option needs is in its field."""

from collections.abc import Iterable

from vsf_cli.config.option import Option, idle
from vsf_cli.methods import METHODS, method_options
from vsf_cli.models import FAMILIES, Family
from vsf_cli.settings.options import OF_REQUEST, SETTINGS
from vsf_cli.settings.presets import Preset, Settings, uses_cfg
from vsf_cli.settings.request import Request

__all__ = ["standing_without_effect", "unfolded", "without_effect"]


def without_effect(given: Iterable[Option], request: Request, preset: Preset | None = None) -> dict[str, str]:
    """Returns a message for each of the given options that has no effect on a request, by their keys."""
    family = FAMILIES[preset.family] if preset else None
    # The contrast is also that of the words that a preset keeps, which are left out where it is 0.
    spared = preset is not None and preset.keep_neutral
    given = [one for one in given if not (spared and one.key == "contrast" and request.negative)]
    messages = {one.key: message for one, message in idle(given, request, request.guidance)}
    scale, one = request.guidance_scale, OF_REQUEST["guidance"]
    embeds = family is not None and family.embeds_scale
    if one in given and 0 < scale < 1 and not embeds and not uses_cfg(request, family):
        messages[one.key] = f"{one.flag} is {scale:g}, and turns no CFG on: pass more than 1, or leave {one.flag} out"
    return messages | _of_contrasts(given, request) | _of_folding(given, request, family)


def _of_contrasts(given: Iterable[Option], request: Request) -> dict[str, str]:
    own = all(one.alpha is None or one.contrast is not None for one in request.tried_strengths)
    if not request.strengths or not own or OF_REQUEST["contrast"] not in given:
        return {}
    return {"contrast": "--contrast has no effect where each strength has its own: leave --contrast out"}


def _of_folding(given: Iterable[Option], request: Request, family: Family | None) -> dict[str, str]:
    message = unfolded(request, family)
    return {"fold_padding": message} if message and OF_REQUEST["fold_padding"] in given else {}


def unfolded(request: Request, family: Family | None) -> str:
    """Returns a message if padding shall be folded in a family where it cannot be; "" if it can, or nobody knows."""
    if family is None or family.folds_padding or not request.fold_padding:
        return ""
    return "--fold-padding is for Wan alone, whose text stays as it is in all blocks: leave it out"


def standing_without_effect(settings: Settings, request: Request, origin: str = "environment") -> list[str]:
    """Returns a message for each value of the environment or the user's file that changes images, but not those of a request.

    Values for videos are for other commands.
    """
    given = [one for one in settings.given(origin) if one.key in OF_REQUEST and not one.video]
    messages = without_effect(given, request, settings.preset)
    for key, (owner, _) in method_options().items():
        if owner != request.method and SETTINGS[key] in given:
            messages[key] = f"it is {METHODS[owner].label}'s, and the method is {request.method}"
    named = {one.key: one.variable if origin == "environment" else f"{one.key} of the {origin}" for one in given}
    return [f"{named[key]} has no effect: {message}" for key, message in messages.items()]
