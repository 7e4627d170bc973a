"""Weights that torchvision publishes: from a local file or folder, and from a web server."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from hosted_detectors import assert_saved_as_ours_it_says
from loopback_server import LoopbackServer, QuietHandler
from safetensors.torch import load_file, save_file
from tiny_forms import tiny_torchvision
from torch.testing import assert_close
from torchvision_hosts import RECIPES, write_published

from alignrank import Detector
from alignrank.errors import InputError
from alignrank.plug.torchvision_models import ARCHITECTURES
from alignrank.weights.coco_names import COCO_NAMES
from alignrank.weights.published import for_data
from alignrank.weights.recipe import load_recipe

FCOS = "fcos_resnet50_fpn"
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def loaded(path: Path | str, name: str = FCOS, **overrides: Any) -> Detector:
    return Detector(RECIPES[name], pretrained=path, **tiny_torchvision(name) | overrides)


@pytest.mark.parametrize("name", RECIPES)
def test_the_published_classes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """91 channels are COCO's numbers, of which 80 are classes; saved as ours it says the same, without the file."""
    about = ARCHITECTURES[name]
    write_published(tmp_path / "weights.safetensors", name, 91 - about.two_stages)
    capsys.readouterr()
    detector = loaded(tmp_path / "weights.safetensors", name)
    assert detector.classes == COCO_NAMES
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "no class" in line]
    assert f"{11 - about.two_stages} of its {91 - about.two_stages} channels are no class" in line
    with torch.no_grad():
        said = detector.model.eval()(IMAGES)
    assert said.logits.shape[-1] == 80
    (tmp_path / "weights.safetensors").unlink()
    assert_saved_as_ours_it_says(detector, said, IMAGES, tmp_path / "ours.safetensors")


def test_labels_are_channels_of_coco(tmp_path: Path) -> None:
    """What the library calls 13 (stop sign, behind a gap) is the class at place 11 here."""
    library = write_published(tmp_path / "weights.safetensors", FCOS, 91)
    detector = loaded(tmp_path)
    with torch.no_grad():
        ours = detector.model.eval()(IMAGES)
        maps = library.backbone((IMAGES - detector.model.mean) / detector.model.std)
        said = library.head(list(maps.values()))
    assert COCO_NAMES[11] == "stop sign"
    expected = (said["cls_logits"].sigmoid() * said["bbox_ctrness"].sigmoid()).sqrt()[..., 13]
    assert_close(ours.scores()[..., 11], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RECIPES)
def test_other_classes_keep_what_fits(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = write_published(tmp_path / "weights.safetensors", name).state_dict()
    options = tiny_torchvision(name) | {"model.pretrained": str(tmp_path)}
    recipe = load_recipe(RECIPES[name], overrides=options)
    capsys.readouterr()

    def kept(classes: tuple[str, ...]) -> set[str]:
        own = for_data(recipe, classes).build().model.host.state_dict()
        return {
            key for key, value in own.items() if theirs[key].shape == value.shape and torch.equal(value, theirs[key])
        }

    assert kept(tuple(f"LABEL_{label + ARCHITECTURES[name].two_stages}" for label in range(3))) == set(theirs)
    assert capsys.readouterr().err == ""
    heads = ("cls_logits", "cls_score", "box_predictor.bbox_pred") if "faster" in name else ("cls_logits",)
    of_classes = {key for key in theirs if key.rpartition(".")[0].endswith(heads) and not key.startswith("rpn")}
    assert of_classes
    for classes in (("cat", "person", "dog"), ("cat",)):
        assert kept(classes) == set(theirs) - of_classes
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{tmp_path}: of other classes; not kept: " in line


def test_norms_are_as_in_the_file(tmp_path: Path) -> None:
    """FCOS is published with frozen ones, which the file tells; what somebody asks for wins."""
    write_published(tmp_path / "weights.safetensors", FCOS)
    assert loaded(tmp_path).recipe.to_dict()["model"]["norm"] == "learn"
    tensors = load_file(tmp_path / "weights.safetensors")
    frozen = {name: value for name, value in tensors.items() if "num_batches" not in name}
    save_file(frozen, tmp_path / "weights.safetensors")
    detector = loaded(tmp_path)
    assert detector.recipe.to_dict()["model"]["norm"] == "frozen"
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in detector.model.modules())
    assert loaded(tmp_path, **{"model.norm": "learn"}).recipe.to_dict()["model"]["norm"] == "learn"


def test_masks_are_left_out(tmp_path: Path) -> None:
    name = "fasterrcnn_resnet50_fpn_v2"
    theirs = write_published(tmp_path / "weights.safetensors", name).state_dict()
    save_file(theirs | {"roi_heads.mask_head.0.0.weight": torch.ones(3)}, tmp_path / "weights.safetensors")
    assert set(loaded(tmp_path, name).model.host.state_dict()) == set(theirs)


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    del tensors["head.regression_head.bbox_reg.weight"]
    save_file(tensors, folder / "weights.safetensors")


