"""Weights to the hub and back, from a server on this machine that speaks the hub's API."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hub_server import GOOD_TOKEN, READ_TOKEN, Hub, opened_hub
from PIL import Image
from tiny_weights import write_tiny_weights

from alignrank import Detector, cli
from alignrank.errors import InputError
from alignrank.plug.hub import quiet_client
from alignrank.weights import checkpoint
from alignrank.weights.card import without_folders
from alignrank.weights.catalog import weights_file
from alignrank.weights.hub import fetched, parse_address
from alignrank.weights.publish import PushOptions, write_repository
from alignrank.weights.recipe import Recipe, load_recipe

NAME = "someone/squares"
FILES = ["README.md", "metrics.json", "model.safetensors", "recipe.yaml", "val_predictions.jpg"]
METRICS = {
    "ap": 0.4125, "ap50": 0.7, "ap75": 0.4, "ap_small": None, "lrp": 0.6,
    "rank": {"spearman": 0.31, "spearman_true_class_mean": 0.2, "misranked": 0.125, "ap_lost_ranking": 0.0625},
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_loopback: None) -> Iterator[Hub]:
    yield from opened_hub(tmp_path, monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, with what it says of itself."""
    folder = tmp_path / "private" / "runs" / "squares"
    write_tiny_weights(folder / "best.safetensors", classes=("red *one*", "blue"))
    results = {
        "metrics": METRICS, "images": {"train": 8, "val": 4}, "validated_on_training_images": False, "epochs": 12,
        "best_epoch": 9, "best_because": "AP 0.412", "seconds": 75.2, "device": "cpu", "alignrank": "0.1.0",
        "torch": "2.10", "commit": "abc", "precision": "fp32",
        "command": f"alignrank train --data {tmp_path}/private/cells --out=/home/me/x --epochs 12 train.lr=0.01",
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    started = {"options": {"data": str(tmp_path / "private" / "cells")}, "recipe": {"detector": "yolo"}}
    (folder / "run.json").write_text(json.dumps(started))
    Image.new("RGB", (40, 30), "red").save(folder / "val_predictions.jpg")
    return folder


def pushed(run: Path, **options: Any) -> str:
    return Detector.load(run).push_to_hub(NAME, token=GOOD_TOKEN, **options)


def metadata(card: str) -> Any:
    return yaml.safe_load(card.split("---\n")[1])


def test_what_is_pushed_can_be_loaded(hub: Hub, run: Path, tmp_path: Path) -> None:
    """With the same weights, classes and recipe, by the newest state and by that of the commit."""
    address = pushed(run)
    assert address == f"hf://{NAME}@{hub.heads[NAME]}"
    assert sorted(path.name for path in hub.folder(NAME).iterdir()) == FILES
    ours = checkpoint.load(run)
    for place in (f"hf://{NAME}", address, hub.folder(NAME)):
        detector = Detector.load(place)
        assert (detector.classes, detector.recipe) == (ours.classes, ours.recipe)
        assert all(torch.equal(ours.weights[name], tensor) for name, tensor in detector.model.state_dict().items())
    kinds = {
        line["value"]["path"]: line["key"] for path, lines in hub.posted if "/commit/" in path for line in lines[1:]
    }
    assert kinds == {
        "README.md": "file", "metrics.json": "file", "recipe.yaml": "file",
        "model.safetensors": "lfsFile", "val_predictions.jpg": "lfsFile",
    }  # fmt: skip
    again = load_recipe(str(hub.folder(NAME) / "recipe.yaml"), num_classes=2)
    assert again.architecture == ours.recipe.architecture
    assert again.train == ours.recipe.train
    for name in FILES:
        assert str(tmp_path).encode() not in (hub.folder(NAME) / name).read_bytes()


def test_the_page_says_what_the_run_says(hub: Hub, run: Path) -> None:
    pushed(run, data="hf://datasets/someone/cells", licence="apache-2.0")
    card = (hub.folder(NAME) / "README.md").read_text()
    about = metadata(card)
    assert {key: about[key] for key in ("library_name", "pipeline_tag", "license", "datasets", "metrics")} == {
        "library_name": "alignrank", "pipeline_tag": "object-detection", "license": "apache-2.0",
        "datasets": ["someone/cells"], "metrics": ["map"],
    }  # fmt: skip
    assert about["tags"] == ["object-detection", "alignrank", "yolov10-n"]
    (index,) = about["model-index"]
    (result,) = index["results"]
    assert result["dataset"] == {"name": "hf://datasets/someone/cells", "type": "someone/cells"}
    assert {one["type"]: one["value"] for one in result["metrics"]} == {"map": 0.4125, "map_50": 0.7, "map_75": 0.4}
    for words in (
        "# squares\n",
        "Finds objects of 2 classes in images: red \\*one\\*, blue.",
        "(val_predictions.jpg)",
        f'alignrank.Detector.load("hf://{NAME}")',
        f"alignrank predict --weights hf://{NAME} photos/",
        "On 4 validation images of [someone/cells](https://huggingface.co/datasets/someone/cells)",
        "| AP | 0.412 |",
        "| AP lost to ranking | 0.062 |",
        "| The same, mean over classes | 0.200 |",
        "8 training images",
        "Epochs: 12; the best was number 9 (AP 0.412)",
        "alignrank train --data cells --out=x --epochs 12 train.lr=0.01",
        "The weights: apache-2.0.",
    ):
        assert words in card
    assert "AP, small" not in card  # there was no such object
    assert "trained on: on others" not in card


def test_other_weights_of_a_run_have_no_figures_of_the_best_ones(hub: Hub, run: Path) -> None:
    """The last epoch's have those in the file; weights that were changed have none, nor the run's picture."""
    shutil.copy(run / "best.safetensors", run / "last.safetensors")
    loaded = checkpoint.load(run)
    about = {"epoch": 12, "ap": 0.375, "rank.misranked": 0.25}
    checkpoint.save(
        run / "last.safetensors", loaded.weights, recipe=loaded.recipe, classes=loaded.classes, metrics=about
    )
    pushed(run / "last.safetensors")
    card = (hub.folder(NAME) / "README.md").read_text()
    assert "measured in training, after epoch 12" in card
    assert "| AP | 0.375 |" in card
    assert "| Mis-ranked pairs | 0.250 |" in card
    assert "val_predictions" not in card
    assert "None is stated for these weights" in card
    assert "license" not in metadata(card)

    detector = Detector.load(run)
    with torch.no_grad():
        next(detector.model.parameters()).add_(1.0)
    detector.push_to_hub(NAME, token=GOOD_TOKEN)
    card = (hub.folder(NAME) / "README.md").read_text()
    assert "## Figures" not in card
    assert "model-index" not in metadata(card)
    found = checkpoint.load(hub.folder(NAME) / "model.safetensors")
    assert found.metrics == {}
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in detector.model.state_dict().items())


