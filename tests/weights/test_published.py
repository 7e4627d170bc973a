"""Published checkpoints in their own layout: from a folder and from a server that speaks the hub's API."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from hosted_detectors import assert_saved_as_ours_it_says
from hub_server import Hub, opened_hub
from PIL import Image
from published_hosts import NAMES, RECIPES, write_published
from safetensors.torch import load_file, save_file
from squares import write_squares
from tiny_forms import HOSTS

from alignrank import Detector, cli
from alignrank.contracts import Batch, Frame, Targets
from alignrank.detectors import predictions_of
from alignrank.errors import InputError
from alignrank.plug.transformers_models import ARCHITECTURES
from alignrank.weights import checkpoint
from alignrank.weights.coco_names import COCO_IDS, COCO_NAMES
from alignrank.weights.published import class_channels, for_data, published_model, same_classes
from alignrank.weights.recipe import load_recipe

HUB = "someone/tiny-rtdetr"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", HOSTS)
def test_a_folder_has_its_own_architecture_and_classes(name: str, tmp_path: Path) -> None:
    """Also where it is another than the recipe's; saved as ours it says the same, without the folder."""
    model = write_published(tmp_path / "published", name)
    detector = Detector(RECIPES[name], pretrained=tmp_path / "published")
    assert detector.classes == NAMES
    images = (IMAGES - detector.model.mean) / detector.model.std if ARCHITECTURES[name].normalised else IMAGES
    with torch.no_grad():
        said, ours = model(pixel_values=images), detector.model(IMAGES)
    assert torch.equal(ours.logits, said.logits)
    shutil.rmtree(tmp_path / "published")
    assert_saved_as_ours_it_says(detector, ours, IMAGES, tmp_path / "ours.safetensors")


def test_other_classes_keep_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = write_published(tmp_path).state_dict()
    options = {"model.pretrained": str(tmp_path)}
    recipe = load_recipe("transformers/rtdetr-r18", overrides=options)
    capsys.readouterr()

    def kept(classes: tuple[str, ...]) -> set[str]:
        own = for_data(recipe, classes).build().model.host.state_dict()
        return {name for name, tensor in own.items() if torch.equal(tensor, theirs[name])}

    assert kept(("Person", "motorcycle", "cat")) == set(theirs)
    assert capsys.readouterr().err == ""
    heads = {name for name in theirs if re.search("class_embed|enc_score_head", name)}
    for classes in (("cat", "person", "dog"), ("cat",)):
        assert kept(classes) == set(theirs) - heads
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path}: of other classes; not kept: model.denoising_class_embed.weight" in line
    wanted = load_recipe("transformers/rtdetr-r18", overrides=options | {"model.config.num_queries": 5})
    assert wanted.to_dict()["model"]["config"]["num_queries"] == 5  # what somebody asks for wins over the checkpoint
    assert wanted.to_dict()["model"]["config"]["d_model"] == 32


def test_classes_are_the_same_however_they_are_written() -> None:
    assert same_classes(("aeroplane", "pottedplant", "sofa"), ("airplane", "potted plant", "Couch"))
    assert not same_classes(("cat", "dog"), ("dog", "cat"))
    assert not same_classes(("cat",), ("cat", "dog"))


def test_the_input_is_the_checkpoint_s(tmp_path: Path) -> None:
    """Where its files say how pictures are fitted; what somebody asks for wins."""
    write_published(tmp_path)

    def read(**wanted: Any) -> Any:
        return load_recipe("transformers/rtdetr-r18", overrides={"model.pretrained": str(tmp_path), **wanted})

    assert read().train.imgsz == [64, 96]
    assert read().size_in_use.canvas((300, 200)) == read().size_in_training.canvas((300, 200)) == (64, 96)
    assert read(**{"train.imgsz": 128}).size_in_use.canvas((300, 200)) == (128, 128)
    assert Detector("transformers/rtdetr-r18", pretrained=tmp_path).recipe.train.imgsz == [64, 96]
    assert for_data(read(**{"train.imgsz": 128}), ("a", "b")).train.imgsz == 128
    (tmp_path / "preprocessor_config.json").unlink()
    assert read().train.imgsz == 640


