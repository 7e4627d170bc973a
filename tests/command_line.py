"""What tests of whole runs share: a tiny network and the command line."""

from __future__ import annotations

import os
import subprocess
import sys

TINY = [
    "--imgsz",
    "64",
    "--batch",
    "4",
    "--device",
    "cpu",
    "model.size=t",
    "train.precision=fp32",
    "augment.plain_epochs=1",
]


def alignrank(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alignrank", *arguments], capture_output=True, text=True, env=environment(), check=False
    )


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr with `words`, nothing on stdout, exit code 2."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for word in words:
        assert word in last
