"""How large the network's input is: the scale of an image, its canvas, and sizes that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from alignrank.errors import InputError
from alignrank.input_size import Fit, InputSize, check_size, read_size, up_to_step

# (height, width) throughout.
CORNER = Fit(corner=True)


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize(("size", "expected"), [((480, 640), 0.5), ((640, 480), 0.5), ((100, 100), 3.2), ((1, 40), 8)])
def test_scale_by_the_longer_side(size: tuple[int, int], expected: float, rect: bool) -> None:
    """320 over the longer side, smaller or larger; the shape of the canvas has no say."""
    assert InputSize(320, rect=rect).scale(size) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), 800 / 480),  # 800 x 1067: the shorter side is met
        ((640, 480), 800 / 480),
        ((400, 1000), 1.333),  # 2 would be 800 x 2000: the longer side stops at 1333
        ((1000, 400), 1.333),
        ((1600, 2666), 0.5),  # both at once
        ((600, 600), 800 / 600),
    ],
)
def test_scale_by_a_pair(size: tuple[int, int], expected: float) -> None:
    """The shorter side has 800, unless the longer would have more than 1333."""
    assert InputSize(1333, 800).scale(size) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (7, 900)])
def test_canvas_of_a_square(size: tuple[int, int]) -> None:
    assert InputSize(320).canvas(size) == (320, 320)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (256, 320)),  # 240 x 320; 240 is 7.5 steps of 32
        ((640, 480), (320, 256)),
        ((320, 640), (160, 320)),  # 160 is five steps: nothing is added
        ((322, 640), (192, 320)),  # 161 is a pixel more
        ((321, 640), (160, 320)),  # 160.5 is rounded to 160 first
        ((500, 500), (320, 320)),
        ((1, 640), (32, 320)),  # half a pixel is a pixel
        ((10, 20), (160, 320)),  # enlarged
    ],
)
def test_canvas_of_the_image_s_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """Both sides of the resized image, up to the next multiple of 32."""
    assert InputSize(320, rect=True).canvas(size) == expected


def test_step_of_the_canvas() -> None:
    """240 x 320 with a stride of 64: four and five steps."""
    assert InputSize(320, rect=True, step=64).canvas((480, 640)) == (256, 320)
    assert InputSize(320, rect=True, step=64).canvas((322, 640)) == (192, 320)
    assert InputSize(320, rect=True, step=64).canvas((400, 640)) == (256, 320)  # 200 px: 224 by steps of 32
    assert [up_to_step(length, 32) for length in (1, 31, 32, 33, 64, 65)] == [32, 32, 32, 64, 64, 96]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1088)),  # 800 x 1066.7
        ((640, 480), (1088, 800)),
        ((400, 1000), (544, 1344)),  # 533.2 x 1333
        ((600, 600), (800, 800)),
    ],
)
def test_canvas_of_a_pair(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """It is the image's own shape, also where squares are asked for."""
    for rect in (False, True):
        assert InputSize.of((800, 1333), rect=rect).canvas(size) == expected


def test_what_imgsz_means() -> None:
    """One number is the longer side, of a pair the second; a pair is never square, and comes back as a pair."""
    assert InputSize.of(640, rect=False) == InputSize(640, None, False, 32)
    assert InputSize.of(640, rect=True, step=64) == InputSize(640, None, True, 64)
    assert InputSize.of([800, 1333], rect=False) == InputSize(1333, 800, True, 32)
    assert InputSize.of(640, rect=True).imgsz == 640
    assert InputSize.of([800, 1333], rect=False).imgsz == (800, 1333)
    assert (InputSize.of(640, rect=True).side, InputSize.of([800, 1333], rect=False).side) == (640, 800)
    assert InputSize.of(640, rect=False, fit=CORNER) == InputSize(640, None, False, 32, CORNER)
    assert InputSize.of((800, 1333), rect=False, fit=CORNER) == InputSize(1333, 800, True, 32, CORNER)
    assert InputSize.of(640, rect=True, fit=CORNER).for_stride(64) == InputSize(640, None, True, 64, CORNER)
    with pytest.raises(InputError, match="imgsz: must be a multiple of 56 up to 8192, got 640"):
        InputSize.of(640, rect=True).for_stride(56)


