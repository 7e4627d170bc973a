"""Names of results: each process gets one of its own, at the same moment too; modes are those of the umask."""

from __future__ import annotations

import json
import multiprocessing
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import TINY, alignrank
from PIL import Image
from squares import write_squares

from alignrank.data.convert import new_folder
from alignrank.errors import InputError
from alignrank.folders import LOCK_FILE, new_run_folder, replacing
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

PROCESSES = 8
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked, so that all begin at once")


def at_once(work: Callable[[int], Any]) -> list[Any]:
    """work(number) in eight processes that begin it together; what each returned, or the message of its InputError."""
    forks = multiprocessing.get_context("fork")
    barrier, results = forks.Barrier(PROCESSES), forks.Queue()

    def process(number: int) -> None:
        barrier.wait(60)
        try:
            results.put((number, work(number)))
        except InputError as error:
            results.put((number, str(error)))
        except BaseException as error:
            results.put((number, repr(error)))

    started = [forks.Process(target=process, args=(number,)) for number in range(PROCESSES)]
    for fork in started:
        fork.start()
    found = dict(results.get(timeout=120) for _ in started)
    for fork in started:
        fork.join(60)
    return [found[number] for number in range(PROCESSES)]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    recipe = load_recipe("yolov10-n", num_classes=2, overrides={"model.size": "t", "train.imgsz": 64})
    checkpoint.save(
        tmp_path / "w.safetensors", recipe.build().model.state_dict(), recipe=recipe, classes=["a", "b"], metrics={}
    )
    return tmp_path / "w.safetensors"


def test_eight_processes_get_eight_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def work(number: int) -> str:
        with new_run_folder(None, "run") as folder:
            (folder / "mine").write_text(str(number))
        return str(folder)

    folders = at_once(work)
    assert sorted(folders) == sorted(f"runs/run{end}" for end in ["", *(f"-{n}" for n in range(2, PROCESSES + 1))])
    assert [Path(folder, "mine").read_text() for folder in folders] == [str(n) for n in range(PROCESSES)]
    assert not list(tmp_path.rglob(LOCK_FILE))


def test_one_of_eight_gets_a_named_folder(tmp_path: Path) -> None:
    def work(number: int) -> bool:
        with new_run_folder(tmp_path / "out", "run") as folder:
            (folder / "mine").write_text(str(number))
        return True

    answers = at_once(work)
    winners = [number for number, answer in enumerate(answers) if answer is True]
    assert len(winners) == 1
    assert (tmp_path / "out" / "mine").read_text() == str(winners[0])
    assert all(f"{tmp_path / 'out'}" in answer for answer in answers if answer is not True)


def test_one_of_eight_writes_a_data_set(tmp_path: Path) -> None:
    def work(number: int) -> bool:
        with new_folder(tmp_path / "set") as folder:
            (folder / "mine").write_text(str(number))
        return True

    answers = at_once(work)
    assert answers.count(True) == 1
    assert all("exists already" in answer for answer in answers if answer is not True)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_eight_predictions_at_once(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save("image.png")
    answers = at_once(lambda number: alignrank("predict", "--weights", str(weights), "image.png").returncode)
    assert answers == [0] * PROCESSES
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert folders == sorted(["predict", *(f"predict-{n}" for n in range(2, PROCESSES + 1))])
    for name in folders:
        assert len(json.loads((tmp_path / "runs" / name / "predictions.json").read_text())) == 1


def test_two_trainings_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second takes the next name while the first, which has not written anything yet, reads its data."""
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "data", num_train=4, num_val=2)
    with new_run_folder(None, "yolov8-n"):
        done = alignrank("train", *TINY, "--data", "data", "--epochs", "1")
        assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["yolov8-n-2"]


def test_nothing_is_left_of_an_unused_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for out in (None, "deep/er/out", "empty"):
        with pytest.raises(InputError), new_run_folder(out, "run"):
            raise InputError("the data is bad")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match="out: runs/run: cannot be written"), new_run_folder(None, "run"):
        pass


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_modes_are_those_of_the_umask(tmp_path: Path, weights: Path, mask: int, mode: int) -> None:
    loaded = checkpoint.load(weights)
    with umask(mask):
        checkpoint.save(
            tmp_path / "a.safetensors", loaded.weights, recipe=loaded.recipe, classes=loaded.classes, metrics={}
        )
        with replacing(tmp_path / "text") as path:
            path.write_text("text")
        with new_folder(tmp_path / "set") as folder:
            (folder / "file").write_text("")
    for name in ("a.safetensors", "text", "set/file"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode, name
    assert stat.S_IMODE((tmp_path / "set").stat().st_mode) == 0o777 & ~mask


def test_all_files_of_a_run_have_the_mode_of_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_squares(tmp_path / "data", num_train=4, num_val=2)
    with umask(0o027):
        assert alignrank("train", *TINY, "--data", "data", "--epochs", "1", "--out", "run").returncode == 0
        assert alignrank("val", "--weights", "run", "--data", "data", "--out", "val").returncode == 0
        assert alignrank("predict", "--weights", "run", "data/images", "--out", "predicted").returncode == 0
        assert alignrank("data", "convert", "data", "--to", "yolo", "--out", "yolo").returncode == 0
        assert alignrank("data", "split", "data", "--out", "split").returncode == 0
    for folder in ("run", "val", "predicted", "yolo", "split"):
        for path in [tmp_path / folder, *(tmp_path / folder).rglob("*")]:
            wanted = 0o750 if path.is_dir() else 0o640
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
