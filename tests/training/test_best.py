"""Which epoch's weights a run calls the best, what it says of it, and when patience is at its end."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import TINY, alignrank
from squares import write_squares

from alignrank.training import recorder
from alignrank.training.best import Best, best_in_words
from alignrank.training.plan import Plan
from alignrank.training.recorder import Recorder
from alignrank.weights import checkpoint

NAN = math.nan
Evaluation = tuple[float | None, float | None]  # AP and validation loss
STOP: Evaluation = (None, None)  # behind an evaluation: SIGTERM comes while it is made


def rows(*evaluations: Evaluation | None) -> list[dict[str, float]]:
    """History of a run, an epoch each; None: not evaluated."""
    history = []
    for epoch, evaluation in enumerate(evaluations, start=1):
        row = {"epoch": epoch, "train/box": 1.0}
        ap, loss = evaluation or (None, None)
        row |= {} if ap is None else {"val/ap": ap, "val/lrp": 1 - ap}
        row |= {} if loss is None else {"val/box": loss / 4, "val/cls": loss * 3 / 4}
        history.append(row)
    return history


@pytest.mark.parametrize(
    ("evaluations", "epoch", "because"),
    [
        ([(0.1, 3.0), (0.3, 2.0), (0.2, 1.0)], 2, "AP 0.300"),
        ([(0.3, 2.0), (0.3, 2.5), (0.2, 1.0)], 2, "AP 0.300"),
        ([(0.0, 3.0), (0.0, 1.0), (0.0, 2.0)], 2, "by validation loss: AP is 0 in every epoch"),
        ([(0.0, 3.0), (0.0, 1.0), (0.0, 1.0)], 3, "by validation loss: AP is 0 in every epoch"),
        ([(0.0, 1.0), (0.0001, 3.0), (0.0, 0.5)], 2, "AP 0.0001"),
        ([(0.0, NAN), (0.0, 1.0), (0.0, NAN)], 2, "by validation loss: AP is 0 in every epoch"),
        ([(0.0, NAN), (0.0, math.inf)], 2, "as the last one: AP is 0 in every epoch"),
        ([(0.0, None), (0.0, None)], 2, "as the last one: AP is 0 in every epoch"),
        ([(None, 2.0), (None, 1.0), (None, 3.0)], 2, "by validation loss: AP is undefined in every epoch"),
        ([(NAN, 1.0), (0.1, 2.0), (NAN, 0.5)], 2, "AP 0.100"),
        ([None, (0.0, 2.0), None, (0.0, 3.0)], 2, "by validation loss: AP is 0 in every epoch that was evaluated"),
    ],
)
def test_the_best_epoch_and_why(evaluations: Sequence[Evaluation | None], epoch: int, because: str) -> None:
    history, best = rows(*evaluations), Best()
    for row, evaluation in zip(history, evaluations, strict=True):
        if evaluation is not None:
            best.takes(row)
    assert (best.epoch, best_in_words(history, best.epoch)) == (epoch, because)


def test_only_what_is_better_counts_for_patience() -> None:
    best, improved = Best(), []
    for row in rows((0.0, 3.0), (0.0, 2.0), (0.0, 2.0), (0.1, 9.0), (0.1, 1.0), (0.1, 1.0)):
        assert best.takes(row)
        improved.append(best.improved)
    assert improved == [1, 2, 2, 4, 4, 4]


def test_states_of_before_the_loss_was_kept_go_on(tmp_path: Path) -> None:
    """What such a state calls the best is what lies in best.safetensors: it stays so until an epoch is as good."""
    of = Recorder(Plan.__new__(Plan), None)  # type: ignore[arg-type]
    of.load_state_dict({"history": rows((0.0, 3.0), (0.0, 2.0)), "best_ap": 0.0, "best_epoch": 1, "seconds": 7.0})
    assert (of.best, of.seconds) == (Best(1, 0.0, 3.0, 1), 7.0)
    assert not of.best.takes(rows((0.0, 4.0))[0] | {"epoch": 3})
    assert of.best.takes(rows((0.0, 3.0))[0] | {"epoch": 4})
    of.load_state_dict({"history": [], "best_ap": -1.0, "best_epoch": 0, "seconds": 7.0})
    assert of.best.takes(rows((0.0, 4.0))[0])


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares", num_train=2, num_val=1)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Evaluation]:
    """What the evaluations of the next run will say, in order."""
    evaluations: list[Evaluation] = []

    def validate(*arguments: Any, **options: Any) -> Any:
        ap, loss = evaluations.pop(0)
        if evaluations[:1] == [STOP]:
            del evaluations[0]
            os.kill(os.getpid(), signal.SIGTERM)
        losses = {} if loss is None else {"box": loss}
        return SimpleNamespace(losses=losses, metrics=SimpleNamespace(scalars=lambda: {"ap": ap, "lrp": 0.5}))

    monkeypatch.setattr(recorder, "validate", validate)
    return evaluations


def trained(squares: Path, out: Path, *options: str) -> tuple[str, dict[str, Any]]:
    done = alignrank("train", "--data", str(squares), *TINY, "--out", str(out), *options)
    assert done.returncode == 0, done.stderr
    return done.stderr, json.loads((out / "results.json").read_text())


def test_a_run_without_any_ap_keeps_the_weights_of_the_lowest_loss(
    squares: Path, tmp_path: Path, scripted: list[Evaluation]
) -> None:
    scripted[:] = [(0.0, 3.0), (0.0, 1.0), (0.0, 2.0)]
    said, results = trained(squares, tmp_path / "run", "--epochs", "3")
    assert checkpoint.load(tmp_path / "run").metrics["epoch"] == 2
    assert "best epoch 2 by validation loss: AP is 0 in every epoch" in said
    assert (results["best_epoch"], results["epochs"]) == (2, 3)
    assert results["best_because"] == "by validation loss: AP is 0 in every epoch"


def test_a_plateau_ends_by_patience_and_its_last_epoch_is_kept(
    squares: Path, tmp_path: Path, scripted: list[Evaluation]
) -> None:
    scripted[:] = [(0.1, 3.0), (0.2, 2.0), *[(0.2, 1.0)] * 10]
    said, results = trained(squares, tmp_path / "run", "--epochs", "12", "train.patience=2")
    assert (results["epochs"], results["best_epoch"], results["best_because"]) == (4, 4, "AP 0.200")
    assert results["stopped"] == "patience: 2 epochs without a better AP"
    assert "best epoch 4: AP 0.200" in said


def test_patience_waits_for_an_evaluation(squares: Path, tmp_path: Path, scripted: list[Evaluation]) -> None:
    """Fewer epochs of patience than from one evaluation to the next: the run had no weights to end with."""
    scripted[:] = [(0.1, 3.0), (0.2, 2.0), (0.2, 2.0)]
    _, results = trained(squares, tmp_path / "run", "--epochs", "20", "train.patience=2", "train.val_every=3")
    assert (results["epochs"], results["best_epoch"]) == (9, 9)


def test_a_resumed_run_knows_the_best_loss_so_far(squares: Path, tmp_path: Path, scripted: list[Evaluation]) -> None:
    """Terminated after its second epoch; the third one's loss is lower than the second's, but not the first's."""
    out = tmp_path / "run"
    scripted[:] = [(0.0, 1.0), (0.0, 3.0), STOP, (0.0, 2.0)]
    done = alignrank("train", "--data", str(squares), *TINY, "--out", str(out), "--epochs", "3")
    assert done.returncode == 143, done.stderr
    assert alignrank("train", "--resume", str(out)).returncode == 0
    results = json.loads((out / "results.json").read_text())
    assert (results["epochs"], results["best_epoch"]) == (3, 1)
    assert checkpoint.load(out).metrics["epoch"] == 1
