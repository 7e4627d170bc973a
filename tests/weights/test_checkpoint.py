"""Weights files: what is saved comes back, and every kind of bad file gives one sentence that names it."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from alignrank.errors import InputError
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

CLASSES = ("red", "green", "blue")
RECIPE = load_recipe("yolov8-n", num_classes=3, overrides={"model.size": "t", "train.lr": 0.002})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    weights = RECIPE.build().model.state_dict()
    checkpoint.save(path, weights, recipe=RECIPE, classes=CLASSES, metrics={"ap": 0.25})
    return path


def contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as archive:
        return archive.metadata(), {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118


def rewritten(
    whole: Path, folder: Path, change: Callable[[dict[str, str], dict[str, Tensor]], None], *, seal: bool = True
) -> Path:
    """The file with metadata and tensors changed; `seal` gives it a checksum that fits."""
    metadata, weights = contents(whole)
    change(metadata, weights)
    if seal:
        metadata["checksum"] = checkpoint.checksum(weights)
    path = folder / "changed.safetensors"
    save_file(weights, path, metadata=metadata)
    return path


def error_of(path: Path) -> str:
    """The message of loading and building, one sentence that begins with the file's name."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(path).build_model()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    return message


def test_round_trip(whole: Path) -> None:
    loaded = checkpoint.load(whole)
    assert loaded.recipe == RECIPE
    assert loaded.classes == CLASSES
    assert loaded.metrics == {"ap": 0.25}
    torch.manual_seed(1)
    fresh = RECIPE.build().model
    model = loaded.build_model()
    assert not model.training
    stored = contents(whole)[1]
    assert model.state_dict().keys() == stored.keys()
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, stored[name]) for name, value in fresh.state_dict().items())


def test_folder_means_its_best_weights(whole: Path) -> None:
    assert checkpoint.load(whole.parent).path == whole


def test_save_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "w.safetensors"
    weights = RECIPE.build().model.state_dict()
    for ap in (0.1, 0.2):
        checkpoint.save(path, weights, recipe=RECIPE, classes=CLASSES, metrics={"ap": ap})
    assert checkpoint.load(path).metrics == {"ap": 0.2}
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_missing(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(InputError, match="weights: no file") as caught:
            checkpoint.load(path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.999])
def test_truncated(whole: Path, tmp_path: Path, keep: float) -> None:
    data = whole.read_bytes()
    path = tmp_path / "short.safetensors"
    path.write_bytes(data[: int(keep if keep >= 4 or keep == 0 else keep * len(data))])
    assert "is not a readable safetensors file" in error_of(path)


def test_damaged_tensor(whole: Path, tmp_path: Path) -> None:
    """One bit of the last tensor's bytes: well-formed, wrong checksum."""
    data = bytearray(whole.read_bytes())
    data[-1] ^= 1
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(data)
    assert "checksum does not match" in error_of(path)


def test_swapped_tensors_do_not_pass(whole: Path, tmp_path: Path) -> None:
    """Same bytes under other names of the same shape."""

    def swap(_: dict[str, str], weights: dict[str, Tensor]) -> None:
        names = [n for n, t in weights.items() if n.startswith("head.") and n.endswith("norm.running_var")]
        first, second = (n for n in names[:2])
        weights[second] = weights[second] + 1
        weights[first], weights[second] = weights[second], weights[first]

    assert "checksum does not match" in error_of(rewritten(whole, tmp_path, swap, seal=False))


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_pickle_under_that_name_is_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    for number, data in enumerate([pickle.dumps(Bomb(mark)), b""]):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(data)
        if number == 1:
            torch.save({"model": Bomb(mark)}, path)
        assert ("is a Python pickle", "is a zip archive")[number] in error_of(path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Bomb(mark)))  # the bomb works
    assert mark.exists()


def test_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "pointer.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    message = error_of(path)
    assert "git-lfs pointer" in message
    assert "git lfs pull" in message


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata=metadata)
        assert "no AlignRank metadata" in error_of(path)


def test_future_version(whole: Path, tmp_path: Path) -> None:
    path = rewritten(whole, tmp_path, lambda metadata, _: metadata.update(format_version="2"))
    message = error_of(path)
    assert "format_version is 2" in message
    assert "update alignrank" in message


