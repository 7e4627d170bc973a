"""The verbs need no network: they run where no socket can be opened, and nothing tells the hub's library so."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub.constants
import pytest
from squares import write_squares
from tiny_weights import write_tiny_transformer

from alignrank import cli

TINY = ("--imgsz", "64", "--device", "cpu")


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket but between processes of this machine, no look-up of names; offline mode of the hub is off."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    whole = socket.socket.__init__

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a verb looked for the network")

    def guarded(self: socket.socket, family: int = -1, *arguments: Any, **options: Any) -> None:
        if family in (-1, socket.AF_INET, socket.AF_INET6):
            refuse()
        whole(self, family, *arguments, **options)

    monkeypatch.setattr(socket.socket, "__init__", guarded)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["alignrank", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0


@pytest.mark.usefixtures("no_sockets")
def test_no_verb_opens_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = write_squares(tmp_path / "squares", num_train=2, num_val=1)
    image, train = data / "images" / "val0.png", data / "annotations" / "train.json"
    layered = write_tiny_transformer(tmp_path / "layered.safetensors")
    done = set[str]()
    for words in (
        ("train", "--data", data, "--epochs", 1, "--batch", 2, *TINY, "model.size=t", "--out", "run"),
        ("tune", "--data", data, "--trials", 1, "--epochs", 1, "--batch", 2, *TINY, "model.size=t", "--out", "study"),
        ("val", "--weights", "run", "--data", data, "--device", "cpu", "--out", "val"),
        ("layers", "--weights", layered, "--data", data, "--device", "cpu", "--out", "layers"),
        ("field", "--model", "yolov8-n", "model.size=t", image, "--device", "cpu", "--imgsz", 64, "--out", "field"),
        ("maps", image, "--weights", "run", "--device", "cpu", "--out", "maps"),
        ("predict", image, "--weights", "run", "--device", "cpu", "--conf", 0.001, "--out", "found"),
        ("track", image, "--weights", "run", "--device", "cpu", "--conf", 0.001, "--out", "tracks"),
        ("benchmark", "--weights", "run", "--engines", "eager", "--batch", 1, "--rounds", 1, "--device", "cpu"),
        ("export", "--weights", "run"),
        ("diagnose", "--gt", data / "annotations" / "val.json", "--dt", "val/detections.json", "--html", "r.html"),
        ("models",),
        ("config", "yolov8-n"),
        ("data", "show", data, "--imgsz", 64, "--out", "sheet.jpg"),
        ("data", "convert", data, "--to", "yolo", "--out", "yolo"),
        ("data", "check", data),
        ("data", "split", train, "--out", "split", "--val-fraction", 0.5),
    ):
        run(monkeypatch, *words)
        done.add(" ".join(map(str, words[:2] if words[0] == "data" else words[:1])))
    assert json.loads((tmp_path / "run" / "results.json").read_text())["processed"] == 3
    # `convert` needs a foreign checkpoint: tests/weights/test_foreign_checkpoints.py, under the block of conftest.py.
    # `push` is for the network: tests/weights/test_hub.py.
    # `serve` listens, and opens no connection either: tests/serve, under the same block.
    known = json.loads((Path(__file__).parent / "golden" / "cli_surface.json").read_text())
    assert set(known) - done <= {"convert", "push", "serve"}
