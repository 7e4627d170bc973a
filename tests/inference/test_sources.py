"""Everything `predict` can look at: what is read, in which order, what is refused and what is skipped."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from alignrank.errors import InputError
from alignrank.inference.entries import Skips, frame_index, frame_name
from alignrank.inference.places import rate_of_file
from alignrank.inference.sources import AHEAD, Sources, ahead


def picture(path: Path, color: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def clip(path: Path, frames: int = 12, size: tuple[int, int] = (64, 48), rate: int = 10) -> Path:
    """A video (width, height) whose frame i is grey 8 * i, its left upper quarter white."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            image = np.full((size[1], size[0], 3), 8 * index % 256, np.uint8)
            image[: size[1] // 2, : size[0] // 2] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def names(sources: Sources) -> list[str]:
    return [Path(item.name).name for item in sources]


def test_a_folder_gives_its_images_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "img[1].jpg", "two\nlines.jpg"):
        picture(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    picture(tmp_path / "sub" / "c.jpg")
    sources = Sources(tmp_path)
    assert sources.count == 4
    assert names(sources) == sorted(["a.PNG", "b.jpg", "img[1].jpg", "two\nlines.jpg"])
    assert names(sources) == names(sources), "a second pass gives the same"


def test_patterns_and_literal_names_with_brackets(tmp_path: Path) -> None:
    picture(tmp_path / "img[1].jpg")
    picture(tmp_path / "img1.jpg")
    picture(tmp_path / "sub" / "c.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(Sources(str(tmp_path / "img[1].jpg"))) == ["img[1].jpg"]
    assert names(Sources(str(tmp_path / "img*.jpg"))) == ["img1.jpg", "img[1].jpg"]
    assert names(Sources(str(tmp_path / "**" / "*.jpg"))) == ["img1.jpg", "img[1].jpg", "c.jpg"]


def test_relative_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    assert [item.name for item in Sources("*.jpg")] == ["a.jpg"]


def test_paths_arrays_and_pil_images_in_one_list(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    array = np.zeros((5, 7, 3), np.uint8)
    mixed = [path, array, Image.new("RGBA", (4, 6), (1, 2, 3, 0)), Image.open(path), clip(tmp_path / "v.mp4", 2)]
    items = list(Sources(mixed))
    assert [item.image.shape for item in items] == [(30, 40, 3), (5, 7, 3), (6, 4, 3), (30, 40, 3), *[(48, 64, 3)] * 2]
    assert [item.name for item in items[1:4]] == ["image 1", "image 2", str(path)]
    assert items[2].image[0, 0].tolist() == [1, 2, 3]
    assert items[0].path == str(path)
    assert items[1].path is None


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("ftp://example.com/cat.jpg", "reads http, https and rtsp addresses"),
        ("file:///etc/passwd", "write the path alone"),
        ("https:///cat.jpg", "names no host"),
        ("http://[::1/cat.jpg", "is not an address"),
        ("http://host:port/cat.jpg", "is not an address"),
        ("missing.jpg", "missing.jpg: no such file"),
        ("nothing*.jpg", "matches it"),
        ("a**b/*.jpg", "a**b"),
        ([], "no source"),
        ({"a.jpg": 1}, "cannot look at dict"),
        (np.zeros((4, 4), np.uint8), "[H,W,3] uint8"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((0, 4, 3), np.uint8), "[0, 4, 3]"),
        ("name\0with null", "no such file"),
    ],
)
def test_what_can_be_seen_at_once_is_refused_at_once(source: Any, part: str) -> None:
    with pytest.raises(InputError) as caught:
        Sources(source)
    assert part in str(caught.value)


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image or video in this folder$"):
        Sources(tmp_path)
    picture(tmp_path / "sub" / "a.jpg")
    with pytest.raises(InputError, match=r"for its sub-folders write"):
        Sources(str(tmp_path))


def test_wide_pil_images_are_refused_when_read() -> None:
    with pytest.raises(InputError, match="mode I;16"):
        list(Sources(Image.new("I;16", (4, 4))))


def test_skipped_images_are_counted_and_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "good.jpg")
    for index in range(7):
        (tmp_path / f"bad{index}.jpg").write_bytes(b"no image")
    skips = Skips()
    assert names(Sources(tmp_path, skips=skips)) == ["good.jpg"]
    assert skips.counts == {"image": 7}
    skips.report()
    message = capfd.readouterr().err
    assert "skipped 7 images" in message
    assert "bad0.jpg" in message
    assert "and 2 more" in message


def bad_inputs() -> list[Any]:
    shared = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).parents[3] / "shared"))
    manifest = shared / "bad_inputs" / "manifest.json"
    if not manifest.is_file():
        return []
    cases = json.loads(manifest.read_text())["cases"]
    return [pytest.param(manifest.parent, case, id=case["id"]) for case in cases if case["use"] == "predict source"]


