"""Where the rules of the readers and of `data check` begin and end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alignrank.data import check_report, leakage, problems, unpacked
from alignrank.data.check import check
from alignrank.data.source import read


def yolo_set(folder: Path, labels: list[list[str]], *, broken: tuple[int, ...] = ()) -> Path:
    """Images of 64 x 64 with these label lines each; broken ones are no images."""
    for part in ("images", "labels"):
        (folder / part / "train").mkdir(parents=True)
    for number, lines in enumerate(labels):
        image = folder / "images" / "train" / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(image)
        if number in broken:
            image.write_bytes(b"no image")
        (folder / "labels" / "train" / f"{number}.txt").write_text("\n".join(lines))
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames: [many, few]\n")
    return folder


def test_a_class_of_exactly_a_hundredth_is_not_reported(tmp_path: Path) -> None:
    def lines(count: int, label: int) -> list[str]:
        return [f"{label} {0.1 + 0.005 * i:.4f} 0.5 0.1 0.{1 + label}" for i in range(count)]

    for many, reported in ((100, False), (101, True)):
        folder = yolo_set(tmp_path / str(many), [lines(many, 0), lines(1, 1)])
        kinds = {problem.kind for problem in check(folder).problems}
        assert ("class_imbalance" in kinds) == reported


def test_labels_of_an_image_that_cannot_be_read_are_not_read_for_training(tmp_path: Path) -> None:
    """The image is left out, counted; its broken labels stop nothing. Images are numbered from 1, gaps stay."""
    good = ["0 0.5 0.5 0.2 0.2"]
    folder = yolo_set(tmp_path / "set", [good, ["nonsense"], good], broken=(1,))
    train = read(folder).train
    assert train is not None
    assert [sample.image_id for sample in train.samples] == [1, 3]
    assert [item.unit for item in train.skipped] == ["image"]


def test_pictures_of_problems_have_so_many_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "MAX_MARKS_PER_IMAGE", 2)
    found = problems.Problems()
    for number in range(5):
        found.mark(Path("a.jpg"), (0, 0, number, number), "odd")
    assert len(found.marks[Path("a.jpg")]) == 2


def test_large_images_are_decoded_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their pixels, whatever their shape."""
    entered: list[str] = []

    class Lock:
        def __enter__(self) -> None:
            entered.append(name)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(leakage, "LARGE_IMAGE", 1000)
    monkeypatch.setattr(leakage, "_one_at_a_time", Lock())
    for name, shape in (("wide", (10, 200, 3)), ("tall", (200, 10, 3)), ("small", (31, 31, 3))):
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / f"{name}.png")
        leakage.fingerprint(tmp_path / f"{name}.png")
    assert entered == ["wide", "tall"]


def test_the_cache_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(unpacked.sys, "platform", "linux")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("ALIGNRANK_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert unpacked.cache_folder() == tmp_path / "xdg" / "alignrank"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert unpacked.cache_folder() == tmp_path / ".cache" / "alignrank"
    monkeypatch.setenv("ALIGNRANK_CACHE", str(tmp_path / "own"))
    assert unpacked.cache_folder() == tmp_path / "own"


def test_a_margin_shows_boxes_beyond_the_image_but_no_more_than_half_of_it() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    far, place = check_report._with_margin(pixels, np.array([[-100.0, -3, 5, 5]]))
    assert place == (10, 3)
    assert far.shape == (16, 40, 3)
