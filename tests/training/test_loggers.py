"""A run's figures and pictures in TensorBoard, MLflow and W&B: in its folder, and offline."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import TINY, alignrank, refused
from PIL import Image
from squares import write_squares

from alignrank import Detector
from alignrank.data.source import read
from alignrank.errors import InputError, TrainingError
from alignrank.training import loggers, run
from alignrank.training.best import FIGURES
from alignrank.training.loggers import PICTURES, QUIET, RunLog, loggers_of
from alignrank.training.plan import Plan
from alignrank.weights.recipe import load_recipe
from alignrank.weights.settings import TrainConfig

PACKAGES = {name: name for name in ("tensorboard", "mlflow", "wandb")}
SMALL = {"model.size": "t", "train.precision": "fp32"}
OPTIONS: dict[str, Any] = {"epochs": 3, "imgsz": 64, "batch": 2, "device": "cpu"}


def installed(*names: str) -> list[str]:
    """Those of the packages that are there; the test is skipped without any."""
    found = [name for name in names if importlib.util.find_spec(name) is not None]
    if not found:
        pytest.skip(f"needs {' or '.join(names)} (the extra of that name)")
    return found


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares", num_train=2, num_val=1)


@pytest.fixture(scope="module", autouse=True)
def no_settings_of_somebody() -> Iterator[None]:
    """And none that a run has left behind."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [*os.environ]:
            if name.startswith(("MLFLOW_", "WANDB_")):
                patch.delenv(name)
        for name in QUIET:
            patch.setenv(name, "as before")
            patch.delenv(name)
        yield


