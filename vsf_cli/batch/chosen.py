"""What a judge chose for an item, as the journal has it, and the request that makes the same image without a judge."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vsf_cli.settings.request import UNCHOSEN, Request

__all__ = ["chosen_facts", "chosen_request"]


def chosen_facts(description: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a file says of a choice: its settings, and whether the judge is content; nothing without one."""
    if "choice" not in description:
        return {}
    choice, request = description["choice"], description["request"]
    numbers = {name: request["parameters"][name] for name in ("alpha", "contrast") if name in request["parameters"]}
    varied = {name: request[name] for name in ("seed", "method", "keep")}
    return {"content": choice["content"], "runs": choice["runs"], **varied, **numbers}


def chosen_request(request: Request, facts: Mapping[str, Any]) -> Request:
    """Returns the request that was chosen, by the facts of its choice; without any, the request itself."""
    if not facts:
        return request
    numbers = {name: facts[name] for name in ("alpha", "contrast") if name in facts}
    varied = {"seed": facts["seed"], "method": facts["method"], "keep": tuple(facts["keep"])}
    same = facts["method"] == request.method
    return replace(request, **{**UNCHOSEN, **varied, "parameters": {**request.parameters, **numbers} if same else {}})
