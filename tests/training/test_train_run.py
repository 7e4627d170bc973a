"""Whole training runs through the command line, on a data set of a few coloured squares."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import TINY, alignrank, refused, stopped_at
from safetensors.torch import load_file
from squares import write_squares


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def run(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One finished run of two epochs with a dual head, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "first"
    done = alignrank(
        "train", "--model", "yolov10-n", "--data", str(squares), "--epochs", "2", *TINY, "--out", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_run_folder_holds_everything(run: tuple[Path, dict[str, Any]]) -> None:
    out, printed = run
    files = {path.name for path in out.iterdir()}
    assert files >= {
        "best.safetensors", "last.safetensors", "metrics.csv", "curves.png", "precision_recall.png",
        "f1.png", "confusion.png", "train_samples.jpg", "val_predictions.jpg", "results.json", "metrics.json",
        "report.html",
    }  # fmt: skip
    assert set(printed) == {"out", "weights", "metrics", "processed", "skipped"}
    assert printed["processed"] == 12
    assert printed["weights"] == str(out / "best.safetensors")
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2]
    assert {"train/o2o_cls", "train/cls", "val/ap", "val/lrp", "val/ap_lost_ranking", "lr"} <= set(history[-1])


def test_printed_metrics_are_those_of_val(run: tuple[Path, dict[str, Any]], squares: Path) -> None:
    out, printed = run
    done = alignrank("val", "--weights", str(out), "--data", str(squares), "--json")
    assert json.loads(done.stdout) == printed["metrics"]


def test_a_second_run_does_not_overwrite_the_first(run: tuple[Path, dict[str, Any]], squares: Path) -> None:
    out, _ = run
    before = (out / "best.safetensors").read_bytes()
    refused(
        alignrank("train", "--data", str(squares), "--epochs", "1", *TINY, "--out", str(out)),
        "already exists",
        str(out),
    )
    assert (out / "best.safetensors").read_bytes() == before


def test_a_finished_run_is_not_resumed(run: tuple[Path, dict[str, Any]]) -> None:
    refused(alignrank("train", "--resume", str(run[0])), "complete")


def test_resume_takes_no_other_options(run: tuple[Path, dict[str, Any]]) -> None:
    refused(alignrank("train", "--resume", str(run[0]), "--epochs", "9"), "--resume", "--epochs")


def test_killed_run_continues_where_it_was(squares: Path, tmp_path: Path) -> None:
    """Killed without warning in the middle, resumed: all epochs are there once, and the weights moved on."""
    out = tmp_path / "run"
    done = stopped_at(2, 1, signal.SIGKILL, "--data", str(squares), "--epochs", "4", *TINY, "--out", str(out))
    assert done.returncode == -signal.SIGKILL
    assert [row["epoch"] for row in json.loads((out / "history.json").read_text())] == [1, 2]
    before = load_file(out / "last.safetensors")
    done = alignrank("train", "--resume", str(out))
    assert done.returncode == 0, done.stderr
    history = json.loads((out / "history.json").read_text())
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert "epoch 2/4" not in done.stderr
    assert "epoch 3/4" in done.stderr
    after = load_file(out / "last.safetensors")
    assert any(not torch.equal(before[name], tensor) for name, tensor in after.items())
    rows = (out / "metrics.csv").read_text().strip().splitlines()
    assert len(rows) == 1 + 4


def test_fine_tuning_on_other_classes_tells_what_was_loaded(run: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    data = write_squares(tmp_path / "three", num_train=4, num_val=2, classes=("a", "b", "c"))
    out = tmp_path / "tuned"
    done = alignrank(
        "train",
        "--weights",
        str(run[0]),
        "--data",
        str(data),
        "--epochs",
        "1",
        "--out",
        str(out),
        "train.freeze=[backbone]",
    )
    assert done.returncode == 0, done.stderr
    assert "loaded" in done.stderr
    assert "head.cls.0" in done.stderr
    before, after = load_file(run[0] / "best.safetensors"), load_file(out / "last.safetensors")
    assert after["head.cls.0.4.weight"].shape[0] == 3
    frozen = [name for name in before if name.startswith("backbone.")]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["neck.down3.conv.weight"], after["neck.down3.conv.weight"])


def test_two_processes_train(squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    done = alignrank(
        "train", "--data", str(squares), "--epochs", "1", "--devices", "2", *TINY, "--out", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["weights"] == str(out / "best.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in load_file(out / "last.safetensors").values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "no/such/place"], ["no/such/place"]),
        (["--model", "yolov9-n"], ["model", "yolov8-n"]),
        (["--epochs", "0"], ["epochs"]),
        (["--imgsz", "100"], ["imgsz", "32"]),
        (["--lr", "-1"], ["lr"]),
        (["--weights", "none.safetensors"], ["none.safetensors"]),
        (["--device", "cuda:99"], ["cuda:99"]),
        (["head.dua=true"], ["head.dua", "dual"]),
        (["train.freeze=[stem]"], ["stem", "backbone"]),
        (["model.backbone=resnet"], ["model.backbone", "timm:"]),
        (["model.backbone=timm:mobilenetv2_100", "model.pretrained=none.safetensors"], ["model.pretrained", "none"]),
    ],
)
def test_bad_options_are_one_sentence_and_leave_nothing(
    squares: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    """In this process, which has torch already: the same path as the command line's."""
    from typer.testing import CliRunner

    from alignrank.cli import app
    from alignrank.errors import InputError

    out = tmp_path / "run"
    given = ["train", "--out", str(out), *(["--data", str(squares)] if "--data" not in arguments else []), *arguments]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, InputError), result.output
    for word in words:
        assert word in str(result.exception)
    assert not out.exists()