GAPS = ("N/A", "person", "N/A", "motorbike", "cat")


@pytest.mark.parametrize("name", ["deformable_detr", "rf_detr"])
def test_channels_that_are_no_class(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is detected as one; all else is said as by the library, whose proposals look at all channels."""
    model = write_published(tmp_path, name, GAPS)
    capsys.readouterr()
    detector = Detector(RECIPES[name], pretrained=tmp_path)
    assert detector.classes == NAMES
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "no class" in line]
    assert line.endswith(f"{tmp_path}: 2 of its 5 channels are no class, and never detected")
    images = (IMAGES - detector.model.mean) / detector.model.std
    with torch.no_grad():
        said, ours = model(pixel_values=images), detector.model(IMAGES)
    assert torch.equal(ours.logits, said.logits[..., [1, 3, 4]])
    assert said.logits[..., [0, 2]].max() > ours.logits.amin()
    path = tmp_path / "ours.safetensors"
    checkpoint.save(path, detector.model.state_dict(), recipe=detector.recipe, classes=detector.classes, metrics={})
    with torch.no_grad():
        assert torch.equal(checkpoint.load(path).build_model()(IMAGES).logits, ours.logits)

    targets = [Targets(torch.tensor([[8.0, 8.0, 40.0, 50.0]]), torch.tensor([label])) for label in (2, 0)]
    recipe = load_recipe(RECIPES[name], overrides={"model.pretrained": str(tmp_path)})
    built = for_data(recipe, ("person", "motorcycle", "cat")).build()
    terms = built.criterion(predictions_of_training(built, targets), targets)
    boxes = torch.tensor([[24.0, 29.0, 32.0, 42.0]]) / 64
    labels = [{"class_labels": torch.tensor([channel]), "boxes": boxes} for channel in (4, 1)]
    assert terms.total.item() == pytest.approx(model.train()(pixel_values=images, labels=labels).loss.item(), rel=1e-5)
    evaluated = built.criterion(built.model.eval()(IMAGES), targets, alone=True)
    assert evaluated.total.isfinite()

    theirs = model.state_dict()
    heads = {key for key in theirs if "class_embed" in key}
    for classes in (("a", "b", "c"), ("a", "b", "c", "d", "e")):  # as many as its classes, as its channels
        own = for_data(recipe, classes).build().model.host.state_dict()
        assert {
            key for key in own if own[key].shape != theirs[key].shape or not torch.equal(own[key], theirs[key])
        } == heads
    loaded = checkpoint.load(path).recipe
    assert loaded.architecture.model_dump()["model"]["unnamed"] == [0, 2]
    assert for_data(loaded, ("a",)).network().channels is None


def predictions_of_training(built: Any, targets: list[Targets]) -> Any:
    batch = Batch(IMAGES, targets, [Frame("", (64, 64)) for _ in targets])
    return predictions_of(built.model.train(), IMAGES, batch, denoising=torch.Generator().manual_seed(5))


def test_which_channels_are_classes() -> None:
    by_id = dict(zip(COCO_IDS, COCO_NAMES, strict=True))
    gaps = (0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    for numbered in (
        [by_id.get(i, "N/A") for i in range(91)],
        [by_id.get(i, "street sign") for i in range(91)],
        [f"LABEL_{i}" for i in range(91)],
    ):
        assert class_channels(numbered) == (COCO_NAMES, gaps)
    assert class_channels(COCO_NAMES) == (COCO_NAMES, ())
    others = [f"kind {i}" for i in range(91)]
    assert class_channels(others) == (tuple(others), ())
    assert class_channels(["n/a", "cat", "", "dog"]) == (("cat", "dog"), (0, 2))
    assert class_channels(["LABEL_0", "LABEL_1"]) == (("LABEL_0", "LABEL_1"), ())
    with pytest.raises(InputError, match="id2label names no class"):
        class_channels(["N/A", "N/A"])


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.enc_score_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: edited(folder, model_type="d_fine"), "is a 'd_fine', the recipe's architecture is 'rt_detr'"),
        (lambda folder: edited(folder, architectures=["RTDetrModel"]), "holds a 'RTDetrModel', no RTDetrForObjectDet"),
        (
            lambda folder: edited(folder, id2label={"1": "a", "2": "b"}),
            r"config\.json: id2label must name the channels 0 to",
        ),
        (lambda folder: edited(folder, d_model="wide"), r"config\.json cannot be used \(.*d_model"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not readable JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold a mapping, holds a list"),
        (lambda folder: (folder / "preprocessor_config.json").write_text("{"), r"config\.json is not readable JSON"),
        (
            lambda folder: (folder / "preprocessor_config.json").write_text('{"do_normalize": true}'),
            r"preprocessor_config\.json: do_normalize: rt_detr is used here with False, got True",
        ),
        (lambda folder: (folder / "config.json").unlink(), r"holds no config\.json"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            r"pytorch_model\.bin is a Python pickle; it may hold code and is not opened",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"holds no model\.safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "cannot be loaded"),
        (without_a_tensor, r"1 tensors are missing \(first: model\.enc_score_head\.weight\)"),
    ],
)
def test_what_is_no_such_checkpoint(damage: Any, message: str, tmp_path: Path) -> None:
    write_published(tmp_path)
    damage(tmp_path)
    with pytest.raises(InputError, match=rf"model\.pretrained: .*{message}") as caught:
        Detector("transformers/rtdetr-r18", pretrained=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_loopback: None) -> Iterator[Hub]:
    write_published(tmp_path / "hub" / HUB)
    yield from opened_hub(tmp_path, monkeypatch)


OF_HUB = {"model.hub": HUB}
OTHERWISE = "model.pretrained=FOLDER (predict, val and track: --pretrained FOLDER)"


def test_the_hub_s_files_are_fetched_once(hub: Hub) -> None:
    detector = Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)
    assert detector.classes == NAMES
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert {name for _, name, _ in hub.asked} == set(files)
    fetched = [name for command, name, _ in hub.asked if command == "GET"]
    assert sorted(fetched) == files
    Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)
    assert [name for command, name, _ in hub.asked if command == "GET"] == fetched
    hub.close()  # what is there is used where nobody answers
    again = Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)
    assert again.classes == NAMES
    assert again.recipe.train.imgsz == [64, 96]


def test_a_hub_without_settings_of_pictures(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's count; also later, where nobody can be asked."""
    (hub.folder(HUB) / "preprocessor_config.json").unlink()
    assert settings_of_pictures() == (640, "stretch", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert settings_of_pictures() == (640, "stretch", True)


def settings_of_pictures() -> tuple[Any, ...]:
    recipe = load_recipe("transformers/rtdetr-r18", overrides={"model.pretrained": "hub", **OF_HUB})
    return recipe.train.imgsz, recipe.data.fit, recipe.data.antialias


def test_nobody_answers(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence at once, that says who does not answer and what else would do; nothing of the hub's client."""
    hub.close()
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("the hub's client asks again, later and later"))
    with pytest.raises(InputError, match=rf"{HUB} could not be fetched: .*{re.escape(OTHERWISE)}$") as caught:
        Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)
    assert "\n" not in str(caught.value)
    source, out = tmp_path / "street.png", tmp_path / "found"
    Image.new("RGB", (64, 64)).save(source)
    words = ["alignrank", "predict", "--model", "transformers/rtdetr-r18", str(source), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"PekingU/rtdetr_r18vd_coco_o365 could not be fetched: {hub.at} cannot be reached (" in line
    assert line.endswith(OTHERWISE)
    assert not out.exists()


def test_a_broken_download_goes_on(hub: Hub) -> None:
    hub.cut["model.safetensors"] = 1000
    assert Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB).classes == NAMES
    ranges = [wanted for command, name, wanted in hub.asked if command == "GET" and name == "model.safetensors"]
    assert ranges == [None, "bytes=1000-"]


def test_a_download_that_is_not_what_the_hub_says(hub: Hub) -> None:
    hub.wrong = True
    with pytest.raises(InputError, match=r"model\.safetensors is damaged \(its checksum does not match\); remove "):
        Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)


