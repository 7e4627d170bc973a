"""How long the sides of the network's input may be, px."""

from __future__ import annotations

from alignrank.errors import InputError

# In training; the coarsest stride of all recipes' networks.
SIDE_STEP = 32
# 800 MB an image in float32.
MAX_SIDE = 8192


def check_side(imgsz: int, stride: int) -> None:
    """Raises InputError unless a network of that stride takes it."""
    if not stride <= imgsz <= MAX_SIDE or imgsz % stride:
        raise InputError(f"imgsz: must be a multiple of {stride} up to {MAX_SIDE}, got {imgsz}")
