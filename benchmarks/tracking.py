"""Tracking: MOTA and IDF1 on a made sequence with known truth, and memory over a video of 20 minutes.

    python benchmarks/tracking.py

Objects cross a picture on straight paths at speeds of their own, some behind others. What is tracked are their true
boxes, and the same with noise: sides that shake, objects that are missed or score low, false ones. The video is made of
a few moving shapes at 10 frames a second, looked at by the tests' detector of shapes (`tests/blobs.py`), and everything
is written: drawn video, JSON, CSV and MOT text.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from mot_figures import Frame, mot_figures
from paired import ROOT, commit

sys.path.insert(0, str(ROOT / "tests"))

from blobs import detector, painted

from alignrank.benchmark.memory import process_peak
from alignrank.contracts import Detections
from alignrank.inference.options import TRACKERS, PredictOptions, TrackOptions
from alignrank.inference.predict import predict
from alignrank.inference.results import write_results
from alignrank.inference.sources import Sources
from alignrank.inference.tracking import tracked

RESULTS = ROOT / "benchmarks" / "results" / "tracking.json"
FRAMES, OBJECTS, SIDE = 600, 24, 1000
CONF, LOW = 0.25, 0.1
MINUTES, RATE = 20, 10


def crossing(rng: np.random.Generator) -> list[Frame]:
    """Ids and boxes, frame by frame, of OBJECTS that come and go at random; a frame holds about half of them."""
    frames: list[tuple[list[int], list[list[float]]]] = [([], []) for _ in range(FRAMES)]
    for number in range(1, OBJECTS * 4 + 1):
        first, length = int(rng.integers(-100, FRAMES)), int(rng.integers(60, 160))
        place, speed, side = rng.uniform(0, SIDE, 2), rng.uniform(-6, 6, 2), rng.uniform(40, 120, 2)
        for frame in range(max(first, 0), min(first + length, FRAMES)):
            x, y = place + speed * (frame - first)
            if 0 <= x <= SIDE and 0 <= y <= SIDE:
                frames[frame][0].append(number)
                frames[frame][1].append([x, y, x + side[0], y + side[1]])
    return [(ids, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)) for ids, boxes in frames]


def seen(truth: list[Frame], rng: np.random.Generator, noise: bool) -> Generator[Detections, None, None]:
    """What a made-up detector says: every object with .9; or one in ten missed, one in ten at .15, corners that shake
    by 3 px, and half a false box a frame.
    """
    for number, (_, boxes) in enumerate(truth):
        scores = torch.full((len(boxes),), 0.9)
        if noise:
            boxes = boxes + torch.from_numpy(rng.normal(0, 3, boxes.shape)).float()
            chance = torch.from_numpy(rng.random(len(boxes)))
            scores[chance < 0.2] = 0.15
            boxes, scores = boxes[chance >= 0.1], scores[chance >= 0.1]
            if rng.random() < 0.5:
                corner = torch.from_numpy(rng.uniform(0, SIDE, 2)).float()
                boxes = torch.cat([boxes, torch.cat([corner, corner + 60])[None]])
                scores = torch.cat([scores, torch.tensor([rng.uniform(CONF, 0.5)]).float()])
        labels = torch.zeros(len(boxes), dtype=torch.int64)
        yield Detections(boxes, scores, labels, ("object",), f"made#{number}", (SIDE, SIDE), path="made")


def figures() -> dict[str, dict[str, Any]]:
    """By tracker and noise, each said when it is done."""
    found: dict[str, dict[str, Any]] = {}
    for tracker in TRACKERS:
        for noise in (False, True):
            rng = np.random.default_rng(0)
            truth = crossing(rng)
            made = seen(truth, rng, noise)
            start = time.perf_counter()
            tracks = [
                ([] if of.ids is None else of.ids.tolist(), of.boxes)
                for of in tracked(made, lambda path: None, TrackOptions(tracker, LOW), CONF)
            ]
            milliseconds = (time.perf_counter() - start) / FRAMES * 1000
            name = f"{tracker}, {'noise' if noise else 'true boxes'}"
            values = asdict(mot_figures(truth, tracks))
            found[name] = {key: round(value, 4) for key, value in values.items()} | {
                "ms_a_frame": round(milliseconds, 2)
            }
            print(name, found[name], file=sys.stderr)
    return found


def made_video(path: Path) -> None:
    """MINUTES of shapes that go round, in colours of both classes; lossless."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "rgb24"
        for index in range(MINUTES * 60 * RATE):
            objects = []
            for number in range(4):
                x, y = int(4 * index * (1 + number % 2) + 40 * number) % 230 - 40, 4 + 32 * number
                if x + 24 > 0 and x < 192:
                    objects.append(((max(x, 0), y, min(x + 24, 192), y + 20), number % 2))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(painted(128, 192, *objects), format="rgb24")))
        container.mux(stream.encode())


def long_video() -> dict[str, Any]:
    """MB that this process has held at most, after a tenth of the frames and after all."""
    peaks: list[int] = []

    def counted(found: Iterator[Detections]) -> Iterator[Detections]:
        for number, detections in enumerate(found):
            if number == MINUTES * 60 * RATE // 10:
                peaks.append(process_peak())
            yield detections

    with tempfile.TemporaryDirectory() as name:
        made_video(Path(name) / "long.mov")
        sources = Sources(str(Path(name) / "long.mov"))
        wanted = PredictOptions(batch=8, keep_images=True, tracking=TrackOptions())
        start = time.perf_counter()
        written = write_results(counted(predict(detector(), sources, wanted)), Path(name) / "out", sources=sources)
        seconds = time.perf_counter() - start
        lines = (Path(name) / "out" / "long.txt").read_text().count("\n")
    return {
        "minutes": MINUTES, "frames": written.images, "mot_lines": lines, "mb_after_a_tenth": round(peaks[0] / 1e6),
        "mb_at_the_end": round(process_peak() / 1e6), "seconds": round(seconds, 1),
        "frames_a_second": round(written.images / seconds, 1),
    }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "commit": commit(),
        "trackers": metadata.version("trackers"),
        "device": f"cpu ({platform.machine()}, 1 of {os.cpu_count()} cores)",
        "frames": FRAMES,
        "rows": figures(),
        "video": long_video(),
    }
    print(result["video"], file=sys.stderr)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
