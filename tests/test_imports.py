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


def test_what_was_imported_counts_as_old() -> None:
    gc.collect()
    with collecting_later():
        kept = [[number] for number in range(5_000)]
    young = {id(held) for generation in (0, 1) for held in gc.get_objects(generation)}
    assert not young & {id(held) for held in kept}
    assert gc.get_freeze_count() == 0


def test_what_a_host_froze_stays_frozen() -> None:
    try:
        gc.freeze()
        frozen = gc.get_freeze_count()
        with collecting_later():
            pass
        assert gc.get_freeze_count() == frozen
    finally:
        gc.unfreeze()
