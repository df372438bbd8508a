"""The command line: parsing and printing only."""

from vivit_lab.cli.app import app, main

__all__ = ["app", "main"]