def test_config_file_and_its_errors(squares: Path, tmp_path: Path) -> None:
    from alignrank.errors import InputError
    from alignrank.training.options import read_options

    config = tmp_path / "config.yaml"
    config.write_text(f"model: yolov8-s\ndata: {squares}\nepochs: 7\naugment: {{mosaic: 0.5}}\nhead.bins: 8\n")
    options, recipe = read_options(config, {"epochs": 9}, {"loss.classification": "vfl"})
    assert (options.data, recipe.name, recipe.train.epochs) == (str(squares), "yolov8-s", 9)
    assert recipe.augment.mosaic == 0.5
    values = recipe.to_dict()
    assert (values["head"]["bins"], values["loss"]["classification"]) == (8, "vfl")
    for text, words in (
        ("epoch: 3", ("epoch", "epochs")),
        ("augment: {mozaic: 1.0}", ("mozaic", "mosaic")),
        ("lr: .inf", ("lr",)),
        ("batch: true", ("batch",)),
    ):
        config.write_text(f"model: yolov8-n\ndata: {squares}\n{text}\n")
        with pytest.raises(InputError) as caught:
            read_options(config, {}, {})
        assert str(caught.value).startswith(str(config))
        assert all(word in str(caught.value) for word in words)


def test_options_of_the_loop_together(squares: Path, tmp_path: Path) -> None:
    """SGD, cosine, accumulation, multi-scale, mixup, workers, auto batch, early stop: the run ends by itself, early."""
    out = tmp_path / "run"
    done = alignrank(
        "train", "--data", str(squares), "--epochs", "30", "--imgsz", "64", "--batch", "auto", "--workers", "2",
        "--device", "cpu", "--out", str(out), "model.size=t", "train.optimizer=sgd", "train.lr=1e-6",
        "train.schedule=cosine", "train.accumulate=2", "train.patience=3", "augment.multi_scale=0.5",
        "augment.mixup=0.5", "loss.classification=vfl", "train.precision=bf16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "auto chose 16" in done.stderr
    history = json.loads((out / "history.json").read_text())
    assert 3 <= len(history) < 30
    assert (out / "results.json").exists()
