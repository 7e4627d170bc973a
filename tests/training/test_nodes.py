"""Two machines, each an agent of torchrun with one process, on loopback: one training, also when a process dies."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import alignrank, environment
from safetensors.torch import load_file
from squares import write_squares

from alignrank.errors import InputError
from alignrank.training.nodes import Group, launched, settled
from alignrank.training.options import RunOptions
from alignrank.training.state import last_state

# Fixed batch norms: a CPU's processes have statistics of their own.
PLAIN = [
    *("--model", "retinanet-r50", "--imgsz", "64", "--epochs", "3", "--device", "cpu"),
    *("model.backbone=timm:test_resnet", "model.freeze=0", "neck.width=32", "head.convs=1", "train.precision=fp32"),
]
# The program, whose second process is killed in the third epoch.
KILLED = """
import os, signal
from alignrank.cli import main
from alignrank.training.module import TrainingModule
step = TrainingModule.training_step
def stopping(self, batch, index):
    if os.environ["RANK"] == "1" and self.current_epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, index)
TrainingModule.training_step = stopping
main()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and all that was said, of each."""
    said = [process.communicate(timeout=900)[0] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def two_machines(logs: Path, *arguments: str) -> list[tuple[int, str]]:
    """`torchrun ARGUMENTS` as on two machines: exit code of each agent, and all that its process said, of which `logs`
    gets the files. What an agent says itself is left out: one that ends later complains of the other.
    """
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *meeting]
    folders = [logs / name for name in ("first", "second")]
    codes = [
        code
        for code, _ in ended([
            subprocess.Popen(
                [*torchrun, "--local-addr", "127.0.0.1", "--redirects", "3", "--log-dir", str(folder), *arguments],
                env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            ) for folder in folders
        ])
    ]  # fmt: skip
    said = [[file.read_text(encoding="utf-8") for file in sorted(folder.rglob("std*.log"))] for folder in folders]
    assert [len(files) for files in said] == [2, 2]
    return [(code, "".join(files)) for code, files in zip(codes, said, strict=True)]


def test_one_training_that_outlives_a_process(tmp_path: Path) -> None:
    """Killed in the third epoch: the other process ends with one sentence. Resumed: the weights of one process with
    twice the batch. The second machine says nothing.
    """
    data, out = write_squares(tmp_path / "data"), tmp_path / "run"
    program = tmp_path / "program.py"
    program.write_text(KILLED)
    asked = ["--data", str(data), "--batch", "4", "--out", str(out), *PLAIN]
    codes, said = zip(*two_machines(tmp_path / "killed", str(program), "train", *asked), strict=True)
    assert all(codes), said
    ours = [line for line in "".join(said).splitlines() if line.startswith("alignrank:")]
    assert len(ours) == 1, said
    assert "another process of this training has ended" in ours[0]
    assert ours[0].endswith(f"--resume {out}")
    assert len(json.loads((out / "history.json").read_text())) == 2
    state = last_state(out)
    assert state is not None
    before = torch.load(state, weights_only=True)["state_dict"]

    (first, words), second = two_machines(tmp_path / "resumed", "-m", "alignrank", "train", "--resume", str(out))
    assert first == 0, words
    assert "batch 4 in each of 2 processes" in words
    assert second == (0, "")
    assert (out / "results.json").is_file()
    assert not list(out.glob("*.tmp"))

    alone = alignrank("train", "--data", str(data), "--batch", "8", "--out", str(tmp_path / "alone"), *PLAIN)
    assert alone.returncode == 0, alone.stderr
    expected, found = (load_file(run / "last.safetensors") for run in (tmp_path / "alone", out))
    assert max(float((before[f"model.{name}"] - tensor).abs().max()) for name, tensor in expected.items()) > 1e-4
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)


def test_the_others_end_when_the_first_one_refuses(tmp_path: Path) -> None:
    """As torchrun starts them, without torchrun: the first one says why, all have its exit code."""
    shared = {"WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    shared |= {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "alignrank", "train", "--data", str(tmp_path / "nowhere")]
    (first, words), second = ended([
        subprocess.Popen(
            command, env=environment() | shared | {"RANK": rank, "GROUP_RANK": rank}, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) for rank in "01"
    ])  # fmt: skip
    assert first == 2
    assert "nowhere" in words.splitlines()[-1]
    assert second == (2, "")
    assert not list(tmp_path.iterdir())


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as torchrun has started, with a run that goes on as many as it had."""
    options, group = RunOptions(data="x"), Group(rank=0, processes=4, machines=2)
    assert launched() is None
    assert settled(options, None) == options
    assert settled(options, group).devices == 4
    two = options.model_copy(update={"devices": 2})
    with pytest.raises(InputError, match="2 processes, but torchrun has started 4"):
        settled(two, group)
    with pytest.raises(InputError, match="the run has 1 processes"):
        settled(options, group, Path("run"))
    names = ("RANK", "WORLD_SIZE", "GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID")
    for name, value in zip(names, "14229", strict=True):
        monkeypatch.setenv(name, value)
    assert launched() == Group(rank=1, processes=4, machines=2)
    with pytest.raises(InputError, match="command line only"):
        settled(options, None)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    with pytest.raises(InputError, match="same on all machines"):
        launched()
