"""The command line."""

from attngen.cli.commands import main

__all__ = ["main"]
