"""Runs that are killed, run out of room, diverge or meet another run: nothing whole is lost, and all say so."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command_line import TINY, alignrank, environment, process, refused, stopped_at
from safetensors.torch import load_file
from squares import write_squares

from alignrank.errors import InputError
from alignrank.folders import LOCK_FILE, locked
from alignrank.training.module import TrainingModule
from alignrank.training.state import last_state, write_state


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares")


def write(folder: Path, epoch: int, content: bytes) -> None:
    write_state(folder, epoch, lambda path: path.write_bytes(content))


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    (tmp_path / "state-notes.ckpt").write_text("not ours")
    assert last_state(tmp_path) is None
    for epoch in (9, 10, 11):
        write(tmp_path, epoch, b"state of %d" % epoch)
    kept = sorted(path.read_bytes() for path in tmp_path.glob("state-0*.ckpt"))
    assert kept == [b"state of 10", b"state of 11"]
    last = last_state(tmp_path)
    assert last is not None
    assert last.read_bytes() == b"state of 11"


def test_a_damaged_state_gives_way_to_the_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut, or with one byte changed; if both are damaged, an error says what is left."""
    write(tmp_path, 1, b"one" * 100)
    write(tmp_path, 2, b"two" * 100)
    last = last_state(tmp_path)
    assert last is not None
    last.write_bytes(b"two" * 99)
    before = last_state(tmp_path)
    assert before is not None
    assert before.read_bytes() == b"one" * 100
    assert last.name in capsys.readouterr().err
    before.write_bytes(b"One" + b"one" * 99)
    with pytest.raises(InputError, match=r"all are damaged.*last\.safetensors"):
        last_state(tmp_path)


def test_a_failed_write_leaves_the_states_before(tmp_path: Path) -> None:
    write(tmp_path, 1, b"one")

    def fail(path: Path) -> None:
        path.write_bytes(b"tw")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_state(tmp_path, 2, fail)
    last = last_state(tmp_path)
    assert last is not None
    assert [path.name for path in tmp_path.iterdir()] == [last.name]