def said_by(words: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON of a verb."""
    monkeypatch.setattr(sys, "argv", ["alignrank", *map(str, words), "--imgsz", "64", "--device", "cpu", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_verbs_fetch_a_recipe_s_published_weights(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(hub.folder(HUB), hub.folder("PekingU/rtdetr_r18vd_coco_o365"))  # which the recipe names
    published = ["--model", "transformers/rtdetr-r18"]
    Image.fromarray((IMAGES[0].permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "street.png")
    words = ["predict", *published, tmp_path / "street.png", "--out", tmp_path / "found", "--conf", 0.01]
    (entry,) = said_by(words, monkeypatch, capsys)["images"]
    assert entry["names"]
    assert set(entry["names"]) <= set(NAMES)
    data = write_squares(tmp_path / "data", num_val=2, classes=NAMES)
    found = said_by(["val", *published, "--data", data], monkeypatch, capsys)
    expected = Detector("transformers/rtdetr-r18", pretrained="hub").val(str(data), imgsz=64, device="cpu")
    assert found == json.loads(json.dumps(expected.to_dict()))


def test_verbs_take_a_folder_in_place_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data = tmp_path / "published", write_squares(tmp_path / "data", num_val=2, classes=NAMES)
    write_published(folder)
    published = ["--model", "transformers/rtdetr-r18", "--pretrained", folder]
    detector = Detector("transformers/rtdetr-r18", pretrained=folder)
    picture = data / "images" / "val0.png"
    words = ["predict", *published, picture, "--out", tmp_path / "found", "--conf", 0.01]
    (entry,) = said_by(words, monkeypatch, capsys)["images"]
    (expected,) = detector.predict(str(picture), conf=0.01, imgsz=64, device="cpu")
    assert entry["scores"]
    assert entry["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    found = said_by(["val", *published, "--data", data], monkeypatch, capsys)
    assert found == json.loads(json.dumps(detector.val(str(data), imgsz=64, device="cpu").to_dict()))
    recipe = tmp_path / "mine.yaml"  # a recipe that names the folder itself
    recipe.write_text(
        yaml.safe_dump(load_recipe("transformers/rtdetr-r18", overrides={"model.pretrained": str(folder)}).to_dict())
    )
    assert published_model(str(recipe)).classes == NAMES


@pytest.mark.parametrize("verb", [["predict", "street.png"], ["val", "--data", "data"], ["track", "street.mp4"]])
def test_a_folder_is_for_models(
    verb: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["alignrank", *verb, "--weights", "x.safetensors", "--pretrained", "folder"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "alignrank: --pretrained: is for --model\n"


def test_what_the_hub_has_not(hub: Hub) -> None:
    (hub.folder(HUB) / "model.safetensors").rename(hub.folder(HUB) / "pytorch_model.bin")
    with pytest.raises(InputError, match=rf"{HUB} could not be fetched: there is no model\.safetensors in it; give a"):
        Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)


def test_no_network() -> None:
    """One sentence that names the folder option."""
    name = "transformers/rtdetr-r18"
    message = r"model\.pretrained=hub: PekingU/rtdetr_r18vd_coco_o365 could not be fetched \(HF_HUB_OFFLINE is set\): "
    for ask in (lambda: Detector(name, pretrained="hub"), lambda: published_model(name)):
        with pytest.raises(InputError, match=message) as caught:
            ask()
        assert str(caught.value).endswith(f"config.json and model.safetensors instead: {OTHERWISE}")
        assert "\n" not in str(caught.value)


def test_recipes_of_ours_have_no_published_weights() -> None:
    with pytest.raises(InputError, match=r"--model: yolov8-n has no published weights; train it, then give --weights"):
        published_model("yolov8-n")
    with pytest.raises(InputError, match="the recipe names no published checkpoint"):
        load_recipe("transformers/rtdetr-r18", overrides={"model.pretrained": "hub", "model.hub": ""})
