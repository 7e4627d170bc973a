"""`Detector.predict`: a list or a stream, and what each holds in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import environment
from finder import scene
from tiny_weights import write_tiny_weights

from alignrank import Detector, InputError
from alignrank.contracts import Detections
from alignrank.inference import predict as predicting
from alignrank.inference import video


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.load(write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors"))


def test_a_stream_gives_what_the_list_has(detector: Detector) -> None:
    pictures = [scene(60 + i, 90) for i in range(5)]
    kept = detector.predict(pictures, conf=0.3, device="cpu")
    stream = detector.predict(pictures, conf=0.3, device="cpu", stream=True)
    assert isinstance(kept, list)
    assert isinstance(stream, Iterator)
    streamed = list(stream)
    assert [found.to_dict() for found in streamed] == [found.to_dict() for found in kept]
    assert sum(len(found) for found in kept) > 0
    assert [found.image is None for found in streamed] == [True] * 5
    assert all(
        found.image is not None and np.array_equal(found.image, p) for found, p in zip(kept, pictures, strict=True)
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_images_are_kept_where_asked_for(detector: Detector, stream: Any, keep: bool) -> None:
    (found,) = detector.predict(scene(), device="cpu", stream=stream, keep_images=keep)
    assert (found.image is not None) == keep


def test_a_stream_computes_when_asked_and_refuses_at_once(detector: Detector) -> None:
    taken: list[int] = []

    def pictures() -> Iterator[np.ndarray[Any, Any]]:
        for i in range(100):
            taken.append(i)
            yield scene()

    stream = detector.predict(pictures(), device="cpu", stream=True)
    assert taken == []
    assert isinstance(next(stream), Detections)
    assert len(taken) < 20
    stream.close()
    with pytest.raises(InputError, match="no such file"):
        detector.predict("missing.jpg", device="cpu", stream=True)


def test_a_list_of_a_camera_would_not_end(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_camera", lambda index: ("testsrc=size=64x48:rate=10", {}, "lavfi"))
    with pytest.raises(InputError, match=r"camera 0: .*stream=True"):
        detector.predict(0)
    stream = detector.predict(0, device="cpu", stream=True)
    assert [next(stream).source for _ in range(3)] == [f"camera 0#{i}" for i in range(3)]
    stream.close()


@pytest.mark.parametrize(("limit", "value"), [("MANY_IMAGES", 3), ("MANY_BYTES", 3 * 60 * 90 * 3)])
def test_a_list_of_many_images_warns_once(
    detector: Detector, limit: str, value: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(predicting, limit, value)

    def said(count: int, **options: Any) -> list[str]:
        list(detector.predict([scene()] * count, device="cpu", **options))
        return [
            line
            for line in capfd.readouterr().err.splitlines()
            if "stream=True" in line and "keep_images=False" in line
        ]

    assert len(said(8)) == 1
    assert said(3) == []
    assert said(8, keep_images=False) == said(8, stream=True) == []


GROWTH = """
import resource, sys
import numpy as np
import torch
from alignrank import Detector

torch.set_num_threads(1)
base = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)

def frames(count):
    for i in range(count):
        yield base.copy()

detector = Detector.load(sys.argv[1])
def peak(count):
    seen = sum(1 for _ in detector.predict(frames(count), device="cpu", stream=True))
    assert seen == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

print(peak(20), peak(int(sys.argv[2])))
"""


def test_memory_of_a_stream_does_not_grow(tmp_path: Path) -> None:
    """80 frames of 1080p, 500 MB, after 20. With `3600` for `80` in the call below it is two minutes of video."""
    weights = write_tiny_weights(tmp_path / "tiny.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, weights, "80"], capture_output=True, text=True, env=environment(), check=False
    )
    assert done.returncode == 0, done.stderr
    short, long = map(int, done.stdout.split())
    assert long - short < 100, f"{short} MB after 20 frames, {long} MB after 80 more"
