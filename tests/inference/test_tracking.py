"""Tracking: objects keep their ids from frame to frame, in JSON, CSV, MOT's text and drawn frames; each video anew."""

from __future__ import annotations

import csv
import gc
import importlib.util
import json
import tracemalloc
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from blobs import detector, painted
from command_line import alignrank, refused
from PIL import Image
from tiny_weights import write_tiny_weights

from alignrank import Detector, InputError
from alignrank.contracts import Detections, WantedThresholds
from alignrank.inference import video
from alignrank.inference.options import PredictOptions, TrackOptions
from alignrank.inference.predict import predict
from alignrank.inference.results import write_results
from alignrank.inference.sequences import Sequences
from alignrank.inference.sources import Sources
from alignrank.inference.tracking import tracked
from alignrank.inference.windows import Tiling

pytest.importorskip("trackers", reason="needs the extra track")
Pictures = list[np.ndarray[Any, Any]]


def moving(frames: int = 20, *, without: range = range(0)) -> Pictures:
    """A red box that goes right and a blue one that goes left below it, 4 px a frame; `without`: frames without red."""
    return [
        painted(120, 192, *([] if i in without else [((10 + 4 * i, 10, 50 + 4 * i, 40), 0)]),
                ((140 - 4 * i, 70, 180 - 4 * i, 100), 1))
        for i in range(frames)
    ]  # fmt: skip


def clip(path: Path, pictures: Pictures, rate: int = 10) -> Path:
    """A lossless video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], "rgb24"
        for image in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def track(source: Any, *, score: float = 0.9, conf: float | None = None, **options: Any) -> Iterator[Detections]:
    tiling = options.pop("tiling", None)
    wanted = PredictOptions(WantedThresholds(conf), tracking=TrackOptions(**options), tiling=tiling, batch=3)
    return predict(detector(score=score), source, wanted)


def ids(source: Any, **options: Any) -> list[dict[int, int]]:
    """Ids by label, one object of each, of every frame."""
    found = list(track(source, **options))
    assert all(of.ids is not None and of.ids.dtype == torch.int64 for of in found)
    return [dict(zip(of.labels.tolist(), of.ids.tolist(), strict=True)) for of in found if of.ids is not None]


@pytest.mark.parametrize("tracker", ["bytetrack", "ocsort", "sort"])
def test_objects_keep_their_ids(tracker: str) -> None:
    seen = ids(moving(), tracker=tracker)
    assert len(seen) == 20
    first = seen[5]
    assert sorted(first.values()) == [1, 2]
    assert all(of == first for of in seen[5:])
    assert all(of in ({}, first) for of in seen[:5])


def test_an_object_gets_its_id_with_its_second_frame_in_a_row() -> None:
    assert [len(of) for of in ids(moving(4))] == [0, 2, 2, 2]
    assert [len(of) for of in ids(moving(4), confirm=1)][1:] == [2, 2, 2]
    assert [len(of) for of in ids(moving(6), confirm=4)] == [0, 0, 0, 2, 2, 2]


def test_boxes_stay_the_detector_s() -> None:
    """A tracker's own would be smoothed."""
    last = list(track(moving(8)))[-1]
    assert last.boxes.tolist() == [[38, 10, 78, 40], [112, 70, 152, 100]]
    assert last.scores.tolist() == pytest.approx([0.9, 0.8999], abs=1e-4)


def test_a_lost_object_is_waited_for(tmp_path: Path) -> None:
    """Five frames at 10 a second: half a second. Its number is another one when the memory is shorter."""
    path = clip(tmp_path / "v.mov", moving(24, without=range(8, 13)))
    long, short = ids(path, memory=1.0), ids(path, memory=0.2)
    assert [0 in of for of in long] == [False, *[True] * 7, *[False] * 5, *[True] * 11]
    assert {of[0] for of in long if 0 in of} == {long[1][0]}
    assert len({of[0] for of in short if 0 in of}) == 2
    assert {of[1] for of in short[1:]} == {short[1][1]}


