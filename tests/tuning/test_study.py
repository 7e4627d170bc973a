"""Studies with tiny networks on a few squares: going on, joining, failing, and what they leave."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import TINY, alignrank, environment, refused, stopped_at
from squares import write_squares

from alignrank.errors import InputError, TrainingError
from alignrank.report.figures import value_of
from alignrank.training import run
from alignrank.training.options import read_options

optuna = pytest.importorskip("optuna", reason="needs the extra tune")

from alignrank.tuning import trials, tune  # noqa: E402

OPTIONS: dict[str, Any] = {
    "model": "yolov8-n", "epochs": 1, "imgsz": 64, "batch": 2, "device": "cpu", "model.size": "t",
    "train.precision": "fp32", "train.loggers": [], "augment.plain_epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares", num_train=2, num_val=1)


class Trained:
    """In place of a training: AP is 1 - |lr - 0.001| in every epoch, but for the calls of `aps` and `fails`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lrs: list[float] = []
        self.numbers: list[str] = []
        self.fails: Mapping[int, BaseException] = {}
        self.aps: Mapping[int, float] = {}
        monkeypatch.setattr(run, "train", self)

    def __call__(self, options: Any, recipe: Any, *, callbacks: Any, is_trial: bool) -> dict[str, Any]:
        assert is_trial
        call = len(self.lrs)
        self.lrs.append(recipe.train.lr)
        self.numbers.append(Path(options.out).name)
        Path(options.out).mkdir(parents=True)
        if call in self.fails:
            raise self.fails[call]
        ap = self.aps.get(call, 1 - abs(recipe.train.lr - 0.001))
        for epoch in range(1, recipe.train.epochs + 1):
            if any(callback.on_epoch_end(epoch, {"val/ap": ap}) for callback in callbacks):
                break
        return {"metrics": {"ap": ap, "lrp": None, "rank": {"misranked": 1 - ap}}}


