"""HTML pages of one file, which need no network. Their templates extend `templates/base.html.j2`."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["render"]


def render(template: str, **values: Any) -> str:
    """Returns the HTML of a template with values for its variables; text is escaped."""
    environment = Environment(
        loader=PackageLoader("vsf_cli.media"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    # Keys keep their order.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(**values)