def test_a_low_score_goes_on_with_a_track_and_begins_none() -> None:
    assert [len(of) for of in ids(moving(6), score=0.2)] == [0] * 6
    assert [len(of) for of in ids(moving(6), score=0.2, conf=0.15)] == [0, 2, 2, 2, 2, 2]
    made = detector()
    wanted = PredictOptions(tracking=TrackOptions(), batch=1)
    stream = predict(made, iter(moving(9)), wanted)
    counts = []
    for number in range(9):
        made.network.score = 0.9 if number < 4 else 0.15 if number < 7 else 0.05
        counts.append(len(next(stream)))
    assert counts[:2] == [0, 2]
    assert set(counts[2:6]) == {2}
    assert counts[-1] == 0


def test_each_video_and_each_folder_of_pictures_is_a_sequence(tmp_path: Path) -> None:
    """One comes twice; its ids begin with 1 each time. Pictures of a folder are frames in the order of their names."""
    video = clip(tmp_path / "v.mov", moving(5))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number, image in enumerate(moving(5)):
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    seen = ids([str(video), str(video), str(tmp_path / "a"), str(tmp_path / "b"), *moving(5)])
    assert seen == [{}, *[{0: 1, 1: 2}] * 4] * 5


def test_a_camera_is_tracked_as_long_as_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "_camera", lambda index: ("testsrc=size=64x48:rate=10", {}, "lavfi"))
    stream = predict(detector(), 0, PredictOptions(tracking=TrackOptions()))
    seen = [next(stream) for _ in range(5)]
    stream.close()
    assert [of.source for of in seen] == [f"camera 0#{i}" for i in range(5)]
    assert all(of.ids is not None and of.ids[:1].tolist() in ([], [1]) for of in seen)


def test_sequences_worked() -> None:
    def of(source: str, path: str | None) -> Detections:
        return Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0), (), source, path=path)

    sequences, seen = Sequences(), []
    for source, path in [
        ("v#0", "v"), ("v#1", "v"), ("v#3", "v"), ("v#0", "v"), ("w#0", "w"), ("x/a", "x/a"), ("x/b", "x/b"),
        ("y/a", "y/a"), ("image 4", None), ("image 5", None), ("v#0", "v"),
    ]:  # fmt: skip
        seen.append((sequences.begins(of(source, path)), sequences.name, sequences.number))
    assert seen == [
        (True, "v", 1), (False, "v", 2), (False, "v", 4), (True, "v", 1), (True, "w", 1), (True, "x", 1),
        (False, "x", 2), (True, "y", 1), (True, "images", 1), (False, "images", 2), (True, "v", 1),
    ]  # fmt: skip


