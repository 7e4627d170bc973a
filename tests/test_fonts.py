"""Every character is drawn by a font that has it; where none has it there is one warning, and no square."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_font import fonts_with, small_font

from alignrank import drawing, fonts
from alignrank.drawing import draw_boxes, readable, shortened
from alignrank.fonts import Fonts
from alignrank.report import pictures, plot_fonts
from alignrank.report.curves import plot_confusion, plot_f1, plot_precision_recall

GREY = np.full((300, 450, 3), 128, np.uint8)
BOX, FIRST = np.array([[100.0, 100, 300, 250]]), np.array([0])


def use(monkeypatch: pytest.MonkeyPatch, stack: Fonts) -> None:
    for module in (drawing, pictures, plot_fonts):
        monkeypatch.setattr(module, "fonts", lambda: stack)


def test_other_fonts_are_looked_for_only_where_the_first_lacks_something(tmp_path: Path) -> None:
    asked = []

    def others() -> Sequence[str]:
        asked.append(1)
        return [small_font(tmp_path / "cjk.ttf", "猫")]

    stack = Fonts(fonts.fonts().first, others)
    for text in ("größe 0.87", "кошка", "γάτα", "قطة", "חתול", "a\u200db", ""):
        assert stack.runs(text) == [(stack.first, text)]
        assert stack.lacking(text) == ""
    assert asked == []
    assert stack.lacking("猫") == ""
    assert stack.lacking("犬犬 x") == "犬"
    assert asked == [1]


def test_one_font_for_a_text_where_one_has_all(tmp_path: Path) -> None:
    """Else each character has the first one that has it: Thai fonts without digits draw no squares for scores."""
    thai, all_of_it = small_font(tmp_path / "a.ttf", "แมว"), small_font(tmp_path / "b.ttf", "แมว0.87 ")
    stack = fonts_with(thai)
    assert stack.runs("แมว 0.87") == [(thai, "แมว"), (stack.first, " 0.87")]
    assert fonts_with(thai, all_of_it).runs("แมว 0.87") == [(all_of_it, "แมว 0.87")]
    assert fonts_with(small_font(tmp_path / "c.ttf", "猫"), thai).paths_for(["cat", "แมว"]) == [thai]


def test_files_that_are_no_fonts_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"not a font")
    good = small_font(tmp_path / "good.ttf", "猫")
    stack = fonts_with(str(tmp_path / "broken.ttf"), str(tmp_path / "missing.ttf"), good)
    assert stack.runs("猫") == [(good, "猫")]


def test_fonts_of_the_system_plain_ones_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_folders", lambda: [tmp_path, tmp_path / "none"])
    for name in (
        "NotoSerif-Bold.ttf",
        "NotoSans-Regular.otf",
        "a/Z.TTC",
        "a/B-BoldItalic.ttf",
        "LastResort.otf",
        "x.gz",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [Path(path).name for path in fonts.installed()]
    assert names == ["NotoSans-Regular.otf", "Z.TTC", "NotoSerif-Bold.ttf", "B-BoldItalic.ttf"]


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_every_system_has_folders_of_fonts(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert all("font" in str(folder).lower() for folder in fonts._folders())


def test_without_matplotlib_pillow_has_a_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(fonts, "_folders", list)
    assert fonts._bundled() == ""
    stack = Fonts("", list)
    assert stack.lacking("cat 0.87") == ""
    assert stack.lacking("猫") == "猫"
    use(monkeypatch, stack)
    assert (draw_boxes(GREY, BOX, FIRST, ["cat"], np.array([0.9])) > 200).all(-1).any()


def test_a_name_in_any_script_is_drawn_with_a_font_that_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fonts_with())
    square = draw_boxes(GREY, BOX, FIRST, ["猫"])
    assert (square == draw_boxes(GREY, BOX, FIRST, ["class 0"])).all(), "no square, but the number"
    use(monkeypatch, fonts_with(small_font(tmp_path / "cjk.ttf", "猫")))
    drawn = draw_boxes(GREY, BOX, FIRST, ["猫"])
    assert (drawn != square).any()
    label = drawn[100 - 13 - 2 * 2 + 1 : 100, 100:112]
    filled = int((label > 200).all(-1).sum())
    assert filled > 15, "the triangle of the small font, not the outline of a square"


def test_what_no_font_has_is_named_once(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fonts_with())
    names = ["cat", "猫", "犬 dog", "größe"]
    for _ in range(3):
        assert readable(names) == ["cat", "class 1", "class 2", "größe"]
        draw_boxes(GREY, BOX, np.array([1]), names, np.array([0.5]))
    (line,) = capfd.readouterr().err.splitlines()
    assert "猫犬" in line
    assert "fonts-noto-cjk" in line
    assert readable(["cat", "แมว"]) == ["cat", "class 1"]
    (line,) = capfd.readouterr().err.splitlines()
    assert "แมว" in line
    assert "fonts-noto-core" in line


def test_emoji_have_a_package_of_their_own(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fonts_with())
    assert readable(["🐈"]) == ["class 0"]
    assert "fonts-symbola" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["a\nb", "tab\there", "", " ", "\ud800", "x" * 500, "\x07"])
def test_names_that_are_no_line_of_text_can_be_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, fonts_with())
    drawn = draw_boxes(GREY, BOX, FIRST, [name], np.array([0.87]))
    assert drawn.shape == GREY.shape
    assert (drawn[:100] > 200).all(-1).any(), "the score at least"


def test_captions_of_files_in_any_script(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, fonts_with())
    first = pictures.sheet([GREY], tmp_path / "a.png", captions=["猫.jpg"]).read_bytes()
    assert first == pictures.sheet([GREY], tmp_path / "b.png", captions=["?.jpg"]).read_bytes()
    assert capfd.readouterr().err.count("猫") == 1


def plots(names: list[str], folder: Path) -> list[bytes]:
    k, x = len(names), np.linspace(0, 1, 5)
    curves: Any = np.linspace(0.1, 0.9, 5 * k).reshape(k, 5)
    paths = [
        plot_confusion(np.eye(k + 1, dtype=int), names, folder / "confusion.png"),
        plot_precision_recall(x, curves, names, folder / "pr.png"),
        plot_f1(x, curves, curves, curves, names, folder / "f1.png"),
    ]
    return [path.read_bytes() for path in paths]


@pytest.mark.filterwarnings("error:Glyph")
def test_plots_have_names_in_any_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib draws squares, and warns of each, for what its font lacks."""
    use(monkeypatch, fonts_with())
    numbers = plots(["class 0", "dog"], tmp_path)
    assert plots(["猫", "dog"], tmp_path) == numbers
    use(monkeypatch, fonts_with(small_font(tmp_path / "cjk.ttf", "猫")))
    for drawn, number in zip(plots(["猫", "dog"], tmp_path), numbers, strict=True):
        assert drawn != number


def test_a_text_is_shortened_to_four_letters_at_least() -> None:
    assert shortened("abcdefghij", 12, 1.0) == "ab…ij"
    assert shortened("abcdefghij", 12, 1000.0) == "abcdefghij"