def test_another_side() -> None:
    """The side that `imgsz` is about; the most that the longer may have stays, but of a canvas that is filled."""
    assert InputSize.of(640, rect=True).of_side(320) == InputSize.of(320, rect=True)
    assert InputSize.of((800, 1333), rect=True).of_side(400) == InputSize.of((400, 1333), rect=True)
    filled = Fit("stretch")
    assert InputSize.of((96, 161), rect=True, fit=filled).of_side(48) == InputSize.of((48, 80), rect=True, fit=filled)


def test_landscape() -> None:
    """The canvas of an exported graph: of a pair, both sides rounded up; otherwise a square, `rect` or not."""
    assert InputSize.of((800, 1333), rect=False).landscape == (800, 1344)
    assert InputSize.of((790, 1333), rect=False, step=64).landscape == (832, 1344)
    assert InputSize.of(640, rect=True).landscape == InputSize.of(640, rect=False).landscape == (640, 640)


@pytest.mark.parametrize(
    ("imgsz", "step"), [(32, 32), (640, 32), (8192, 32), (640, 64), ((800, 1333), 32), ([33, 33], 32)]
)
def test_sizes_that_can_be(imgsz: Any, step: int) -> None:
    check_size(imgsz, step)


@pytest.mark.parametrize(
    ("imgsz", "said"),
    [
        (0, "must be a multiple of 32 up to 8192, got 0"),
        (-32, "must be a multiple of 32 up to 8192, got -32"),
        (650, "must be a multiple of 32 up to 8192, got 650"),
        (8224, "must be a multiple of 32 up to 8192, got 8224"),
        (True, "must be one number, or a pair"),
        (64.0, "must be one number, or a pair"),
        ("640", "must be one number, or a pair"),
        ((640,), "must be one number, or a pair: the shorter side and the most that the longer may have, got (640,)"),
        ((640, 640, 640), "must be one number, or a pair"),
        ((64, 96.5), "must be one number, or a pair"),
        ((True, 96), "must be one number, or a pair"),
        ((1333, 800), "must be a pair of sides from 32 to 8192, the shorter first, got (1333, 800)"),
        ((31, 800), "must be a pair of sides from 32"),
        ((800, 8193), "must be a pair of sides from 32 to 8192"),
    ],
)
def test_sizes_that_are_refused(imgsz: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        check_size(imgsz)
    assert str(caught.value).startswith(f"imgsz: {said}")


def test_a_coarser_network_takes_fewer_sizes() -> None:
    with pytest.raises(InputError, match="multiple of 64 up to 8192, got 96"):
        check_size(96, 64)
    with pytest.raises(InputError, match="sides from 64 to 8192"):
        check_size((32, 96), 64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("640", 640),
        (" 640 ", 640),
        ("[640]", 640),
        ("800,1333", [800, 1333]),
        ("800, 1333", [800, 1333]),
        ("800x1333", [800, 1333]),
        ("[800, 1333]", [800, 1333]),
        ("(800,1333)", [800, 1333]),
        ("1,2,3", [1, 2, 3]),  # `check_size` refuses it
    ],
)
def test_words_of_a_command_line(text: str | None, expected: int | list[int] | None) -> None:
    assert read_size(text) == expected


@pytest.mark.parametrize("text", ["", "large", "640px", "800,", "800x", "6.5", ",", "800;1333"])
def test_words_that_are_no_size(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_size(text)
    assert str(caught.value) == f"--imgsz: must be a number or two, such as 640 or 800,1333, got {text!r}"