def test_files_of_the_first_release(whole: Path, tmp_path: Path) -> None:
    """They call the version `format`; new files have both, so that the first release reads them."""
    assert contents(whole)[0]["format"] == "1"
    path = rewritten(whole, tmp_path, lambda metadata, _: metadata.pop("format_version") and None)
    assert checkpoint.load(path).classes == CLASSES


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(whole: Path, tmp_path: Path, value: float) -> None:
    path = rewritten(whole, tmp_path, lambda _, weights: weights["head.cls.0.2.bias"].fill_(value))
    assert "tensor head.cls.0.2.bias holds NaN or infinity" in error_of(path)


def test_a_recipe_that_asks_for_terabytes(whole: Path, tmp_path: Path) -> None:
    """Refused by shape, before the network takes its memory."""

    def change(metadata: dict[str, str], _: dict[str, Tensor]) -> None:
        recipe = json.loads(metadata["recipe"])
        recipe["head"]["box_width"] = 4096
        metadata["recipe"] = json.dumps(recipe)

    assert "has shape" in error_of(rewritten(whole, tmp_path, change))


def test_a_tensor_of_another_shape_says_more_than_a_checksum(whole: Path, tmp_path: Path) -> None:
    def change(_: dict[str, str], weights: dict[str, Tensor]) -> None:
        weights["head.cls.0.2.bias"] = torch.zeros(7)

    assert "num_classes 3" in error_of(rewritten(whole, tmp_path, change, seal=False))


@pytest.mark.parametrize("key", ["recipe", "classes", "metrics"])
def test_damaged_metadata(whole: Path, tmp_path: Path, key: str) -> None:
    for change in (lambda m, _: m.pop(key), lambda m, _: m.update({key: "{"})):
        assert "metadata is damaged" in error_of(rewritten(whole, tmp_path, change))


def test_wrong_number_of_classes(whole: Path, tmp_path: Path) -> None:
    """Names that contradict the recipe; a recipe that contradicts the tensors."""
    path = rewritten(whole, tmp_path, lambda m, _: m.update(classes=json.dumps(["red"])))
    assert "num_classes is 3 but 1 class names are stored" in error_of(path)

    def five(metadata: dict[str, str], _: dict[str, Tensor]) -> None:
        metadata["recipe"] = json.dumps(RECIPE.for_classes(5).to_dict())
        metadata["classes"] = json.dumps(list("abcde"))

    message = error_of(rewritten(whole, tmp_path, five))
    assert "tensor head.cls.0" in message
    assert "num_classes 5" in message


def test_missing_and_unknown_tensor(whole: Path, tmp_path: Path) -> None:
    path = rewritten(whole, tmp_path, lambda _, weights: weights.pop("head.cls.0.2.bias"))
    assert "tensor head.cls.0.2.bias is missing" in error_of(path)
    path = rewritten(whole, tmp_path, lambda _, weights: weights.update(extra=torch.zeros(1)))
    assert "tensor extra does not belong to yolov8-n" in error_of(path)


def test_invalid_recipe_inside(whole: Path, tmp_path: Path) -> None:
    def change(metadata: dict[str, str], _: dict[str, Tensor]) -> None:
        metadata["recipe"] = json.dumps(json.loads(metadata["recipe"]) | {"detector": "yolox"})

    assert "unknown architecture 'yolox'" in error_of(rewritten(whole, tmp_path, change))


@pytest.mark.parametrize("key", ["recipe", "classes", "metrics"])
def test_metadata_of_another_type(whole: Path, tmp_path: Path, key: str) -> None:
    """Valid JSON that is not what it should be."""
    assert "metadata is damaged" in error_of(rewritten(whole, tmp_path, lambda m, _: m.update({key: "7"})))


def test_checksum_sees_names_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    same = {"b": torch.ones(2), "a": torch.arange(6.0)}
    assert checkpoint.checksum(base) == checkpoint.checksum(same)
    for other in [
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)},
        {"c": torch.arange(6.0), "b": torch.ones(2)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.ones(2)},
        {"a": torch.arange(6.0), "b": torch.ones(2).half()},
    ]:
        assert checkpoint.checksum(other) != checkpoint.checksum(base)


def test_transfer_to_other_classes() -> None:
    """Everything but what depends on the number of classes is loaded, and both lists are told."""
    source = RECIPE.build().model
    target = RECIPE.for_classes(5).build().model
    loaded, left = checkpoint.transfer(target, source.state_dict())
    assert sorted(left) == [f"head.cls.{level}.2.{kind}" for level in range(3) for kind in ("bias", "weight")]
    assert set(loaded) | set(left) == set(target.state_dict())
    assert all(torch.equal(target.state_dict()[name], source.state_dict()[name]) for name in loaded)
    assert target.head.cls[0][-1].bias.shape == (5,)
