"""What tests of whole runs share: a tiny network and the command line.

`alignrank` runs a command in this process: what it prints and how it ends are those of the program, and nothing has to
be imported anew. `process` starts the program itself: for what a process does (signals, limits, streams of its own).
A test whose command is refused for want of an extra that is indeed not installed is skipped.
`stopped_at` starts a training that sends itself a signal at one step, so that nobody has to wait for the moment.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest
from missing_extra import why_refused

from alignrank import cli

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
_STOPPED = """
import os
from alignrank.training.module import TrainingModule
step = TrainingModule.training_step
def stopping(self, batch, index):
    if (self.current_epoch, index) == ({epoch}, {step}):
        {send}
    return step(self, batch, index)
TrainingModule.training_step = stopping
from alignrank.cli import main
main()
"""


def alignrank(*arguments: str) -> subprocess.CompletedProcess[str]:
    stdout, stderr = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(stdout), redirect_stderr(stderr), patch.object(sys, "argv", ["alignrank", *arguments]):
        try:
            cli.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        except BaseException:  # as the interpreter would end
            traceback.print_exc()
            code = 1
    ended = subprocess.CompletedProcess(["alignrank", *arguments], code, stdout.getvalue(), stderr.getvalue())
    return _skipped_without_extra(ended)


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-m", "alignrank", *arguments], capture_output=True, text=True, env=environment(), check=False
    )
    return _skipped_without_extra(ended)


def _skipped_without_extra(ended: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    if ended.returncode == 2 and (reason := why_refused(ended.stderr)):
        pytest.skip(reason)
    return ended


def stopped_at(
    epoch: int, step: int, number: signal.Signals, *arguments: str, group: bool = False, verb: str = "train"
) -> subprocess.CompletedProcess[str]:
    """`VERB ARGUMENTS`, signalled before that step of a training (from 0). group: its loader processes, too, as a
    terminal does.
    """
    send = f"os.killpg(os.getpgid(0), {int(number)})" if group else f"os.kill(os.getpid(), {int(number)})"
    code = _STOPPED.format(epoch=epoch, step=step, send=send)
    return subprocess.run(
        [sys.executable, "-c", code, verb, *arguments],
        capture_output=True, text=True, env=environment(), check=False, start_new_session=True, timeout=300,
    )  # fmt: skip


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
