"""Our pages: each is one HTML file that opens from disk, asks no network, and stands on `templates/base.html.j2`."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

__all__ = ["rendered"]


def rendered(template: str, **values: Any) -> str:
    """The HTML of a page.

    Arguments:
        template: The name of its template.
        values: What the template asks for; what people wrote is escaped.
    """
    environment = Environment(
        loader=PackageLoader("vsf_cli.media"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    # As they stand, not by their letters.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    return environment.get_template(template).render(**values)
