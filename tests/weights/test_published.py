"""Published checkpoints in their own layout: from a folder and from a server that speaks the hub's API."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from PIL import Image
from published_hosts import NAMES, RECIPES, write_published
from safetensors.torch import load_file, save_file
from tiny_forms import HOSTS

from alignrank import Detector, cli
from alignrank.errors import InputError
from alignrank.plug.transformers_models import ARCHITECTURES
from alignrank.weights import checkpoint
from alignrank.weights.published import for_data, published_model, same_classes
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
    path = tmp_path / "ours.safetensors"
    checkpoint.save(path, detector.model.state_dict(), recipe=detector.recipe, classes=detector.classes, metrics={})
    with torch.no_grad():
        again = checkpoint.load(path).build_model()(IMAGES)
    assert torch.equal(again.logits, ours.logits)
    assert torch.equal(again.boxes, ours.boxes)


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
        (lambda folder: edited(folder, d_model="wide"), r"config\.json cannot be used \(.*d_model"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not readable JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must hold a mapping, holds a list"),
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


class Hub:
    """Answers HEAD and GET of /REPOSITORY/resolve/REVISION/FILE as the hub does; large files by their SHA-256.

    cut: how many bytes of the next answer are sent before the line breaks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.cut = folder, list[tuple[str, str, str | None]](), dict[str, int]()
        self.wrong = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer.answer(self, head=True)

            def do_GET(self) -> None:
                outer.answer(self, head=False)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.at = f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, to: BaseHTTPRequestHandler, *, head: bool) -> None:
        _, resolve, rest = to.path.partition("/resolve/")
        name, wanted = rest.rpartition("/")[2], to.headers.get("Range")
        if resolve:  # the client also asks for what is no file
            self.asked.append((to.command, name, wanted))
        path = self.folder / name
        known = bool(resolve) and path.is_file()
        content = path.read_bytes() if known else b"Entry not found"
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and known else 0
        to.send_response((206 if start else 200) if known else 404)
        if known:
            digest = hashlib.sha256(content).hexdigest()
            of = {"X-Repo-Commit": "0" * 40, "ETag": f'"{digest if name.endswith(".safetensors") else digest[:40]}"'}
            for header, value in of.items():
                to.send_header(header, value)
            if start:
                to.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            to.send_header("X-Error-Code", "EntryNotFound")
        if self.wrong and not head and name.endswith(".safetensors"):
            content = content[:-1] + bytes([content[-1] ^ 1])
        to.send_header("Content-Length", str(len(content) - start))
        to.end_headers()
        if not head:
            part = self.cut.pop(name, len(content))
            to.wfile.write(content[start : start + part])
            to.close_connection = part < len(content) - start

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_loopback: None) -> Iterator[Hub]:
    write_published(tmp_path / "published")
    opened = Hub(tmp_path / "published")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", opened.at)
    template = opened.at + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 500)  # what is whole is kept when the line breaks
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield opened
    opened.close()


OF_HUB = {"model.hub": HUB}


def test_the_hub_s_files_are_fetched_once(hub: Hub) -> None:
    detector = Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)
    assert detector.classes == NAMES
    assert {name for _, name, _ in hub.asked} == {"config.json", "model.safetensors"}
    fetched = [name for command, name, _ in hub.asked if command == "GET"]
    assert sorted(fetched) == ["config.json", "model.safetensors"]
    Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)
    assert [name for command, name, _ in hub.asked if command == "GET"] == fetched
    hub.close()  # what is there is used where nobody answers
    assert Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB).classes == NAMES


def test_a_broken_download_goes_on(hub: Hub) -> None:
    hub.cut["model.safetensors"] = 1000
    assert Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB).classes == NAMES
    ranges = [wanted for command, name, wanted in hub.asked if command == "GET" and name == "model.safetensors"]
    assert ranges == [None, "bytes=1000-"]


def test_a_download_that_is_not_what_the_hub_says(hub: Hub) -> None:
    hub.wrong = True
    with pytest.raises(InputError, match=r"model\.safetensors is damaged \(its checksum does not match\); remove "):
        Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)


def test_predict_fetches_a_recipe_s_published_weights(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray((IMAGES[0].permute(1, 2, 0) * 255).byte().numpy()).save(tmp_path / "street.png")
    words = ["predict", "--model", "transformers/rtdetr-r18", tmp_path / "street.png", "--out", tmp_path / "found"]
    words += ["--imgsz", 64, "--conf", 0.01, "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["alignrank", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    (entry,) = json.loads(capsys.readouterr().out)["images"]
    assert entry["names"]
    assert set(entry["names"]) <= set(NAMES)


def test_what_the_hub_has_not(hub: Hub) -> None:
    (hub.folder / "model.safetensors").rename(hub.folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=rf"{HUB} could not be fetched: there is no model\.safetensors in it; give a"):
        Detector("transformers/rtdetr-r18", pretrained="hub", **OF_HUB)


def test_no_network() -> None:
    """One sentence that names the folder option."""
    name = "transformers/rtdetr-r18"
    message = r"model\.pretrained=hub: PekingU/rtdetr_r18vd_coco_o365 could not be fetched \(HF_HUB_OFFLINE is set\): "
    for ask in (lambda: Detector(name, pretrained="hub"), lambda: published_model(name)):
        with pytest.raises(InputError, match=message) as caught:
            ask()
        assert str(caught.value).endswith("config.json and model.safetensors instead: model.pretrained=FOLDER")
        assert "\n" not in str(caught.value)


def test_recipes_of_ours_have_no_published_weights() -> None:
    with pytest.raises(InputError, match=r"--model: yolov8-n has no published weights; train it, then give --weights"):
        published_model("yolov8-n")
    with pytest.raises(InputError, match="the recipe names no published checkpoint"):
        load_recipe("transformers/rtdetr-r18", overrides={"model.pretrained": "hub", "model.hub": ""})