def test_one_run_at_a_time(squares: Path, tmp_path: Path) -> None:
    """A second run in the folder is refused and changes nothing; the lock of a killed process is none."""
    out = tmp_path / "run"
    out.mkdir()
    with locked(out):
        command = ["train", "--data", str(squares), "--epochs", "1", *TINY, "--out", str(tmp_path / "other")]
        (tmp_path / "other").mkdir()
        with locked(tmp_path / "other"):
            refused(alignrank(*command), str(tmp_path / "other"), "another run is writing")
        with pytest.raises(InputError, match="another run is writing"), locked(out):
            raise AssertionError
    assert not (out / LOCK_FILE).exists()
    holder = f"from pathlib import Path; from alignrank.folders import locked\nwith locked(Path({str(out)!r})):\n"
    with subprocess.Popen(
        [sys.executable, "-c", holder + " print('held', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError), locked(out):
            raise AssertionError
        process.kill()
    with locked(out):
        pass


FOUR_EPOCHS = ("--epochs", "4", *TINY)


@pytest.fixture(scope="module")
def whole(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs, with two workers, that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = process("train", *FOUR_EPOCHS, "--data", str(squares), "--workers", "2", "--out", str(out))
    assert done.returncode == 0, done.stderr
    return out


def test_the_same_twice(squares: Path, whole: Path, tmp_path: Path) -> None:
    """The same command, data and seed; neither the number of workers nor the process has a say."""
    done = alignrank("train", *FOUR_EPOCHS, "--data", str(squares), "--workers", "0", "--out", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    assert_equal_runs(whole, tmp_path / "again")


def test_killed_and_resumed_gives_the_same_weights(squares: Path, whole: Path, tmp_path: Path) -> None:
    """Killed in the third epoch, with two workers; also the averaged weights, which start from the raw ones."""
    out = tmp_path / "killed"
    given = [*FOUR_EPOCHS, "--data", str(squares), "--workers", "2", "--out", str(out)]
    done = stopped_at(2, 1, signal.SIGKILL, *given, group=True)
    assert done.returncode == -signal.SIGKILL
    assert not (out / "results.json").exists()
    assert len(json.loads((out / "history.json").read_text())) == 2
    resumed = alignrank("train", "--resume", str(out))
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(whole, out)


def assert_equal_runs(first: Path, second: Path) -> None:
    """Weights equal to the bit, and the same history."""
    for name in ("best", "last"):
        a, b = (load_file(run / f"{name}.safetensors") for run in (first, second))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a), name
    losses = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads((run / "history.json").read_text())]
        for run in (first, second)
    ]
    assert losses[0] == losses[1]


ACCUMULATED = (
    "--epochs", "3", *TINY, "--batch", "2", "train.accumulate=2", "augment.multi_scale=0.5", "data.repeat_threshold=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def accumulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and a run of three epochs of eight batches and repeated pictures; two batches make an optimizer's step."""
    folder = tmp_path_factory.mktemp("accumulated")
    data = write_squares(folder / "data", num_train=16)
    done = alignrank("train", "--data", str(data), *ACCUMULATED, "--out", str(folder / "whole"))
    assert done.returncode == 0, done.stderr
    return data, folder / "whole"


@pytest.mark.parametrize(
    ("number", "code", "workers"), [(signal.SIGINT, 130, 2), (signal.SIGTERM, 143, 0)], ids=["ctrl-c", "sigterm"]
)
def test_stopped_within_an_epoch(
    accumulated: tuple[Path, Path], tmp_path: Path, number: signal.Signals, code: int, workers: int
) -> None:
    """The state is written after the step under way, which is one of two that make an optimizer's step; resumed, the
    weights are those of the run that was never stopped.
    """
    (data, whole), out = accumulated, tmp_path / "stopped"
    given = ["--data", str(data), "--workers", str(workers), *ACCUMULATED, "--out", str(out)]
    done = stopped_at(1, 4, number, *given, group=number == signal.SIGINT)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert f"--resume {out}" in done.stderr
    # One epoch, and six batches of the next: the fifth was under way, the sixth ends the optimizer's step.
    assert [path.name.partition("-")[2].rpartition("-")[0] for path in out.glob("state-*+*.ckpt")] == ["00001+000006"]
    resumed = alignrank("train", "--resume", str(out))
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_runs(whole, out)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_loader_process_that_dies(tmp_path: Path, number: signal.Signals) -> None:
    """One sentence and exit code 1; the run goes on from its last state."""
    out = tmp_path / "run"
    data = write_squares(tmp_path / "data", num_train=48)
    command = ["train", "--data", str(data), "--epochs", "40", "--workers", "1", *TINY, "--out", str(out)]
    with subprocess.Popen(
        [sys.executable, "-m", "alignrank", *command], stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        deadline = time.monotonic() + 120
        while not list(out.glob("state-*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in children(process.pid):
            os.kill(child, number)
        said = process.communicate()[1]
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert "a loader process died" in said.splitlines()[-1]
    assert f"--resume {out}" in said.splitlines()[-1]


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_loader_process_that_dies_while_it_hands_over(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What its end of the socket says then; without loader processes it is something else."""

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(TrainingModule, "training_step", broken)
    given = ["train", "--data", str(squares), "--epochs", "1", *TINY]
    done = alignrank(*given, "--workers", "1", "--out", str(tmp_path / "one"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a loader process died" in done.stderr.splitlines()[-1]
    assert "a loader process" not in alignrank(*given, "--workers", "0", "--out", str(tmp_path / "none")).stderr


def children(parent: int) -> list[int]:
    """Processes that `parent` started and that load data, by Linux's own account."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        fields = status.read_text().rpartition(")")[2].split()
        if int(fields[1]) == parent and "resource_tracker" not in (status.parent / "cmdline").read_text():
            found.append(int(status.parent.name))
    return found


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_vanishes(tmp_path: Path, workers: str) -> None:
    """While training, with images read anew each epoch: its name, exit code 2, the last state is kept."""
    out = tmp_path / "run"
    data = write_squares(tmp_path / "data", num_train=48)
    command = ["train", "--data", str(data), "--epochs", "40", "--workers", workers, *TINY, "train.cache=off"]
    with subprocess.Popen(
        [sys.executable, "-m", "alignrank", *command, "--out", str(out)],
        stderr=subprocess.PIPE, text=True, env=environment(),
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        while not list(out.glob("state-*.ckpt")) and time.monotonic() < deadline:
            time.sleep(0.01)
        (data / "images" / "train7.png").unlink()
        said = process.communicate()[1]
    assert process.returncode == 2, said
    assert "Traceback" not in said
    assert "train7.png" in said.splitlines()[-1]
    assert list(out.glob("state-*.ckpt"))


def test_no_room_on_the_disk(squares: Path, tmp_path: Path) -> None:
    """Files of at most 100 kB: no weights fit. Exit code 1, what to do, and nothing half-written."""
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-m", "alignrank", "train", "--data", str(squares), "--epochs", "2", *TINY, "--out", str(out)],
        capture_output=True, text=True, env=environment(), check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "epoch 1 could not be written" in last
    assert f"--resume {out}" in last
    assert not [path.name for path in out.iterdir() if path.suffix in (".safetensors", ".ckpt", ".tmp")]


@pytest.mark.parametrize(
    ("weight", "words"),
    [("1e39", ["the loss is not finite in epoch 1", "train"]), ("1e38", ["is not finite in epoch 1"])],
)
def test_what_is_not_finite_ends_the_run(squares: Path, tmp_path: Path, weight: str, words: list[str]) -> None:
    """The loss, with the names of the images; or weights behind a loss that still was. Neither is written."""
    out = tmp_path / "run"
    losses = [f"loss.cls={weight}", f"loss.box={weight}"]
    done = alignrank("train", "--data", str(squares), "--epochs", "2", *TINY, *losses, "--out", str(out))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert all(word in last for word in words)
    assert not list(out.glob("*.safetensors"))
    assert not list(out.glob("*.ckpt"))
