"""The command line: each verb is one engine call. Nothing heavy is imported before a verb runs.

stdout carries results only (one JSON object with --json); everything else goes to stderr.
Exit codes: 0 done, 1 our own fault, 2 bad input, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

from alignrank.cli.entry import main
from alignrank.cli.verbs import app

__all__ = ["app", "main"]
