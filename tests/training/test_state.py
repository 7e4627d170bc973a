"""The state of an interrupted run: damage is found before it is used, and nothing in it is executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from squares import write_squares

from alignrank.errors import InputError
from alignrank.training import run
from alignrank.training.options import read_options
from alignrank.training.state import write_state


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run after the first of two epochs."""
    folder = tmp_path_factory.mktemp("interrupted")
    data = write_squares(folder / "squares", num_train=2, num_val=1)
    given = {"data": str(data), "epochs": 1, "imgsz": 64, "batch": 2, "device": "cpu", "out": str(folder / "run")}
    run.train(*read_options(None, given, {"model.size": "t", "train.precision": "fp32"}))
    (folder / "run" / "results.json").unlink()
    change_recipe(folder / "run", "train", epochs=2)
    return folder / "run"


def change_recipe(folder: Path, section: str, **fields: Any) -> None:
    about = json.loads((folder / "run.json").read_text())
    about["recipe"][section] |= fields
    (folder / "run.json").write_text(json.dumps(about))


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        run.resume(folder)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def copied(interrupted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_whole_state_goes_on(interrupted: Path, tmp_path: Path) -> None:
    folder = copied(interrupted, tmp_path)
    run.resume(folder)
    assert [row["epoch"] for row in json.loads((folder / "history.json").read_text())] == [1, 2]


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
def test_one_flipped_bit(interrupted: Path, tmp_path: Path, place: float, capsys: pytest.CaptureFixture[str]) -> None:
    (state,) = copied(interrupted, tmp_path).glob("state-*.ckpt")
    content = bytearray(state.read_bytes())
    content[int(place * len(content))] ^= 1
    state.write_bytes(content)
    assert "last.safetensors" in refusal(state.parent)
    assert str(state) in capsys.readouterr().err


def test_what_is_no_state(interrupted: Path, tmp_path: Path) -> None:
    """With a name that fits, so that its content is looked at."""
    folder = copied(interrupted, tmp_path)
    mark = tmp_path / "executed"
    (whole,) = (path.read_bytes() for path in folder.glob("state-*.ckpt"))
    for content in (b"", b"x" * 100, whole[: len(whole) // 2], {"state_dict": Bomb(mark)}, {"epoch": 1}, 7):
        for path in folder.glob("state-*.ckpt"):
            path.unlink()
        write_state(folder, 1, lambda path, it=content: put(path, it))  # type: ignore[misc]
        (state,) = folder.glob("state-*.ckpt")
        before = sorted(folder.iterdir())
        assert f"{state}: is not the state of a run" in refusal(folder)
        assert sorted(folder.iterdir()) == before
    assert not mark.exists()


def put(path: Path, content: Any) -> None:
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


def test_the_state_of_another_network(interrupted: Path, tmp_path: Path) -> None:
    folder = copied(interrupted, tmp_path)
    change_recipe(folder, "head", bins=8)
    assert "does not fit the recipe and the data" in refusal(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"options": {}, "recipe": []}', "[" * 100_000, "\xff"])
def test_a_damaged_run_file(interrupted: Path, tmp_path: Path, text: str) -> None:
    folder = copied(interrupted, tmp_path)
    (folder / "run.json").write_text(text, encoding="latin-1")
    assert str(folder / "run.json") in refusal(folder)
