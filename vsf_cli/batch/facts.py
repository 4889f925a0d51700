"""The settings of a run's items as labels, and which of them make the axes of a grid."""

from collections.abc import Mapping, Sequence
from typing import Any

from vsf_cli.batch.items import Item
from vsf_cli.batch.table import Row, key_of
from vsf_cli.methods import setting_name
from vsf_cli.settings.request import request_options

__all__ = ["axes_of", "columns_of", "in_common"]

FIRST, LAST = ("prompt", "negative", "keep", "seed", "method"), ("model", "preset", "dtype", "vae_tiling", "lora")
"""The order of labels: hyper-parameters of the method and all other options stand between these."""
BEFORE = "before --sr"
"""The label of the prompt as the table has it, if words of it were replaced."""


def columns_of(items: Sequence[Item], rows: Sequence[Row]) -> tuple[list[dict[str, str]], list[str], list[str]]:
    """Returns the settings and columns of each item as texts by name, the names that differ between items, and the swept ones.

    Swept are the words that `--sr` replaced, and what differs between items of one row; the seed is last.
    """
    facts = [{**_settings(item), **_own_columns(rows[item.row], item)} for item in items]
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    varying = [name for name in names if len({fact.get(name, "") for fact in facts}) > 1]
    swept = [name for name in varying if name not in ("prompt", "negative", "keep") and _is_swept(items, facts, name)]
    return facts, varying, sorted(swept, key=lambda name: name == "seed")


def _is_swept(items: Sequence[Item], facts: Sequence[Mapping[str, str]], name: str) -> bool:
    values = {(item.row, fact.get(name, "")) for item, fact in zip(items, facts, strict=True)}
    return name.endswith("=>") or len(values) > len({item.row for item in items})


def in_common(
    items: Sequence[Item], facts: Sequence[Mapping[str, str]], varying: Sequence[str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the settings that all items share, and those of them that a label has: rare ones if they are not the default."""
    names = list(dict.fromkeys(name for fact in facts for name in fact))
    common = {name: facts[0][name] for name in names if name not in varying and facts[0].get(name)} if facts else {}
    methods = [item.request.guidance for item in items[:1]]
    left_out = {one.key for method in methods for one in method.options() if one.field not in method.shown}
    return common, {name: value for name, value in common.items() if name not in left_out}


def axes_of(varying: Sequence[str], swept: Sequence[str]) -> dict[str, str]:
    """Returns the settings of the axes `across`, `down` and `apart`; all are "" if nothing was swept, and images then flow."""
    rows = [name for name in (BEFORE if any(name.endswith("=>") for name in swept) else "prompt",) if name in varying]
    order = [*swept[:2], *rows, *swept[2:]]
    return dict(zip(("across", "down", "apart"), [*order, "", "", ""] if swept else ["", "", ""], strict=False))


def _settings(item: Item) -> dict[str, str]:
    """Returns the settings of a request by the keys of options; a flag only if it is not the default."""
    request = item.request
    plain = request.to_json() | {"size": request.size}
    shown = [one for one in request_options() if one.label and not (one.type is bool and plain[one.field] == one.default)]
    values = {one.key: plain[one.field] for one in shown}
    numbers = {setting_name(request.method, name): value for name, value in request.numbers.items() if request.negative}
    order = [*FIRST, *numbers, *(key for key in values if key not in LAST), *LAST]
    texts = {key: _text((values | numbers)[key]) for key in dict.fromkeys(order) if key in values or key in numbers}
    return {key: text for key, text in texts.items() if text}


def _own_columns(row: Row, item: Item) -> dict[str, str]:
    """Returns the cells of the columns that are not options."""
    used = {"prompt", "negative", "seed", "alpha", "beta", "neg", "name", "width", "height", *_settings(item)}
    own = {name: value for name, value in row.cells.items() if not {name.lower(), key_of(name)} & used and value}
    if not any(name.endswith("=>") for name in own):
        return own
    return {BEFORE: next(value for name, value in row.cells.items() if key_of(name) == "prompt"), **own}


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
