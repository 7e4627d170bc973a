"""The least that can be exported; apart from test_export.py, which takes minutes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from alignrank.detectors.postprocess import TopK
from alignrank.export import onnx as export


class Network(nn.Module):
    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def test_a_single_detection_is_the_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(export, "_to_onnx", reached)
    with pytest.raises(InterruptedError):
        export.export_onnx(Network(), TopK(), tmp_path / "m.onnx", imgsz=64, names=["a"], max_dets=1)