def test_what_is_written(tmp_path: Path) -> None:
    """MOT's frames and ids count from 1, its boxes are left, top, width, height."""
    path = clip(tmp_path / "v.mov", moving(6))
    sources, out = Sources([str(path), str(path)]), tmp_path / "out"
    wanted = PredictOptions(tracking=TrackOptions(), keep_images=True)
    write_results(predict(detector(), sources, wanted), out, sources=sources)
    assert sorted(p.name for p in out.iterdir()) == [
        "predictions.csv", "predictions.json", "v-2.mp4", "v-2.txt", "v.mp4", "v.txt",
    ]  # fmt: skip
    lines = (out / "v.txt").read_text().splitlines()
    assert (out / "v-2.txt").read_text().splitlines() == lines
    assert [line.split(",")[:2] for line in lines] == [[str(f), str(n)] for f in range(2, 7) for n in (1, 2)]
    assert lines[0] == "2,1,14.00,10.00,40.00,30.00,0.900000,-1,-1,-1"
    entries = json.loads((out / "predictions.json").read_text())
    assert [entry["ids"] for entry in entries] == [[], *[[1, 2]] * 5] * 2
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["1", "2"] * 10
    with av.open(str(out / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(10)


def test_ids_are_drawn_and_colour_the_boxes() -> None:
    """Two of one class have two colours, the same as before where a number is the same."""
    image = painted(200, 300)
    boxes = torch.tensor([[20.0, 60, 120, 160], [160, 60, 260, 160]])

    def drawn(*numbers: int, names: tuple[str, ...] = ("red",)) -> np.ndarray[Any, Any]:
        labels, scores = torch.zeros(2, dtype=torch.int64), torch.tensor([0.9, 0.8])
        return Detections(
            boxes, scores, labels, names, "a", (200, 300), image, ids=None if not numbers else torch.tensor(numbers)
        ).plot()

    plain, one, other = drawn(), drawn(1, 2), drawn(1, 5)
    edge = (slice(100, 101), slice(20, 21)), (slice(100, 101), slice(160, 161))
    assert np.array_equal(plain[edge[0]], plain[edge[1]])
    assert not np.array_equal(one[edge[0]], one[edge[1]])
    assert np.array_equal(one[edge[0]], other[edge[0]])
    assert not np.array_equal(one[:60, :150], plain[:60, :150]), "the number stands beside the name"
    assert np.array_equal(one[:60, :150], other[:60, :150])


def test_ids_go_with_their_objects() -> None:
    (*_, last) = track(moving(6))
    assert last.ids is not None
    blue = last.filter(classes="blue")
    assert blue.ids is not None
    assert blue.ids.tolist() == [2]
    assert [of.ids.tolist() for of in last if of.ids is not None] == [[1], [2]]
    assert last.to_supervision().tracker_id.tolist() == [1, 2]


def test_objects_of_large_pictures_in_tiles_keep_their_ids() -> None:
    seen = ids(moving(12), tiling=Tiling(96, 0.5))
    assert seen == [{}, *[{0: 1, 1: 2}] * 11]


def test_the_verb_and_the_object_say_the_same(tmp_path: Path) -> None:
    weights, video = write_tiny_weights(tmp_path / "w.safetensors"), clip(tmp_path / "v.mov", moving(5))
    common = ("--weights", str(weights), "--conf", "0.3", "--device", "cpu")
    done = alignrank("track", str(video), *common, "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert (printed["processed"], printed["skipped"]) == (5, {"image": 0})
    stream = Detector.load(weights).track(video, conf=0.3, device="cpu", batch=8)
    assert [of.to_dict() for of in stream] == printed["images"]
    assert any(image["ids"] for image in printed["images"])
    assert (tmp_path / "out" / "v.txt").is_file()


@pytest.mark.parametrize(("words", "part"), [
    (("--tracker", "bytetrak"), "did you mean 'bytetrack'"),
    (("--memory", "inf"), "memory: must be a number of seconds"),
    (("--overlap", "0.3"), "overlap: is of tiles"),
])  # fmt: skip
def test_options_out_of_range(words: tuple[str, ...], part: str, tmp_path: Path) -> None:
    weights = write_tiny_weights(tmp_path / "w.safetensors")
    refused(alignrank("track", "v.mp4", "--weights", str(weights), "--out", str(tmp_path / "o"), *words), part)
    assert not (tmp_path / "o").exists()


def test_an_option_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="track: unknown option 'confidence'; did you mean 'conf'"):
        Detector("yolov8-n").track("v.mp4", confidence=0.3)


def test_without_the_library_it_says_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "trackers" else found(name))
    weights = write_tiny_weights(tmp_path / "w.safetensors")
    Image.fromarray(moving(1)[0]).save(tmp_path / "a.png")
    done = alignrank("track", str(tmp_path / "a.png"), "--weights", str(weights), "--out", str(tmp_path / "o"))
    refused(done, "the package trackers is not installed (extra 'track' of alignrank); run `pip install")
    assert not (tmp_path / "o").exists()


def test_memory_of_tracks_does_not_grow() -> None:
    """Hundreds of objects come and go."""

    def found() -> Generator[Detections, None, None]:
        for number in range(1000):
            x = float(number % 10 * 15)
            boxes = torch.tensor([[x, 0, x + 60, 40], [300 - x, 100, 360 - x, 140]]) + number // 10 * 73 % 900
            scores, labels = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
            yield Detections(boxes, scores, labels, ("a",), f"v#{number}", (600, 800), path="v")

    def held() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    sizes, highest = [], 0
    tracemalloc.start()
    try:
        for number, of in enumerate(tracked(found(), lambda path: Fraction(30), TrackOptions(), 0.25)):
            assert of.ids is not None
            highest = max([highest, *of.ids.tolist()])
            if number in (300, 999):
                sizes.append(held())
    finally:
        tracemalloc.stop()
    assert highest > 100
    assert sizes[1] - sizes[0] < 100_000
