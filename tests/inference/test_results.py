"""Detections on their way into a folder: pictures, videos, JSON and CSV, in constant memory."""

from __future__ import annotations

import csv
import json
import tracemalloc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from finder import run, scene
from PIL import Image

from alignrank.errors import InputError
from alignrank.inference.results import CSV_COLUMNS, ResultWriter, write_results
from alignrank.inference.sources import Sources


def clip(path: Path, frames: int, size: tuple[int, int] = (90, 60), rate: Fraction = Fraction(30000, 1001)) -> Path:
    """A lossless video of `scene` whose red box moves right by a pixel each frame (wrapping at 40)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "rgb24"
        for index in range(frames):
            x = index % 40
            image = scene(size[1], size[0], red=(x, 20, x + 20, 50))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_what_cannot_be_read_is_skipped_with_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(scene()).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"<html>")
    sources = Sources(tmp_path)
    written = write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources)
    assert (written.images, written.objects) == (1, 2)
    assert sources.skips.counts == {"image": 1}
    output = capfd.readouterr()
    assert "skipped 1 image" in output.err
    assert "bad.png" in output.err
    assert output.out == ""


def test_nothing_is_written_where_nothing_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"bad\.png"):
        write_results(run(tmp_path / "bad.png", keep_images=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_of_images(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", 'odd "name",\n.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(scene()).save(tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a/x.png", "b/x.png", 'odd "name",\n.png')]
    out = tmp_path / "deep" / "out"
    write_results(run([*paths, scene(32, 40, red=(0, 0, 0, 0))[15:]], keep_images=True), out)
    assert sorted(p.name for p in out.iterdir()) == [
        "image 3.jpg", 'odd "name",\n.jpg', "predictions.csv", "predictions.json", "x-2.jpg", "x.jpg",
    ]  # fmt: skip
    items = json.loads((out / "predictions.json").read_text())
    assert [item["source"] for item in items] == [*paths, "image 3"]
    assert [len(item["boxes"]) for item in items] == [2, 2, 2, 0]
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["source"] for row in rows] == [path for path in paths for _ in range(2)]
    assert [row["name"] for row in rows] == ["red", "blue"] * 3
    assert [float(rows[0][key]) for key in ("x0", "y0", "x1", "y1")] == items[0]["boxes"][0]
    # The picture has the image's own size, and something drawn on it.
    drawn = np.asarray(Image.open(out / "x.jpg"))
    assert drawn.shape == scene().shape
    assert (drawn > 200).all(-1).any()
    assert [item["path"] for item in items] == [*paths, None]
    assert [item["size"] for item in items] == [[60, 90]] * 3 + [[17, 40]]


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    write_results(run(scene()), tmp_path / "out", pictures=False, csv=False)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["predictions.json"]


def test_a_folder_that_exists_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        write_results(run(scene()), tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        write_results(run(scene()), tmp_path / "file" / "out")


@pytest.mark.parametrize("size", [(64, 64), (17, 40), (1, 1), (640, 480), (200, 3)])
def test_pictures_have_the_size_of_their_source(tmp_path: Path, size: tuple[int, int]) -> None:
    write_results(run(scene(640, 640)[: size[0], : size[1]], keep_images=True), tmp_path / "out")
    assert Image.open(tmp_path / "out" / "image 0.jpg").size == size[::-1]


@pytest.mark.parametrize("size", [(64, 64), (321, 201), (320, 201), (101, 90), (90, 60)])
def test_videos_have_the_size_of_their_source(tmp_path: Path, size: tuple[int, int]) -> None:
    """(width, height), and something like the picture in it: also of odd sides, which H.264 has in 4:4:4 only."""
    path = clip(tmp_path / "v.mov", 3, size)
    write_results(run(path, keep_images=True, conf=1), tmp_path / "out")
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(size[1], size[0], 3)] * 3
    assert np.abs(frames[0].astype(int) - scene(size[1], size[0], red=(0, 20, 20, 50))).mean() < 10


def test_names_that_are_not_for_files(tmp_path: Path) -> None:
    """Too long with a number behind it, of folders that are not there, with null, or no name at all."""
    images = [("ä" * 300, scene()), ("../../up", scene()), ("nu\0ll", scene()), ("", scene()), ("..", scene())]
    written = write_results(run(images, keep_images=True), tmp_path / "in" / "out")
    assert written.images == 5
    assert len(list((tmp_path / "in" / "out").glob("*.jpg"))) == 5
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["in", "out"]
    long = tmp_path / f"{'x' * 251}.mov"
    clip(long, 2)
    write_results(run(long, keep_images=True), tmp_path / "frames", video=False)
    assert len(list((tmp_path / "frames").glob("*.jpg"))) == 2


@pytest.mark.parametrize("size", [(90, 60), (640, 360)])
def test_a_video_becomes_a_drawn_video(tmp_path: Path, size: tuple[int, int]) -> None:
    path = clip(tmp_path / "v.mov", 15, size)
    write_results(run([path, scene(), path], keep_images=True, batch=4), tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "image 1.jpg", "predictions.csv", "predictions.json", "v-2.mp4", "v.mp4",
    ]  # fmt: skip
    for name in ("v.mp4", "v-2.mp4"):
        with av.open(str(tmp_path / "out" / name)) as container:
            stream = container.streams.video[0]
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
            assert stream.average_rate == Fraction(30000, 1001)
            assert (stream.width, stream.height) == size
        assert len(frames) == 15
    items = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [item["source"] for item in items[:15]] == [f"{path}#{i}" for i in range(15)]
    left = [item["boxes"][item["names"].index("red")][0] for item in items[:15]]
    assert max(abs(x - i) for i, x in enumerate(left)) <= 2 * max(size) / 192


def test_frames_as_pictures(tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mov", 3)
    write_results(run(path, keep_images=True), tmp_path / "out", json=False, csv=False, video=False)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"v-{i:06d}.jpg" for i in range(3)]


def test_odd_sides_can_be_encoded(tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mov", 2)
    with ResultWriter(tmp_path / "out") as writer:
        for index in range(2):
            (found,) = run(scene(61, 91), keep_images=True)
            found.source, found.path = f"{path}#{index}", str(path)
            writer.add(found)
    with av.open(str(tmp_path / "out" / "v.mp4")) as container:
        assert len(list(container.decode(video=0))) == 2


def test_memory_stays_flat_over_a_long_video(tmp_path: Path) -> None:
    def peak(frames: int) -> int:
        path = clip(tmp_path / f"{frames}.mov", frames, (320, 240))
        tracemalloc.start()
        write_results(run(path, keep_images=True, imgsz=64, batch=2), tmp_path / f"out{frames}")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(3)  # imports
    short, long = peak(20), peak(100)
    # 80 more frames are 18 MB.
    assert long < short + 1_000_000, f"{short} bytes for 20 frames, {long} for 100"