@pytest.fixture(scope="module")
def stopped_and_resumed(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all trackers that are installed, whose callback failed after an epoch of three, and that went on."""
    out = tmp_path_factory.mktemp("runs") / "tracked"

    def failing(epoch: int, metrics: Any) -> None:
        raise KeyError("a slip of somebody's own")

    wanted = {"train.loggers": ["csv", *installed("tensorboard", "mlflow", "wandb")]}
    with pytest.raises(TrainingError, match="the callback failing failed after epoch 1"):
        Detector("yolov8-n", **SMALL, **wanted).train(squares, out=out, callbacks=[failing], **OPTIONS)
    run.resume(out)
    return out


def test_mlflow_holds_figures_and_pictures_of_one_run(stopped_and_resumed: Path) -> None:
    installed("mlflow")
    from mlflow.tracking import MlflowClient

    out = stopped_and_resumed
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (experiment,) = [one for one in client.search_experiments() if one.name == "alignrank"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == ("tracked", "FINISHED")
    assert found.data.params["train/epochs"] == "3"
    history = json.loads((out / "history.json").read_text())
    for name in ("train/box", "val/ap", "val/ap_lost_ranking", "lr"):
        logged = [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, name)]
        assert logged == [(row["epoch"], pytest.approx(row[name])) for row in history]
    pictures = [Path(one.path).name for one in client.list_artifacts(found.info.run_id, "pictures")]
    assert sorted(pictures) == sorted(PICTURES)
    assert (out / "mlflow").is_dir()


def test_wandb_holds_figures_and_pictures_offline(stopped_and_resumed: Path) -> None:
    """Of one run: its second process goes on under the id of the first."""
    installed("wandb")
    out = stopped_and_resumed
    run_id = json.loads((out / "loggers.json").read_text())["wandb"]
    folders = sorted((out / "wandb").glob("offline-run-*"))
    assert folders
    assert {folder.name.rpartition("-")[2] for folder in folders} == {run_id}
    written = b"".join(path.read_bytes() for path in (out / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    for name in ("val/ap_lost_ranking", "train/box", "tracked", "plain_epochs"):
        assert name.encode() in written
    pictures = {path.name.rsplit("_", 2)[0] for path in out.glob("wandb/offline-run-*/files/media/images/pictures/*")}
    assert pictures == {Path(name).stem for name in PICTURES}


def test_tensorboard_holds_figures_and_pictures(stopped_and_resumed: Path) -> None:
    installed("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(stopped_and_resumed / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/ap")][-3:] == [1, 2, 3]
    assert set(events.Tags()["images"]) == {Path(name).stem for name in PICTURES}


def test_the_table_has_each_epoch_once_and_ranking_figures(stopped_and_resumed: Path) -> None:
    with (stopped_and_resumed / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert "val/ap_lost_between" in rows[-1]


def test_their_own_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variables that they document, set before they are imported; somebody's own setting stays."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "true")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(loggers, "_mlflow", lambda out, run_id: SimpleNamespace())
    plan: Any = SimpleNamespace(out=Path("run"), recipe=SimpleNamespace(train=TrainConfig(loggers=[])), train=None)
    RunLog(plan)._begun("mlflow", "an id")
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"


def test_a_tracker_that_fails_is_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one warning; the run, and what else it writes, goes on. A full disk is no tracker's."""

    class Failing:
        version, calls = "an id", 0

        def log_metrics(self, row: Any, step: int) -> None:
            type(self).calls += 1
            raise ConnectionError("the server is gone\nat line 3")

    plan: Any = SimpleNamespace(out=tmp_path, recipe=SimpleNamespace(train=TrainConfig(loggers=["csv"])))
    log = RunLog(plan)
    log.open()
    log._opened["mlflow"] = Failing()  # type: ignore[assignment]
    for epoch in (1, 2):
        log.row({"epoch": epoch, "lr": 0.1})
    log.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: mlflow: the server is gone; the run goes on without it, its figures are in history.json"
    assert Failing.calls == 1
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3
    log.open()
    log._opened["csv"] = Failing()  # type: ignore[assignment]
    with pytest.raises(ConnectionError):
        log.row({"epoch": 3, "lr": 0.1})


def test_a_store_that_cannot_be_used_is_one_sentence(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step; nothing of the run is left."""
    installed("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://somewhere")
    out = tmp_path / "run"
    done = alignrank("train", "--data", str(squares), *TINY, "--out", str(out), "train.loggers=[mlflow]")
    refused(done, "train.loggers: mlflow cannot be used (", "leave it out, or look at its settings")
    assert not out.exists()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in PACKAGES else whole(name))
    for name in PACKAGES:
        with pytest.raises(InputError, match=rf"the package {name} is not installed \(extra '{name}' of alignrank\)"):
            loggers_of(TrainConfig(loggers=["csv", name]))  # type: ignore[list-item]
    assert loggers_of(TrainConfig()) == ("csv",)


def test_the_default_is_the_table_and_tensorboard_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    assert loggers_of(TrainConfig()) == ("csv", "tensorboard")
    assert loggers_of(TrainConfig(loggers=["wandb", "csv", "wandb"])) == ("wandb", "csv")
    assert loggers_of(TrainConfig(loggers=[])) == ()


def test_the_default_has_no_pictures(tmp_path: Path) -> None:
    """A sheet would be larger than all figures of TensorBoard together."""
    Image.new("RGB", (8, 8)).save(tmp_path / "curves.png")
    plan: Any = SimpleNamespace(out=tmp_path, recipe=SimpleNamespace(train=TrainConfig()))
    log = RunLog(plan)
    log.pictures(["curves.png"], step=1)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_what_is_no_logger_is_one_sentence(squares: Path) -> None:
    refused(alignrank("train", "--data", str(squares), *TINY, "train.loggers=[comet]"), "loggers", "comet")


def test_every_ranking_figure_of_the_log_is_none_of_the_loss() -> None:
    assert {"spearman_true_class_mean", "ap_lost_ranking", "ap_lost_within", "ap_lost_between", "ap_lost_false"} <= {
        *FIGURES
    }
    assert len(FIGURES) == len(set(FIGURES))


def test_the_last_pictures_go_to_the_run_of_a_process_that_has_ended(squares: Path, tmp_path: Path) -> None:
    """Of several processes the one that logs has ended by then; the first goes on with its run."""
    installed("mlflow")
    from mlflow.tracking import MlflowClient

    recipe = load_recipe("yolov8-n", overrides={"train.loggers": ["csv", "mlflow"]})
    train = read(squares).train
    assert train is not None
    plan = Plan(recipe, train, train, tmp_path, torch.device("cpu"), devices=2)
    child = RunLog(plan)
    child.open()
    child.row({"epoch": 1, "lr": 0.5})
    child.close()
    Image.new("RGB", (8, 8)).save(tmp_path / "curves.png")
    parent = RunLog(plan)
    parent.pictures(["curves.png", "absent.png"], step=1)
    parent.close()
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (found,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert (found.info.status, found.data.metrics["lr"]) == ("FINISHED", 0.5)
    assert [one.path for one in client.list_artifacts(found.info.run_id, "pictures")] == ["pictures/curves.png"]
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 2
