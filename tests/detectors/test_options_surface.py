"""What can be set, its defaults and its limits, is frozen: a recipe that does not name an option depends on them.

After a change that is meant: `python tests/detectors/test_options_surface.py` writes the golden file again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignrank.config import Config
from alignrank.detectors import DETECTORS
from alignrank.weights.settings import AugmentConfig, DataConfig, TrainConfig

GOLDEN = Path(__file__).parents[1] / "golden" / "options.json"
LIMITS = ("gt", "ge", "lt", "le", "min_length", "max_length")


def options(section: type[Config], path: str = "") -> Iterator[tuple[str, str]]:
    """(`loss.box`, `7.5, ge 0`) for each option: its default and the limits of its values."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from options(kind, f"{path}{name}.")
            continue
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        limits = [f"{key} {getattr(m, key)!r}" for m in field.metadata for key in LIMITS if hasattr(m, key)]
        yield f"{path}{name}", ", ".join([default, *limits])


def surface() -> dict[str, dict[str, str]]:
    sections: dict[str, type[Config]] = {name: detector.config for name, detector in sorted(DETECTORS.items())}
    sections |= {"train": TrainConfig, "augment": AugmentConfig, "data": DataConfig}
    return {name: dict(options(section)) for name, section in sections.items()}


def test_options_are_the_committed_ones() -> None:
    expected: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert surface() == expected, f"if meant: python tests/detectors/{Path(__file__).name}"


def test_nested_defaults_are_those_of_their_sections() -> None:
    """`YoloConfig().loss` is `LossConfig()`: a section that is left out has the defaults that the file shows."""
    for name, detector in DETECTORS.items():
        whole = detector.config()
        for field, info in detector.config.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, Config):
                assert getattr(whole, field) == info.annotation(), f"{name}: {field}"


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