def test_what_only_its_owner_has_is_in_no_recipe(run: Path, tmp_path: Path) -> None:
    """Loggers of the training, and the file that a backbone began with."""
    loaded = checkpoint.load(run)
    values = loaded.recipe.to_dict()
    values["train"]["loggers"], values["model"]["pretrained"] = ["wandb"], "/home/me/backbone.safetensors"
    (tmp_path / "made").mkdir()
    mine = replace(loaded, recipe=Recipe.parse(values, where="mine"))
    write_repository(mine, NAME, PushOptions(), tmp_path / "made")
    assert checkpoint.load(tmp_path / "made").recipe == loaded.recipe
    assert "wandb" not in (tmp_path / "made" / "README.md").read_text()
    assert b"/home/me" not in (tmp_path / "made" / "recipe.yaml").read_bytes()


def test_figures_of_training_images_are_called_so(hub: Hub, run: Path) -> None:
    results = json.loads((run / "results.json").read_text()) | {"validated_on_training_images": True}
    (run / "results.json").write_text(json.dumps(results))
    pushed(run, picture=False)
    assert "the images that it was trained on: on others it does worse" in (hub.folder(NAME) / "README.md").read_text()
    assert not (hub.folder(NAME) / "val_predictions.jpg").exists()


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["alignrank", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_line(
    hub: Hub, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`push`; then `predict` and `export` by address, which leave the client's cache as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert command(monkeypatch, "push", "--weights", run, NAME, "--private", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == {
        "address": f"hf://{NAME}@{hub.heads[NAME]}", "url": f"{hub.at}/{NAME}", "files": FILES,
    }  # fmt: skip
    assert hub.private == {NAME}
    Image.new("RGB", (64, 64), "red").save("street.png")
    words = ["predict", "--weights", f"hf://{NAME}", "street.png", "--device", "cpu", "--conf", 0.01, "--out", "found"]
    assert command(monkeypatch, *words, "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["images"]
    assert set(entry["names"]) == {"red *one*", "blue"}
    before = sorted((tmp_path / "cache").rglob("*"))
    assert command(monkeypatch, "export", "--weights", f"hf://{NAME}", "--format", "torchscript", "--no-check") == 0
    assert Path("yolov10-n.torchscript").is_file()
    assert sorted((tmp_path / "cache").rglob("*")) == before


def test_weights_are_fetched_once_and_used_where_nobody_answers(hub: Hub, run: Path) -> None:
    pushed(run)
    for _ in range(2):
        fetched.cache_clear()  # as another process would begin
        Detector.load(f"hf://{NAME}")
    assert [name for method, name, _ in hub.asked if method == "GET"] == ["model.safetensors"]
    hub.close()
    fetched.cache_clear()
    assert Detector.load(f"hf://{NAME}").classes == ("red *one*", "blue")


def test_a_broken_download_goes_on(hub: Hub, run: Path) -> None:
    pushed(run)
    hub.cut["model.safetensors"] = 1000
    assert Detector.load(f"hf://{NAME}").classes == ("red *one*", "blue")
    assert [wanted for method, _, wanted in hub.asked if method == "GET"] == [None, "bytes=1000-"]


def test_a_download_that_is_not_what_the_hub_says(hub: Hub, run: Path) -> None:
    pushed(run)
    hub.wrong = True
    with pytest.raises(InputError, match=rf"hf://{NAME} could not be fetched: .*is damaged .*remove .* fetched again"):
        Detector.load(f"hf://{NAME}")


def test_an_upload_that_arrives_changed_is_no_commit(hub: Hub, run: Path) -> None:
    hub.wrong = True
    message = rf"push: {NAME} could not be written: The uploaded object is not what its oid says"
    with pytest.raises(InputError, match=message):
        pushed(run)
    assert NAME not in hub.heads


def test_a_second_push_is_a_second_commit(hub: Hub, run: Path) -> None:
    first = pushed(run)
    second = pushed(run, licence="mit")
    assert first != second
    for address, licence in ((first, None), (second, "mit")):
        at = hub.folder(address.removeprefix("hf://"))
        assert metadata((at / "README.md").read_text()).get("license") == licence


def refused(ask: Any, *words: str) -> None:
    """One sentence with all the words."""
    with pytest.raises(InputError) as caught:
        ask()
    assert "\n" not in str(caught.value)
    assert "hf_" not in str(caught.value)  # a token
    for word in words:
        assert word in str(caught.value)


def test_who_may_not(hub: Hub, run: Path) -> None:
    """One sentence each: nobody logged in, a token that nobody has, one that may only read; none of them in it."""
    detector = Detector.load(run)
    refused(
        lambda: detector.push_to_hub(NAME), "push: someone/squares: the hub wants to know", "hf auth login", "HF_TOKEN"
    )
    refused(lambda: detector.push_to_hub(NAME, token="hf_wrong"), "does not accept the token")
    refused(lambda: detector.push_to_hub(NAME, token=READ_TOKEN), "the token may not write there")
    pushed(run, private=True)
    no_such = "there is no such repository, or it is private: log in with `hf auth login`, or set HF_TOKEN"
    refused(lambda: Detector.load(f"hf://{NAME}"), f"hf://{NAME} could not be fetched", no_such)
    refused(lambda: Detector.load("hf://someone/nothing"), no_such, "give a folder")
    refused(lambda: Detector.load(f"hf://{NAME}@v2"), no_such)


def test_a_private_repository_is_read_with_a_token(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed(run, private=True)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
    assert Detector.load(f"hf://{NAME}").classes == ("red *one*", "blue")
    refused(lambda: Detector.load(f"hf://{NAME}@v2"), "there is no revision 'v2' of it")


def test_nobody_is_asked_offline(run: Path) -> None:
    """As in all tests: HF_HUB_OFFLINE is set."""
    fetched.cache_clear()
    folder = "give a folder that holds the repository's files, or a .safetensors file, instead"
    refused(lambda: Detector.load(f"hf://{NAME}"), f"hf://{NAME} could not be fetched (HF_HUB_OFFLINE is set)", folder)
    refused(
        lambda: Detector.load(run).push_to_hub(NAME, token="hf_any"), "HF_HUB_OFFLINE is set, so nothing can be sent"
    )


def test_nobody_answers(hub: Hub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.close()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client asks again, later and later
    refused(lambda: Detector.load(f"hf://{NAME}"), f"hf://{NAME} could not be fetched: ", "give a folder")
    refused(lambda: pushed(run), f"push: {NAME} could not be written: ")


def test_checkpoints_of_transformers_are_another_recipe_s(hub: Hub) -> None:
    """Told by their `config.json` alone: the weights are not fetched."""
    for repository, config in (
        ("someone/tiny", {"model_type": "rt_detr", "architectures": ["RTDetrForObjectDetection"]}),
        ("Roboflow/rf-detr-nano", {"model_type": "rf_detr"}),
        ("timm/resnet", {"architecture": "resnet18"}),
    ):
        hub.folder(repository).mkdir(parents=True)
        (hub.folder(repository) / "config.json").write_text(json.dumps(config))
        (hub.folder(repository) / "model.safetensors").write_bytes(bytes(100))
    refused(
        lambda: weights_file("hf://someone/tiny"),
        "holds a checkpoint of transformers (rt_detr), which the recipe transformers/rtdetr-r18 takes",
        "--model transformers/rtdetr-r18 model.pretrained=hub model.hub=someone/tiny",
    )
    refused(lambda: weights_file("hf://Roboflow/rf-detr-nano"), "--model transformers/rfdetr-nano model.pretrained=hub")
    refused(lambda: weights_file("hf://timm/resnet"), "of another library (resnet18), which no recipe takes")
    assert {name for _, name, _ in hub.asked} == {"config.json"}


def test_pickles_and_foreign_tensors_are_not_opened(hub: Hub) -> None:
    hub.folder("someone/pickled").mkdir(parents=True)
    (hub.folder("someone/pickled") / "best.pt").write_bytes(b"\x80\x04")
    refused(
        lambda: weights_file("hf://someone/pickled"),
        "there is no model.safetensors in it",
        "`alignrank push` writes it",
    )
    assert {name for _, name, _ in hub.asked} == {"config.json", "model.safetensors"}
    (hub.folder("someone/pickled") / "model.safetensors").write_bytes(b"\x80\x04.")
    fetched.cache_clear()
    refused(lambda: Detector.load("hf://someone/pickled"), "is a Python pickle; it may hold code and is not opened")


@pytest.mark.parametrize("address", ["hf://squares", "hf://a/b/c", "hf://a/b@", "hf://a/b c", "hf://../b@x y"])
def test_what_is_no_address(address: str) -> None:
    refused(lambda: Detector.load(address), "must be hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")


def test_an_address_as_a_path_is_the_same() -> None:
    for address in ("hf://a/b.c-d_e@refs/pr/1", str(Path("hf://a/b.c-d_e@refs/pr/1"))):
        assert parse_address(address) == ("a/b.c-d_e", "refs/pr/1")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"repository": "squares"}, "push: 'squares' must be OWNER/NAME"),
        ({"licence": "My own licence!"}, "push: licence: 'My own licence!' is no identifier"),
        ({"token": ""}, "push: token must be text"),
        ({"data": 3}, "push: data must be text"),
        ({"picture": "no"}, "picture: must be True or False"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, run: Path) -> None:
    given = {"repository": NAME, "token": "hf_any"} | options
    refused(lambda: Detector.load(run).push_to_hub(**given), words)


def test_random_weights_and_exported_files_are_not_pushed(run: Path, tmp_path: Path) -> None:
    new = Detector("yolov8-n", **{"model.size": "t"})
    refused(lambda: new.push_to_hub(NAME, token="hf_any"), "these weights are random")


def test_folders_of_a_command_stay_private() -> None:
    given = "alignrank train --data '/home/me/my cells' --val=~/val runs/a ../up/b model.pretrained=/x/y.safetensors"
    assert (
        without_folders(given) == "alignrank train --data 'my cells' --val=val runs/a b model.pretrained=y.safetensors"
    )
    assert without_folders("alignrank 'train") == ""


def test_the_client_s_own_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable that it documents, unless somebody has set that."""
    for before, after in ((None, "1"), ("0", "0")):
        if before is None:
            monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
        else:
            monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", before)
        quiet_client()
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == after
