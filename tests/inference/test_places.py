"""What a name stands for: folders of everything, lists, cameras, odd names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finder import run, scene
from PIL import Image
from video_files import clip, frames_of

from alignrank.errors import InputError
from alignrank.inference import places, video
from alignrank.inference.results import write_results
from alignrank.inference.sources import Sources


def names(sources: Sources) -> list[str]:
    return [Path(item.name).name for item in sources]


def picture(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene()).save(path, **options)
    return path


def animation(path: Path, frames: int = 3, **options: Any) -> Path:
    images = [Image.fromarray(scene(red=(10 + 5 * i, 20, 40 + 5 * i, 50))) for i in range(frames)]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


@contextmanager
def entered(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def test_a_folder_gives_pictures_and_videos_by_name(tmp_path: Path) -> None:
    picture(tmp_path / "a.JFIF", format="JPEG")
    clip(tmp_path / "b.MP4", 2)
    picture(tmp_path / "c.jp2")
    clip(tmp_path / "d.mkv", 1)
    picture(tmp_path / "e.png")
    (tmp_path / "notes.txt").write_text("x")
    sources = Sources(tmp_path)
    assert names(sources) == ["a.JFIF", "b.MP4#0", "b.MP4#1", "c.jp2", "d.mkv#0", "e.png"]
    assert not sources.skips.items
    assert sources.count == 6


def test_pictures_that_are_not_read_are_counted_by_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    picture(tmp_path / "good.jpg")
    for i in range(4):
        (tmp_path / f"raw{i}.NEF").write_bytes(b"II*\0rest")
    for i in range(3):
        (tmp_path / f"phone{i}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for name in ("drawing.svg", "layers.psd"):
        (tmp_path / name).write_bytes(b"8BPS")
    sources = Sources(tmp_path)
    assert names(sources) == ["good.jpg"]
    assert sources.skips.counts == {"image": 9}
    sources.skips.report()
    said = capfd.readouterr().err
    assert "skipped 9 images" in said
    assert "raw0.NEF: .nef pictures are not read; convert it to JPEG or PNG (4 of these)" in said
    assert "phone0.heic" in said
    assert "(3 of these)" in said
    assert "drawing.svg: .svg" in said
    assert "layers.psd: .psd" in said


def test_a_folder_of_unread_pictures_alone(tmp_path: Path) -> None:
    (tmp_path / "a.psd").write_bytes(b"8BPS")
    with pytest.raises(InputError, match=r"a\.psd: \.psd pictures are not read"):
        list(Sources(tmp_path))


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_becomes_a_video(tmp_path: Path, suffix: str) -> None:
    path = animation(tmp_path / f"a{suffix}", duration=40, **({"lossless": True} if suffix == ".webp" else {}))
    sources = Sources([path, scene()])
    written = write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources)
    assert written.images == 4
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "a.mp4", "image 1.jpg", "predictions.csv", "predictions.json",
    ]  # fmt: skip
    rate, frames = frames_of(tmp_path / "out" / "a.mp4")
    assert rate == Fraction(25)
    assert [frame.shape for frame in frames] == [(60, 90, 3)] * 3
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["source"] for entry in entries] == [*(f"{path}#{i}" for i in range(3)), "image 1"]
    assert [entry["path"] for entry in entries] == [str(path)] * 3 + [None]
    assert [entry["size"] for entry in entries] == [[60, 90]] * 4
    left = [entry["boxes"][0][0] for entry in entries[:3]]
    assert max(abs(x - (10 + 5 * i)) for i, x in enumerate(left)) <= 2


def test_pages_become_pictures(tmp_path: Path) -> None:
    path = animation(tmp_path / "scan.tiff", 4)
    sources = Sources(path)
    assert sources.count == 4
    write_results(run(sources, keep_images=True), tmp_path / "out", csv=False, json=False, sources=sources)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"scan-{i:06d}.jpg" for i in range(4)]


def test_an_animation_in_a_folder_is_one_picture_and_a_line_says_so(tmp_path: Path) -> None:
    animation(tmp_path / "a.gif", 4)
    animation(tmp_path / "b.tiff", 2)
    picture(tmp_path / "c.png")
    for source in (tmp_path, str(tmp_path / "*.*")):
        sources = Sources(source)
        assert [Path(item.name).name for item in sources] == ["a.gif", "b.tiff", "c.png"]
        (line,) = sources.skips.first_in_words()
        assert line.startswith("took the first frame of 2 animations: ")
        assert f"{tmp_path / 'a.gif'} (of 4); {tmp_path / 'b.tiff'} (of 2); name a file itself" in line
    assert [item.name for item in Sources(tmp_path / "a.gif")] == [f"{tmp_path / 'a.gif'}#{i}" for i in range(4)]


def test_a_broken_frame_ends_its_file_only(tmp_path: Path) -> None:
    noise = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8)) for i in range(6)]
    noise[0].save(path := tmp_path / "a.gif", save_all=True, append_images=noise[1:])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    picture(tmp_path / "b.png")
    sources = Sources([path, tmp_path / "b.png"])
    written = write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources)
    assert 1 < written.images < 7
    assert sources.skips.counts == {"image": 1}
    frames_of(tmp_path / "out" / "a.mp4")


@pytest.mark.parametrize("name", ["a#1.jpg", "v.mp4#3.png", "#.jpg"])
def test_names_with_a_number_sign(tmp_path: Path, name: str) -> None:
    picture(tmp_path / name)
    sources = Sources(tmp_path / name)
    write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources, csv=False)
    (entry,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert entry["source"] == entry["path"] == str(tmp_path / name)
    assert (tmp_path / "out" / f"{Path(name).stem}.jpg").exists()


def test_a_picture_called_like_a_frame(tmp_path: Path) -> None:
    picture(tmp_path / "v.mp4#3", format="PNG")
    clip(tmp_path / "v#1.mp4", 2)
    sources = Sources([str(tmp_path / "v.mp4#3"), str(tmp_path / "v#1.mp4")])
    written = write_results(run(sources, keep_images=True), tmp_path / "out", sources=sources)
    assert written.images == 3
    assert {"v.jpg", "v#1.mp4"} <= {p.name for p in (tmp_path / "out").iterdir()}


def test_a_list_of_paths(tmp_path: Path) -> None:
    """Relative to the list, else to the current folder; comments, blank lines, patterns; what is missing is counted."""
    there, here = tmp_path / "there", tmp_path / "here"
    picture(there / "a.jpg")
    picture(there / "sub" / "b 1.jpg")
    picture(there / "sub" / "b 2.jpg")
    picture(here / "c.jpg")
    clip(here / "v.mp4", 2)
    lines = ["\ufeff# mine", "", "a.jpg", "  sub/b*.jpg ", "c.jpg", "missing.jpg", str(here / "v.mp4"), "other.txt"]
    (there / "list.TXT").write_text("\r\n".join(lines), encoding="utf-8")
    with entered(here):
        sources = Sources(there / "list.TXT")
        assert names(sources) == ["a.jpg", "b 1.jpg", "b 2.jpg", "c.jpg", "v.mp4#0", "v.mp4#1"]
    assert sources.skips.counts == {"image": 2}
    assert "missing.jpg" in sources.skips.items[0][1]
    assert "other.txt" in sources.skips.items[1][1]


@pytest.mark.parametrize(("content", "part"), [
    (b"# nothing\n\n", "names no image"), (b"missing.jpg\n", "missing.jpg: no such file"),
    (b"\xff\xfe", "UTF-8"), (b"a\0b.jpg", "cannot be named in a list"), (b"list.txt", "cannot be named in a list"),
])  # fmt: skip
def test_lists_without_anything_to_use(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(InputError, match=part):
        list(Sources(tmp_path / "list.txt"))


@pytest.mark.parametrize("source", [77, "77", "/dev/video77"])
def test_no_such_camera(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video.sys, "platform", "linux")
    with pytest.raises(InputError, match=r"camera 77: there is no such camera \(/dev/video77 does not exist\)"):
        Sources(source)
    monkeypatch.setattr(video.sys, "platform", "plan9")
    with pytest.raises(InputError, match="camera 77: cameras cannot be used on plan9"):
        Sources(source)


@pytest.mark.parametrize("source", [-1, True, 0.5])
def test_numbers_that_are_no_camera(source: Any) -> None:
    with pytest.raises(InputError, match=r"is no camera|cannot look at"):
        Sources(source)


def test_a_file_called_like_a_number_is_a_file(tmp_path: Path) -> None:
    picture(tmp_path / "0", format="PNG")
    with entered(tmp_path):
        assert [item.name for item in Sources("0")] == ["0"]


def test_a_camera_gives_frames_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's own source of test pictures stands for the camera."""
    monkeypatch.setattr(video, "_camera", lambda index: (f"testsrc=size=64x48:rate={10 + index}", {}, "lavfi"))
    sources = Sources("2")
    assert sources.count is None
    assert sources.live == "camera 2"
    frames = run(sources, keep_images=True)
    written = write_results(islice(frames, 5), tmp_path / "out", sources=sources)
    frames.close()  # type: ignore[attr-defined]
    assert written.images == 5
    rate, drawn = frames_of(tmp_path / "out" / "camera 2.mp4")
    assert (rate, len(drawn)) == (12, 5)
    entries = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry["source"] for entry in entries] == [f"camera 2#{i}" for i in range(5)]


def test_kinds_of_names_do_not_overlap() -> None:
    for suffix in places.UNREAD_SUFFIXES:
        assert not places.is_image_name(suffix)
        assert not places.is_video_name(suffix)
