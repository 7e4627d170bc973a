"""Garbage is collected again behind the imports, unless the user has it off."""

from __future__ import annotations

import gc

import pytest

from alignrank.imports import collecting_later


def fails_unless(off: bool) -> None:
    assert off
    raise ImportError


@pytest.mark.parametrize("wanted", [True, False])
def test_the_users_choice_comes_back(wanted: bool) -> None:
    try:
        (gc.enable if wanted else gc.disable)()
        with pytest.raises(ImportError), collecting_later():
            fails_unless(not gc.isenabled())
        assert gc.isenabled() == wanted
    finally:
        gc.enable()
