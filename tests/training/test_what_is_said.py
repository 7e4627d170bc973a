"""What a run says and keeps of itself."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from squares import write_squares

from alignrank import version
from alignrank.data.source import read
from alignrank.training import module as training_module
from alignrank.training import recorder
from alignrank.training.module import TrainingModule
from alignrank.training.plan import Plan
from alignrank.weights.recipe import load_recipe


def test_time_left_is_that_of_the_epochs_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(recorder, "say", lines.append)
    plan = SimpleNamespace(recipe=load_recipe("yolov8-n", overrides={"train.epochs": 4}))
    recorder.Recorder._say(SimpleNamespace(plan=plan, seconds=20.0), {"epoch": 1, "train/cls": 0.5})  # type: ignore[arg-type]
    assert lines == ["epoch 1/4  cls 0.500    0:01:00 left"]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_alone_says_what_was_left_out(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = read(write_squares(tmp_path / "data", num_train=2, num_val=1)).train
    assert split is not None
    recipe = load_recipe("yolov8-n", num_classes=2, overrides={"model.size": "t", "train.imgsz": 64})
    module = TrainingModule(Plan(recipe, split, replace(split), tmp_path, torch.device("cpu")))
    asked: list[Any] = []

    def stop(*_: Any, **options: Any) -> None:
        asked.append(options["quiet"])
        raise InterruptedError

    monkeypatch.setattr(training_module, "opened", stop)
    monkeypatch.setattr(TrainingModule, "global_rank", rank)
    with pytest.raises(InterruptedError):
        module.train_dataloader()
    assert asked == [rank > 0]


def test_results_name_the_commit_of_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None where the package is installed, not a clone."""
    monkeypatch.setattr(version, "__file__", str(tmp_path / "src" / "alignrank" / "version.py"))
    assert version.commit() is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert version.commit() == head
