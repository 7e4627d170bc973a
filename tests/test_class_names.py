"""Classes by name or number; commas separate them, and can be in them."""

from __future__ import annotations

from typing import Any

import pytest

from alignrank.class_names import class_labels, listed
from alignrank.errors import InputError

NAMES = ("cat", "car, red", "car", "red", "a,b,c")


def test_names_win_over_numbers() -> None:
    assert class_labels(["7", "0"], ["7", "a"]) == [0, 0]
    assert class_labels("7", ["a"] * 7 + ["b", "7"]) == [8]


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("cat", [0]),
        (["cat", "red"], [0, 3]),
        (["cat", "car, red"], [0, 1]),
        ("cat,red", [0, 3]),
        (" cat , red ", [0, 3]),
        ("cat,car, red", [0, 1]),
        ("car, red,cat", [1, 0]),
        ("car,red", [2, 3]),
        ("a,b,c,cat", [4, 0]),
        ("cat,", [0]),
        (["cat,3", 2], [0, 3, 2]),
        (2, [2]),
    ],
)
def test_a_name_as_a_whole_before_its_parts(given: Any, labels: list[int]) -> None:
    assert class_labels(given, NAMES) == labels


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("cta", "unknown class 'cta'; did you mean 'cat'"),
        ("cat,blue", "unknown class 'blue'"),
        ("5", "unknown class '5'"),
        (None, "unknown class 'None'"),
        ([], "none given"),
        (",", "none given"),
    ],
)
def test_classes_that_are_not_there(given: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        class_labels(given, NAMES)
    assert part in str(caught.value)


def test_listed_keeps_what_is_unknown() -> None:
    assert listed(["x,y", 3], {"cat"}) == ["x", "y", "3"]
