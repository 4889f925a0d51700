"""What the items of a run were asked, as a person reads it: settings by name, and which of them make the axes of a grid."""

from collections.abc import Mapping, Sequence
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row, usual_name
from vsf_cli.methods import METHODS, setting_name
from vsf_cli.settings.request import request_options

__all__ = ["axes_of", "columns_of", "in_common"]

FIRST, LAST = ("prompt", "negative", "seed", "method"), ("model", "preset", "dtype", "vae_tiling", "lora")
"""The order of labels: the method's own numbers and all other options stand between these."""
BEFORE = "before --sr"
"""The prompt as it stands in the table, where words were replaced."""


def columns_of(items: Sequence[Item], rows: Sequence[Row]) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """What a run's items were asked, as texts by name.

    Returns:
        The settings and columns of each item; the names of those in which items differ; and of those that were swept: what
        `--sr` replaced, and those in which items of one row differ, the seed last.
    """
    facts = [{**_settings(item), **_own_columns(rows[item.row], item)} for item in items]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    varying = [name for name in names if len({fact.get(name, "") for fact in facts}) > 1]
    own = {name: {(item.row, fact.get(name, "")) for item, fact in zip(items, facts, strict=True)} for name in varying}
    several = {name for name in varying if name.endswith("=>") or len(own[name]) > len({item.row for item in items})}
    swept = [name for name in varying if name in several and name not in ("prompt", "negative")]
    return facts, varying, sorted(swept, key=lambda name: name == "seed")


def in_common(
    items: Sequence[Item], facts: Sequence[Mapping[str, str]], varying: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """What all items of a run have in common, and of that what is not as the method has it by itself."""
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    usual = {name: _text(value) for item in items[:1] for name, value in _usual(item).items()}
    common = {name: facts[0][name] for name in names if name not in varying and facts[0].get(name)} if facts else {}
    return common, {name: value for name, value in common.items() if usual.get(name) != value}


def axes_of(varying: Sequence[str], swept: Sequence[str]) -> dict[str, str]:
    """What stands across, down and apart at first; "" for nothing. Unless something was swept, pictures flow."""
    rows = [name for name in (BEFORE if any(name.endswith("=>") for name in swept) else "prompt",) if name in varying]
    order = [*swept[:2], *rows, *swept[2:]]
    return dict(zip(("across", "down", "apart"), [*order, "", "", ""] if swept else ["", "", ""], strict=False))


def _settings(item: Item) -> dict[str, str]:
    """What was asked, by the keys of options; a switch only where it is not as usual."""
    asked = item.request
    plain = asked.to_json() | {"size": asked.size}
    shown = [one for one in request_options() if one.label and not (one.type is bool and plain[one.field] == one.default)]
    values = {one.key: plain[one.field] for one in shown}
    numbers = {setting_name(asked.method, name): value for name, value in asked.parameters.items()}
    order = [*FIRST, *numbers, *(key for key in values if key not in LAST), *LAST]
    found = {key: _text((values | numbers)[key]) for key in dict.fromkeys(order) if key in values or key in numbers}
    return {key: text for key, text in found.items() if text}


def _usual(item: Item) -> dict[str, Any]:
    """The hyper-parameters of the item's method that a method has by itself."""
    return {setting_name(item.request.method, name): value for name, value in METHODS[item.request.method]().parameters.items()}


def _own_columns(row: Row, item: Item) -> dict[str, str]:
    """The columns of the table that are no settings."""
    used = {"prompt", "negative", "seed", "alpha", "beta", "neg", "name", "width", "height", *_settings(item)}
    own = {name: value for name, value in row.cells.items() if name.lower() not in used and value}
    if not any(name.endswith("=>") for name in own):
        return own
    return {BEFORE: next(value for name, value in row.cells.items() if usual_name(name) == "prompt"), **own}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