@pytest.mark.parametrize(("folder", "case"), bad_inputs())
def test_bad_inputs(folder: Path, case: dict[str, Any], tmp_path: Path) -> None:
    root = tmp_path / "case"
    shutil.copytree(folder / case["dir"], root)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    for step in case["setup"]:
        if step["op"] == "symlink":
            (root / step["path"]).symlink_to(step["target"])
        else:
            assert step["op"] == "mkfifo"
            os.mkfifo(root / step["path"])
    expect, skips = case["expect"], Skips()
    if expect["outcome"] == "error":
        with pytest.raises(InputError) as caught:
            list(Sources(root / case["entry"]))
        assert all(name in str(caught.value) for name in expect["message_names"])
        return
    items = list(Sources(root / case["entry"], skips=skips))
    # The list counts files; an animation has a result for each frame.
    assert len({item.path for item in items}) == expect["processed"]
    assert skips.counts.get("image", 0) == expect.get("skipped", 0)
    assert all(item.image.dtype == np.uint8 and item.image.shape[-1] == 3 for item in items)
    assert all(any(name in reason for _, reason in skips.items) for name in expect["message_names"])
    if "single" in expect:
        with pytest.raises(InputError) as caught:
            list(Sources(root / expect["single"]["entry"]))
        assert Path(expect["single"]["entry"]).name in str(caught.value)


# mkv is not told its frame count and is estimated from its duration.
@pytest.mark.parametrize("suffix", ["mp4", "avi", "mov", "mkv"])
def test_a_video_gives_its_frames_in_order(suffix: str, tmp_path: Path) -> None:
    path = clip(tmp_path / f"v.{suffix}")
    sources = Sources(path)
    items = list(sources)
    assert sources.count == len(items) == 12
    assert [item.frame_index for item in items] == list(range(12))
    assert [round(item.time or 0, 3) for item in items] == [i / 10 for i in range(12)]
    assert items[3].name == f"{path}#3"
    assert all(abs(int(item.image[-1, -1, 1]) - 8 * i) <= 6 for i, item in enumerate(items))
    assert rate_of_file(str(path)) == Fraction(10)


def test_frame_names_are_told_from_file_names() -> None:
    assert frame_index(frame_name("a/b#1.MP4", 12), "a/b#1.MP4") == 12
    assert frame_index("a.jpg", "a.jpg") is None
    assert frame_index("shot#3.jpg", "shot#3.jpg") is None
    assert frame_index("v.mp4#3", "v.mp4#3") is None
    assert frame_index("v.mp4#3", None) is None


def test_a_phone_video_comes_out_upright(tmp_path: Path) -> None:
    """A portrait clip is stored lying, with a matrix that turns it by 90 degrees clockwise."""
    path = clip(tmp_path / "v.mp4", 2)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40
    words = (0, 1 << 16, 0, -(1 << 16) % (1 << 32), 0, 0, 48 << 16, 0, 1 << 30)
    content[matrix : matrix + 36] = b"".join(word.to_bytes(4, "big") for word in words)
    path.write_bytes(content)
    image = next(iter(Sources(path))).image
    assert image.shape == (64, 48, 3)
    assert image[5, -5].mean() > 200, "the left upper corner went to the right"
    assert image[5, 5].mean() < 50


def test_videos_that_cannot_be_read(tmp_path: Path) -> None:
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    (tmp_path / "empty.avi").write_bytes(b"")
    picture(tmp_path / "image.png").rename(tmp_path / "image.mkv")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("list.mp4", "empty.avi", "image.mkv", "pipe.mp4"):
        sources = Sources(tmp_path / name)
        assert sources.count == 0
        with pytest.raises(InputError, match=name):
            list(sources)
    sources = Sources([str(tmp_path / "*.mp4"), picture(tmp_path / "a.jpg")])
    assert names(sources) == ["a.jpg"]
    assert sources.skips.counts == {"video": 2}


def test_a_cut_off_video_gives_what_it_has(tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mkv", 60, (320, 240))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 0 < len(list(Sources(path))) < 60


def test_reading_ahead_keeps_the_order_and_is_bounded() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        done.append(item)
        return item

    results = ahead(work, (i for i in range(30)), 3)
    first = [next(results) for _ in range(5)]
    time.sleep(0.05)
    assert first == list(range(5))
    assert len(done) <= 5 + 3 * AHEAD
    assert list(results) == list(range(5, 30))


def test_closing_early_ends_the_threads(tmp_path: Path) -> None:
    path = clip(tmp_path / "v.mp4", 40)
    stream = iter(Sources(path))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("alignrank-read")]


def test_a_fault_of_the_function_is_raised_in_its_turn(tmp_path: Path) -> None:
    def fail(item: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Sources(picture(tmp_path / "a.jpg")).map(fail))
