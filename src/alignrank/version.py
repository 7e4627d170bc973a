"""The release; pyproject.toml repeats it, and a test holds the two together. The commit, of a source tree."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"


def commit() -> str | None:
    """The commit of the source tree this package runs from, for records of runs; None for an installed one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    import subprocess  # not needed to print the release

    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return head.stdout.strip() or None
