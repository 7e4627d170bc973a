"""Opening a data set: what belongs together with what."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignrank.data.opening import check_classes
from alignrank.data.samples import Split
from alignrank.errors import InputError


def test_classes_are_compared_by_what_they_mean(tmp_path: Path) -> None:
    """Published checkpoints call some of COCO's classes otherwise; other classes, or another order, are refused."""
    path, names = tmp_path / "weights", ("sofa", "TV monitor")
    check_classes(path, names, Split(("couch", "tv"), (1, 2), [], tmp_path))
    for other in (("tv", "couch"), ("couch",), ("couch", "cat")):
        with pytest.raises(InputError, match="was made for the classes sofa, TV monitor"):
            check_classes(path, names, Split(other, tuple(range(len(other))), [], tmp_path))
