"""The command line: one file a command, thin."""

from vsf_cli.cli.app import app

__all__ = ["app"]
