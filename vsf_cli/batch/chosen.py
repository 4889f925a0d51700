"""What a judge chose for an item, as the journal has it, and the request that makes the same image without a judge."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsf_cli.config.strengths import numbers_of_strength
from vsf_cli.settings.request import UNCHOSEN, Request

__all__ = ["chosen_facts", "chosen_request"]


def chosen_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file says of a choice: its settings, and whether the judge is content; nothing without one."""
    if "choice" not in description:
        return {}
    choice, request = description["choice"], description["request"]
    varied = {name: request[name] for name in ("seed", "method", "keep")}
    return {"content": choice["content"], "runs": choice["runs"], **varied, **numbers_of_strength(request["parameters"])}


def chosen_request(request: Request, facts: Mapping[str, Any]) -> Request:
    """Returns the request that was chosen, by the facts of its choice; without any, the request itself."""
    if not facts:
        return request
    varied = {"seed": facts["seed"], "method": facts["method"], "keep": tuple(facts["keep"])}
    parameters = {**request.parameters, **numbers_of_strength(facts)} if facts["method"] == request.method else {}
    return replace(request, **{**UNCHOSEN, **varied, "parameters": parameters})
