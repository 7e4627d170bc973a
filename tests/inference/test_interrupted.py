"""However a prediction ends, what was found until then is whole, has its names, and is told of."""

from __future__ import annotations

import csv
import errno
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import environment
from finder import run, scene
from PIL import Image
from tiny_weights import write_tiny_weights
from video_files import clip, frames_of

from alignrank.contracts import Detections
from alignrank.errors import InputError
from alignrank.inference import growing, to_folder
from alignrank.inference.growing import GrowingFile
from alignrank.inference.results import ResultWriter, write_results
from alignrank.inference.signals import Signals

# Before the image number AT is written (from 0), and AGAIN while the results are closed.
STOPPING = """
import os, sys
at, number, again = map(int, sys.argv.pop(1).split(","))
from alignrank.inference.results import ResultWriter
add, close = ResultWriter.add, ResultWriter.close
def stopping(self, detections):
    if self.images == at:
        os.kill(os.getpid(), number)
    add(self, detections)
def closing(self):
    for _ in range(2 * again):
        os.kill(os.getpid(), number)
    close(self)
ResultWriter.add, ResultWriter.close = stopping, closing
from alignrank.cli import main
main()
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def stopped(at: int, number: signal.Signals, *words: object, again: bool = False) -> subprocess.CompletedProcess[str]:
    """`alignrank WORDS` that sends itself a signal within the image number `at`."""
    return subprocess.run(
        [sys.executable, "-c", STOPPING, f"{at},{int(number)},{int(again)}", *map(str, words)],
        capture_output=True, text=True, env=environment(), check=False, timeout=300,
    )  # fmt: skip


def check_whole(out: Path, images: int) -> list[dict[str, Any]]:
    """The results of so many images, by each of the files."""
    assert not list(out.glob("*.part"))
    entries: list[dict[str, Any]] = json.loads((out / "predictions.json").read_text())
    assert len(entries) == images
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    expected = [(entry["source"], score) for entry in entries for score in entry["scores"]]
    assert [(row["source"], float(row["score"])) for row in rows] == expected
    return entries


@pytest.mark.parametrize(("number", "again", "code", "word"), [
    (signal.SIGINT, True, 130, "interrupted"), (signal.SIGTERM, False, 143, "terminated"),
])  # fmt: skip
def test_a_signal_in_a_video(
    weights: Path, tmp_path: Path, number: signal.Signals, again: bool, code: int, word: str
) -> None:
    video, out = clip(tmp_path / "v.mp4", 40), tmp_path / "out"
    common = ("--weights", weights, "--device", "cpu", "--conf", 0.3, "--out", out)
    done = stopped(20, number, "predict", video, *common, again=again)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert f"{word}: results of the first 21 images are in {out}" in done.stderr
    assert "train" not in done.stderr
    assert done.stdout == ""
    check_whole(out, 21)
    _, frames = frames_of(out / "v.mp4")
    assert len(frames) == 21, "the image under way is finished"


def test_ctrl_c_before_the_first_image_leaves_nothing(weights: Path, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    code = STOPPING.replace("add(self, detections)\n", "raise KeyboardInterrupt\n", 1)
    words = ("predict", tmp_path / "a.png", "--weights", weights, "--device", "cpu", "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", code, "9,2,0", *map(str, words)],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "alignrank: interrupted: nothing was written"
    assert not (tmp_path / "out").exists()


def ending(count: int, error: BaseException) -> Iterator[Detections]:
    """So many detections, and then that."""
    for i, found in enumerate(run([scene()] * (count + 1), keep_images=True)):
        if i == count:
            raise error
        yield found


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("boom"), SystemExit(1)]
)
def test_an_error_keeps_what_was_found(tmp_path: Path, error: BaseException, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(type(error)):
        write_results(ending(2, error), tmp_path / "out")
    check_whole(tmp_path / "out", 2)
    assert f"results of the first 2 images are in {tmp_path / 'out'}" in capfd.readouterr().err


def test_ctrl_c_says_where_the_results_are(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted: results of the first image are in .*out$"):
        write_results(ending(1, KeyboardInterrupt()), tmp_path / "out")
    check_whole(tmp_path / "out", 1)


@pytest.mark.parametrize("file", ["predictions.json", "predictions.csv", "picture"])
def test_a_disk_that_is_full_within_an_image(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third image's entry is written in part, and the disk takes nothing more: two images are whole."""
    full = OSError(errno.ENOSPC, "No space left on device")
    pieces = {"predictions.json": 0, "predictions.csv": 0, "picture": 0}
    write, plot = GrowingFile._write, Detections.plot

    def failing(self: GrowingFile, content: bytes) -> None:
        pieces[name] = pieces[(name := self.path.stem)] + 1
        if name == file and pieces[name] == 4:  # after the head and two images
            write(self, content[: len(content) // 2])
            raise full
        write(self, content)

    def failing_plot(self: Detections) -> np.ndarray[Any, Any]:
        pieces["picture"] += 1
        if file == "picture" and pieces["picture"] == 3:
            raise full
        return plot(self)

    monkeypatch.setattr(growing.GrowingFile, "_write", failing)
    monkeypatch.setattr(Detections, "plot", failing_plot)
    with pytest.raises(OSError, match="No space left"):
        write_results(run([scene()] * 5, keep_images=True), tmp_path / "out")
    check_whole(tmp_path / "out", 2)


def test_files_are_whole_after_each_image(tmp_path: Path) -> None:
    """So that a process that is killed leaves valid files, too."""
    video = clip(tmp_path / "v.mp4", 60)
    writer = ResultWriter(tmp_path / "out")
    for i, found in enumerate(run(video, keep_images=True)):
        writer.add(found)
        entries = json.loads((tmp_path / "out" / "predictions.json.part").read_text())
        assert len(entries) == i + 1
        with (tmp_path / "out" / "predictions.csv.part").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == sum(len(entry["boxes"]) for entry in entries)
    writer.close()
    check_whole(tmp_path / "out", 60)


def test_a_growing_file_goes_back_one_piece(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "a", head="[", between=",", tail="]")
    assert (tmp_path / "a").read_text() == "[]"
    file.add("1")
    file.add("22")
    file.back_to(2)
    assert (tmp_path / "a").read_text() == "[1,22]"
    file.back_to(1)
    assert (tmp_path / "a").read_text() == "[1]"
    file.add("3")
    file.close()
    assert (tmp_path / "a").read_text() == "[1,3]"


def test_a_signal_waits_for_what_is_held() -> None:
    done = []

    def held(signals: Signals) -> None:
        with signals.held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with Signals() as signals:
        with pytest.raises(KeyboardInterrupt):
            held(signals)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(signal.SIGTERM)
    assert done == [1]
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Signals():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("existed", [False, True])
def test_a_new_folder_without_results_goes_away(weights: Path, tmp_path: Path, existed: bool) -> None:
    """An empty one of the user's stays, and can be used."""
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    (tmp_path / "bad.png").write_bytes(b"x")
    for source, file in (("missing.png", weights), (str(tmp_path / "bad.png"), weights), ("missing.png", tmp_path)):
        with pytest.raises(ValueError, match=r"png|weights"):
            to_folder.predict_to_folder([source], file, to_folder.PredictOptions(), out=str(out), device="cpu")
        assert out.exists() == existed
    Image.fromarray(scene()).save(tmp_path / "a.png")
    to_folder.predict_to_folder(
        [str(tmp_path / "a.png")], weights, to_folder.PredictOptions(), out=str(out), device="cpu"
    )
    check_whole(out, 1)


@pytest.mark.parametrize("error", [RuntimeError, InputError])
def test_what_was_left_out_is_said_where_an_error_ends_it(
    weights: Path, tmp_path: Path, error: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """An error of the input is the sentence itself."""
    (tmp_path / "bad.png").write_bytes(b"x")
    Image.fromarray(scene()).save(tmp_path / "good.png")

    def fail(self: Any, detections: Any) -> None:
        raise error("the end")

    monkeypatch.setattr("alignrank.inference.results.ResultWriter.add", fail)
    sources = [str(tmp_path / "bad.png"), str(tmp_path / "good.png")]
    with pytest.raises(error, match="the end"):
        to_folder.predict_to_folder(sources, weights, to_folder.PredictOptions(), out=str(tmp_path / "o"), device="cpu")
    assert ("skipped 1 image" in capsys.readouterr().err) == (error is RuntimeError)
