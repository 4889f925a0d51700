"""`python -m vsf_cli` is `vsf`."""

from vsf_cli.cli.app import app

app()