def of_another_kind(folder: Path) -> None:
    write_published(folder / "weights.safetensors", "fasterrcnn_resnet50_fpn_v2")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda folder: (folder / "weights.safetensors").rename(folder / "weights.pth"),
            "pth is a Python pickle; it may",
        ),
        (lambda folder: (folder / "weights.safetensors").unlink(), "no .safetensors file, nor a folder with one"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x" * 100), "is not a readable safetensors file"),
        (lambda folder: shutil.copy(folder / "weights.safetensors", folder / "b.safetensors"), "holds 2 .safetensors"),
        (without_a_tensor, r"does not fit model\.config: 1 tensors are missing .*bbox_reg\.weight"),
        (of_another_kind, r"is no fcos_resnet50_fpn: head\.classification_head\.cls_logits\.bias is missing"),
    ],
)
def test_what_is_no_such_checkpoint(damage: Any, message: str, tmp_path: Path) -> None:
    write_published(tmp_path / "weights.safetensors", FCOS)
    damage(tmp_path)
    with pytest.raises(InputError, match=rf"model\.pretrained: .*{message}") as caught:
        loaded(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_user_s_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"weights\.pth is a Python pickle; it may hold code and is not opened"):
        loaded(tmp_path / "weights.pth")


class Site(LoopbackServer):
    """Serves one file, in ranges. cut: how many bytes of each next answer are sent before the line breaks."""

    def __init__(self, content: bytes) -> None:
        self.content, self.ranges, self.cut = content, list[str | None](), list[int]()
        outer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:
                outer.answer(self)

        super().__init__(Handler)

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        wanted = to.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        rest = self.content[start:]
        if start and not rest:
            to.send_error(416)
            return
        to.send_response(206 if start else 200)
        to.send_header("Content-Length", str(len(rest)))
        to.end_headers()
        to.wfile.write(rest[: self.cut.pop(0)] if self.cut else rest)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_loopback: None) -> Iterator[Site]:
    model = write_published(tmp_path / "weights.safetensors", FCOS)
    torch.save(model.state_dict(), tmp_path / "published")
    opened = Site((tmp_path / "published").read_bytes())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    yield opened
    opened.close()


def address(site: Site, digest: str | None = None) -> dict[str, Any]:
    return {"model.hub": f"{site.at}/fcos-{digest or hashlib.sha256(site.content).hexdigest()[:8]}.pth"}


def test_it_is_fetched_once(site: Site, tmp_path: Path) -> None:
    detector = loaded("hub", **address(site))
    theirs = load_file(tmp_path / "weights.safetensors")
    own = detector.model.host.state_dict()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    assert site.ranges == [None]
    options = address(site)
    site.close()  # what is there is used where nobody answers
    assert loaded("hub", **options).classes == detector.classes


def test_a_broken_download_goes_on(site: Site) -> None:
    site.cut = [1000, 500]
    loaded("hub", **address(site))
    assert site.ranges == [None, "bytes=1000-", "bytes=1500-"]


OTHERWISE = r"model\.pretrained=FOLDER \(predict, val and track: --pretrained FOLDER\)"


def test_a_download_that_stays_broken(site: Site) -> None:
    site.cut = [0] * 10
    with pytest.raises(InputError, match=rf"could not be fetched: the connection broke; .*{OTHERWISE}$"):
        loaded("hub", **address(site))


def test_a_wrong_checksum(site: Site, tmp_path: Path) -> None:
    """Nothing is kept of what was fetched; nor is a file opened that has changed since."""
    with pytest.raises(InputError, match=r"fcos-00000000\.pth sent does not match its checksum; try again"):
        loaded("hub", **address(site, "00000000"))
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    loaded("hub", **address(site))
    (path,) = (tmp_path / "cache").rglob("*.pth")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match=r"\.pth is damaged \(its checksum does not match\); remove it"):
        loaded("hub", **address(site))


def test_a_download_that_was_whole_but_not_named(site: Site, tmp_path: Path) -> None:
    name = address(site)["model.hub"].rpartition("/")[2]
    part = tmp_path / "cache" / "checkpoints" / f"{name}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(site.content)
    loaded("hub", **address(site))
    assert site.ranges == [f"bytes={len(site.content)}-"]


def test_nobody_answers(site: Site) -> None:
    options = address(site)
    site.close()
    with pytest.raises(InputError, match=rf"could not be fetched: .*; give a local folder .*{OTHERWISE}$") as caught:
        loaded("hub", **options)
    assert "\n" not in str(caught.value)


class Runs:
    def __reduce__(self) -> Any:
        return (print, ("code from a pickle",))


def test_code_in_a_published_file_is_not_run(site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"head": Runs()}, tmp_path / "hostile")
    site.content = (tmp_path / "hostile").read_bytes()
    with pytest.raises(InputError, match="cannot be read"):
        loaded("hub", **address(site))
    assert "code from a pickle" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "hub", ["file:///etc/weights-00000000.pth", "https://example.invalid/weights.pth", "someone/fcos"]
)
def test_what_is_no_such_address(hub: str) -> None:
    with pytest.raises(InputError, match=r"model\.hub: must be the address of a file NAME-CHECKSUM\.pth"):
        loaded("hub", **{"model.hub": hub})
