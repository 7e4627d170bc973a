"""Callbacks from Python: what they are told, how they end a run, and what happens where they fail."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import alignrank
from squares import write_squares

from alignrank import Detector
from alignrank.errors import InputError, TrainingError
from alignrank.training.state import last_state, progress_of

OPTIONS: dict[str, Any] = {"epochs": 4, "imgsz": 64, "batch": 2, "device": "cpu"}


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares", num_train=2, num_val=1)


def tiny() -> Detector:
    return Detector("yolov8-n", **{"model.size": "t", "train.precision": "fp32", "train.loggers": []})


class Pruner:
    """Ends a run at an epoch; what it is given may be changed without harm."""

    def __init__(self, out: Path, at: int, answer: Any) -> None:
        self.out, self.at, self.answer = out, at, answer
        self.heard: list[tuple[int, dict[str, float]]] = []

    def on_epoch_end(self, epoch: int, metrics: Mapping[str, float]) -> Any:
        state = last_state(self.out)
        assert state is not None
        assert progress_of(state) == (epoch, 0)  # all that keeps the epoch has happened
        assert (self.out / "best.safetensors").is_file()
        self.heard.append((epoch, dict(metrics)))
        metrics.clear()  # type: ignore[attr-defined]
        return self.answer if epoch == self.at else False


@pytest.mark.parametrize(
    ("answer", "stopped"), [("below the median", "Pruner: below the median"), (np.True_, "Pruner")]
)
def test_a_callback_ends_a_run_as_if_it_were_done(answer: Any, stopped: str, squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pruner, epochs = Pruner(out, 2, answer), list[int]()

    def second(epoch: int, metrics: Mapping[str, float]) -> bool:
        epochs.append(epoch)
        return epoch == 2  # the first one's reason is the one that is kept

    result = tiny().train(squares, out=out, callbacks=[pruner, second], **OPTIONS)
    history = json.loads((out / "history.json").read_text())
    assert pruner.heard == [(row["epoch"], row) for row in history]
    assert {"train/box", "lr", "val/ap", "val/box"} <= history[0].keys()
    assert [epoch for epoch, _ in pruner.heard] == epochs == [1, 2]
    results = json.loads((out / "results.json").read_text())
    assert (results["stopped"], results["epochs"]) == (stopped, 2)
    assert json.loads(json.dumps(result["metrics"])) == results["metrics"]
    assert "complete" in alignrank("train", "--resume", str(out)).stderr


def test_a_run_that_nobody_ended_says_nothing_of_it(squares: Path, tmp_path: Path) -> None:
    tiny().train(squares, out=tmp_path / "run", callbacks=[lambda epoch, metrics: None], **OPTIONS | {"epochs": 1})
    assert json.loads((tmp_path / "run" / "results.json").read_text())["stopped"] is None


def failing(epoch: int, metrics: Mapping[str, float]) -> None:
    raise ZeroDivisionError("somebody's slip\nof two lines")


def returning(epoch: int, metrics: Mapping[str, float]) -> Any:
    return {"ap": 1.0}


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        (failing, r"the callback failing failed after epoch 1 \(ZeroDivisionError: somebody's slip\)"),
        (returning, r"the callback returning failed .*must return None, True, False or a reason to stop, not \{'ap'"),
    ],
)
def test_one_that_fails_ends_the_run_with_its_state_kept(
    callback: Any, words: str, squares: Path, tmp_path: Path
) -> None:
    """The epoch that was done counts: the run goes on behind it."""
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=rf"{words}.*alignrank train --resume {out}") as caught:
        tiny().train(squares, out=out, callbacks=[callback], **OPTIONS | {"epochs": 2})
    assert isinstance(caught.value.__cause__, ZeroDivisionError) == (callback is failing)
    assert not (out / "results.json").exists()
    done = alignrank("train", "--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert "epoch 1/2" not in done.stderr
    assert [row["epoch"] for row in json.loads((out / "history.json").read_text())] == [1, 2]


@pytest.mark.parametrize(
    ("callbacks", "devices", "words"),
    [
        ([3], 1, r"callbacks: 3 has no on_epoch_end\(epoch, metrics\)"),
        ([Pruner], 1, "has no on_epoch_end"),
        (failing, 1, "callbacks: must be a list"),
        ([failing], 2, "callbacks: are called in the process that trains, which must be this one; leave out devices"),
    ],
)
def test_what_cannot_be_called_is_told_first(
    callbacks: Any, devices: int, words: str, squares: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        tiny().train(squares, out=tmp_path / "run", callbacks=callbacks, devices=devices, **OPTIONS)
    assert not (tmp_path / "run").exists()
