"""`python -m vsf_cli` is `vsf`."""

from vsf_cli.cli import app

app()