def test_a_real_study_leaves_a_recipe_that_trains(squares: Path, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("train.optimizer: [adamw, sgd]\naugment.mosaic: null\ntrain.epochs: {low: 1, high: 2}\n")
    out = tmp_path / "study"
    command = ["tune", "--model", "yolov8-n", "--data", str(squares), *TINY, "--trials", "2", "--out", str(out)]
    done = alignrank(*command, "--epochs", "1", "--space", str(space), "--json", "train.loggers=[]")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((out / "results.json").read_text())
    assert printed["counts"] == {"complete": 2}
    first = printed["trials"][0]
    assert (first["values"]["train.lr"], first["values"]["train.optimizer"]) == (0.003, "adamw")  # the recipe's own
    assert {row["values"]["train.optimizer"] for row in printed["trials"]} <= {"adamw", "sgd"}
    assert all(isinstance(row["values"]["train.epochs"], int) for row in printed["trials"])
    assert "augment.mosaic" not in first["values"]
    best = printed["best"]
    assert json.loads((Path(best["weights"]).parent / "results.json").read_text())["metrics"]["ap"] == best["value"]
    assert str(out / "report.html") in done.stderr
    page = (out / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert page.count("<tr") == 3
    trained = read_options(None, {"data": str(squares), "model": best["recipe"]}, {})[1]
    configured = read_options(Path(best["config"]), {}, {})
    assert configured[0].data == str(squares)
    wanted = json.loads((Path(best["weights"]).parent / "run.json").read_text())["recipe"]
    for recipe in (trained, configured[1]):
        found = recipe.to_dict()
        assert {k: found[k] for k in found if k not in ("name", "num_classes")} == {
            k: wanted[k] for k in wanted if k not in ("name", "num_classes")
        }


def test_the_same_command_goes_on_and_more_trials_are_added(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(monkeypatch)
    out = tmp_path / "study"
    trained.fails = {1: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt, match="same command goes on"):
        tune(squares, trials=3, out=out, **OPTIONS)
    result = tune(squares, trials=3, out=out, **OPTIONS)
    assert result["counts"] == {"complete": 3}
    assert trained.lrs[1] == trained.lrs[2]  # the interrupted trial is tried again
    assert len(trained.lrs) == 4
    assert tune(squares, trials=3, out=out, **OPTIONS) == result
    assert len(trained.lrs) == 4
    assert tune(squares, trials=4, out=out, **OPTIONS)["counts"] == {"complete": 4}
    assert result["best"]["value"] == max(row["value"] for row in result["trials"])


def test_a_study_that_is_terminated_says_how_it_goes_on(squares: Path, tmp_path: Path) -> None:
    """Not how its trial would: the folder of that is gone, and the same values are tried again."""
    out = tmp_path / "study"
    arguments = ["--data", str(squares), "--out", str(out), "--trials", "1", "--epochs", "1", "--workers", "0", *TINY]
    done = stopped_at(0, 0, signal.SIGTERM, "--model", "yolov8-n", *arguments, verb="tune")
    assert done.returncode == 143
    last = f"terminated; the same command goes on with the study in {out}, and tries the trial again"
    assert done.stderr.splitlines()[-1] == last
    assert "--resume" not in done.stderr
    assert list((out / "trials").iterdir()) == []


def test_a_study_is_not_mixed_with_another(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trained(monkeypatch)
    out = tmp_path / "study"
    tune(squares, trials=1, out=out, **OPTIONS)
    with pytest.raises(InputError, match=r"another tuning\.metric"):
        tune(squares, trials=2, out=out, metric="rank.misranked", **OPTIONS)
    with pytest.raises(InputError, match=r"another recipe\.train"):
        tune(squares, trials=2, out=out, **OPTIONS | {"epochs": 3})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(InputError, match="has no study"):
        tune(squares, trials=2, out=tmp_path / "other", **OPTIONS)


def test_failed_trials_are_recorded_and_the_study_goes_on(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = Trained(monkeypatch)
    trained.fails = {0: TrainingError("the loss is not finite"), 2: RuntimeError("CUDA out of memory. Tried to")}
    result = tune(squares, trials=4, out=tmp_path / "study", metric="rank.misranked", **OPTIONS)
    assert result["counts"] == {"failed": 2, "complete": 2}
    assert [row["error"] for row in result["trials"]] == ["the loss is not finite", None, "out of memory", None]
    assert result["best"]["value"] == min(row["value"] for row in result["trials"] if row["value"] is not None)
    trained.fails = {4: RuntimeError("a fault of ours")}
    with pytest.raises(RuntimeError, match="a fault of ours"):
        tune(squares, trials=5, out=tmp_path / "study", metric="rank.misranked", **OPTIONS)


def test_an_undefined_figure_is_a_failure(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trained(monkeypatch)
    result = tune(squares, trials=1, out=tmp_path / "study", metric="lrp", **OPTIONS)
    assert result["best"] is None
    assert "undefined" in result["trials"][0]["error"]


def test_a_bad_trial_is_ended_early(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the median of five trials, but not in the first epoch; pruning that is off ends none."""
    trained = Trained(monkeypatch)
    trained.aps = dict.fromkeys((5, 11), 0.1)
    options = OPTIONS | {"epochs": 4}
    result = tune(squares, trials=6, out=tmp_path / "study", **options)
    assert result["counts"] == {"complete": 5, "pruned": 1}
    assert [row["epochs"] for row in result["trials"]] == [4, 4, 4, 4, 4, 2]
    assert result["trials"][5]["value"] is None
    whole = tune(squares, trials=6, out=tmp_path / "whole", prune=False, **options)
    assert whole["counts"] == {"complete": 6}
    assert set(whole["importance"]) <= set(whole["trials"][0]["values"])
    assert sum(whole["importance"].values()) == pytest.approx(1)


_MEETING = """
import time
from pathlib import Path
from alignrank.training import run

def meet(options, recipe, callbacks, is_trial):
    place = Path(options.out)
    place.mkdir(parents=True)
    ended = time.monotonic() + 240
    while not (place.parent / "0001").is_dir() and time.monotonic() < ended:
        time.sleep(0.01)
    assert (place.parent / "0001").is_dir(), "the other process did not come"
    return {"metrics": {"ap": recipe.train.lr}}
"""


def test_two_processes_share_a_study(squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first trial ends only when another process has begun the second; together they do what was asked for."""
    out = tmp_path / "study"
    call = f"tune({str(squares)!r}, trials=3, out={str(out)!r}, **{OPTIONS!r})"
    code = f"{_MEETING}\nrun.train = meet\nfrom alignrank.tuning import tune\n{call}\n"
    other = subprocess.Popen([sys.executable, "-c", code], env=environment(), stderr=subprocess.PIPE, text=True)
    meeting: dict[str, Any] = {}
    exec(_MEETING, meeting)
    monkeypatch.setattr(run, "train", meeting["meet"])
    tune(squares, trials=3, out=out, **OPTIONS)
    said = other.communicate(timeout=300)[1]
    assert other.returncode == 0, said
    result = json.loads((out / "results.json").read_text())
    assert result["counts"] == {"complete": 3}
    assert [row["number"] for row in result["trials"]] == [0, 1, 2]
    assert len({row["values"]["train.lr"] for row in result["trials"]}) == 3
    assert [line for line in said.splitlines() if line.startswith("trial ") and "=" in line]


@pytest.fixture(scope="module")
def killed(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose process was killed without warning in the middle of its first trial."""
    out = tmp_path_factory.mktemp("studies") / "killed"
    code = (
        "import os, signal\n"
        "from alignrank.training import run\n"
        "run.train = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from alignrank.tuning import tune\n"
        f"tune({str(squares)!r}, trials=2, out={str(out)!r}, **{OPTIONS!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    return out


@pytest.mark.parametrize(
    ("attempts", "counts", "numbers"),
    [(3, {"complete": 2}, ["0001", "0002"]), (1, {"failed": 1, "complete": 1}, ["0001"])],
    ids=["tried-again", "fails-in-the-end"],
)
def test_the_trial_of_a_dead_process(
    attempts: int,
    counts: dict[str, int],
    numbers: list[str],
    killed: Path,
    squares: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Is tried again with the same values, at once, in whatever folder the study is now; unless it always kills."""
    shutil.copytree(killed, tmp_path / "moved")
    monkeypatch.setattr(trials, "MAX_ATTEMPTS", attempts)
    trained = Trained(monkeypatch)
    result = tune(squares, trials=2, out=tmp_path / "moved", **OPTIONS)
    assert result["counts"] == counts
    assert trained.numbers == numbers
    assert result["trials"][0]["values"]["train.lr"] == 0.003
    assert not list((tmp_path / "moved" / "trials").glob("*.lock"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--metric", "ap57"], ["metric", "ap50"]),
        (["--trials", "0"], ["--trials"]),
        (["--model", "yolo99"], ["yolo99"]),
        (["--epochs", "0"], ["epochs"]),
        (["--space", "nowhere.yaml"], ["nowhere.yaml"]),
        (["--storage", "nonsense"], ["storage"]),
        (["mosaic=0"], ["augment.mosaic"]),
    ],
)
def test_bad_input_leaves_nothing(words: list[str], named: list[str], squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    refused(alignrank("tune", "--data", str(squares), "--out", str(out), "--device", "cpu", *words), *named)
    assert not out.exists()


def test_a_data_set_that_cannot_be_read_ends_the_study(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = alignrank("tune", "--data", str(tmp_path / "empty"), "--out", str(tmp_path / "study"), "--device", "cpu")
    refused(done, "empty")
    assert not (tmp_path / "study").exists()


def test_figures_by_their_dotted_names() -> None:
    metrics = {"ap": 0.5, "lrp": None, "rank": {"misranked": float("nan"), "spearman": 1}}
    found = [value_of(metrics, name) for name in ("ap", "lrp", "rank.misranked", "rank.spearman", "rank.no")]
    assert found == [0.5, None, None, 1.0, None]


def test_best_run_is_yaml_with_the_differences_alone(
    squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Trained(monkeypatch)
    result = tune(squares, trials=1, out=tmp_path / "study", **OPTIONS)
    values = yaml.safe_load(Path(result["best"]["config"]).read_text())
    assert values["model"] == "yolov8-n"
    assert values["train"] == {"epochs": 1, "batch": 2, "imgsz": 64, "precision": "fp32", "loggers": []}
    assert "loss" not in values  # trial 0 has the recipe's own
