"""Sizes that `alignrank models` shows are those that are counted; a recipe in full is a file that trains the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import alignrank

from alignrank.config import Config
from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.weights.catalog import model_rows, recipe_names
from alignrank.weights.explain import explained, meanings
from alignrank.weights.models import count
from alignrank.weights.recipe import load_recipe
from alignrank.weights.settings import AugmentConfig, DataConfig, TrainConfig


@pytest.mark.parametrize("name", recipe_names())
def test_a_size_that_is_shown_is_the_one_that_is_counted(name: str) -> None:
    """After a change of a network or a recipe: python -m alignrank.weights.models"""
    shown = next(row for row in model_rows() if row["name"] == name)
    assert {key: shown[key] for key in ("parameters", "flops")} == count(name)


def test_hosts_are_listed_with_source_and_licence() -> None:
    """Nothing is fetched for it, and no library is imported."""
    rows = {row["name"]: row for row in model_rows() if "/" in row["name"]}
    assert len(rows) >= 13
    for name, row in rows.items():
        assert row["licence"] in ("Apache-2.0", "BSD-3-Clause")
        assert row["weights"] == load_recipe(name).to_dict()["model"]["hub"].removeprefix("https://")
    code = (
        "import sys; from alignrank.weights.catalog import model_rows; model_rows(); "
        "assert not {'torch', 'torchvision', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_in_full_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name.rpartition('/')[2]}.yaml"
    path.write_text(explained(name), encoding="utf-8")
    recipe, again = load_recipe(name), load_recipe(str(path))
    assert again.to_dict() | {"name": name} == recipe.to_dict()
    sections = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key != "detector"}
    assert set(sections) == set(type(recipe.architecture).model_fields) - {"num_classes"} | {"train", "augment", "data"}
    for section, values in sections.items():
        of = {"train": TrainConfig, "augment": AugmentConfig, "data": DataConfig}.get(section)
        assert set(values) == set((of or type(getattr(recipe.architecture, section))).model_fields)


def sections() -> list[type[Config]]:
    of_detectors = [
        type(field.get_default())
        for detector in DETECTORS.values()
        for field in detector.config.model_fields.values()
        if isinstance(field.get_default(), Config)
    ]
    return list(dict.fromkeys([TrainConfig, AugmentConfig, DataConfig, *of_detectors]))


@pytest.mark.parametrize("section", sections(), ids=lambda section: f"{section.__module__}.{section.__qualname__}")
def test_every_option_has_a_meaning(section: type[Config]) -> None:
    missing = [name for name in section.model_fields if not meanings(section).get(name, "").endswith(".")]
    assert not missing


def test_the_verb_says_values_ranges_and_defaults() -> None:
    done = alignrank("config", "alignrank-n", "train.lr=0.01")
    assert done.returncode == 0
    assert done.stderr == ""
    (lr,) = [line for line in done.stdout.splitlines() if line.startswith("  lr:")]
    assert lr == "  lr: 0.01                        # Peak learning rate. (> 0, <= 10) [default: 0.0015]"
    (batch,) = [line for line in done.stdout.splitlines() if line.startswith("  batch:")]
    assert batch.endswith("(>= 1, <= 65536 or auto)")
    (sampling,) = [line for line in done.stdout.splitlines() if line.startswith("  sampling:")]
    assert "(none | dense | topk)" in sampling
    assert "default" not in sampling


def test_unknown_names_and_fields() -> None:
    with pytest.raises(InputError, match=r"config: model: unknown recipe 'yolo8-n'; did you mean 'yolov8-n'"):
        explained("yolo8-n")
    with pytest.raises(InputError, match="lrr"):
        explained("yolov8-n", {"train.lrr": 1})
