"""What is said of long work: bars on a terminal and in a notebook, in a log a line after a time of silence."""

from __future__ import annotations

import builtins
import io
import re
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from command_line import TINY, alignrank
from rich.console import Console
from squares import write_squares

from alignrank.data.loader import Images
from alignrank.data.opening import open_split, opened
from alignrank.input_size import InputSize
from alignrank.terminal import progress
from alignrank.terminal.progress import counted, say, shown, steps
from alignrank.terminal.works import Rate, Work, clock, seconds

Err = Callable[[], str]


@pytest.fixture
def err(capsys: pytest.CaptureFixture[str]) -> Err:
    """All that has been said so far."""
    said: list[str] = []

    def read() -> str:
        said.append(capsys.readouterr().err)
        return "".join(said)

    return read


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute is a hundredth of a second."""
    monkeypatch.setattr(progress, "SILENCE", 0.01)
    monkeypatch.setattr(progress, "REDRAW", 0.01)


def until(condition: Callable[[], object]) -> None:
    """Wait for it, a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.005)


def tellers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "alignrank-heartbeat"]


@pytest.mark.usefixtures("impatient")
def test_one_long_step_is_told_again_and_again(err: Err) -> None:
    with steps("decoding images", 3) as advance:
        advance()
        until(lambda: err().count("decoding images: 1 of 3") > 2)
    whole = err()
    assert re.search(r"^decoding images: 1 of 3, [\d.]+ \w+( \w+)?, 0:00:\d\d left$", whole, re.MULTILINE), whole
    assert not tellers()
    time.sleep(0.05)
    assert err() == whole


def test_short_work_says_nothing(err: Err) -> None:
    with steps("decoding images", 1000) as advance:
        for _ in range(1000):
            advance()
    assert err() == ""
    assert not tellers()


def test_what_was_said_a_moment_ago_is_no_silence(err: Err, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    face = progress._log()
    work = Work("training")
    work.began = 90.0
    say("epoch 1")
    assert face._due([work]) == 100 + progress.SILENCE
    work.began = 110.0
    assert face._due([work]) == 110 + progress.SILENCE
    assert face._due([work, Work("validating")]) == 110 + progress.SILENCE


@pytest.mark.usefixtures("impatient")
def test_of_work_within_work_the_inner_one_is_told(err: Err) -> None:
    with shown(Work("training", None, lambda: "step 3")):
        until(lambda: "step 3\n" in err())
        with steps("validating", None) as advance:
            advance()
            until(lambda: "validating: 1 done, 0:00:" in err())
        before = len(err())
        until(lambda: "step 3\n" in err()[before:])
        until(lambda: "validating" not in err()[before + 200 :])
    assert not tellers()


@pytest.mark.usefixtures("impatient")
def test_work_that_fails_leaves_no_thread(err: Err) -> None:
    def broken() -> None:
        with shown(Work("training")), steps("validating", 2):
            until(lambda: "validating" in err())
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        broken()
    assert not tellers()
    assert not progress._under_way


@pytest.mark.usefixtures("impatient")
def test_a_line_that_fails_does_not_end_the_work(err: Err) -> None:
    asked = []

    def line() -> str:
        asked.append(1)
        raise RuntimeError("the device is gone")

    with shown(Work("training", None, line)):
        until(lambda: len(asked) > 2)
    assert err() == ""


@pytest.mark.usefixtures("impatient")
def test_other_processes_than_the_first_are_quiet(tmp_path: Path, err: Err, monkeypatch: pytest.MonkeyPatch) -> None:
    split = open_split(str(write_squares(tmp_path / "squares")), "train")
    before = len(err())
    monkeypatch.setattr(Images, "_load", slowly(Images._load))
    opened(split, InputSize.of(64, rect=False), quiet=True)
    assert err()[before:] == ""
    opened(split, InputSize.of(64, rect=False))
    assert "decoding images" in err()[before:]


@pytest.mark.usefixtures("impatient")
def test_a_training_tells_what_it_begins_and_how_far_an_epoch_is(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "squares")
    done = alignrank("train", "--data", str(data), "--epochs", "1", *TINY, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    beginning = "training images 8, steps an epoch 2, input 64 px, batch 4, precision 32-true, threads 1, workers 0"
    assert f"{beginning}, device cpu\n" in done.stderr
    line = r"^epoch 1/1: step [12] of 2, loss \d+\.\d\d, [\d.]+ s a step, 0:00:\d\d left in the epoch$"
    assert re.search(line, done.stderr, re.MULTILINE), done.stderr
    assert re.search(r"^validating epoch 1: ", done.stderr, re.MULTILINE), done.stderr
    assert done.stderr.splitlines()[-1].startswith("processed 12 images")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("check", "DATA"), "decoding images: "),
        (("convert", "DATA", "--to", "yolo", "--out", "OUT"), "writing 12 images: "),
        (("split", "DATA", "--out", "OUT"), "splitting 12 images: "),
    ],
)
def test_the_data_verbs_tell_how_far_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], line: str
) -> None:
    from alignrank.data import convert, leakage, split

    for module, name in ((leakage, "grey_thumbnail"), (split, "grey_thumbnail"), (convert, "_place")):
        monkeypatch.setattr(module, name, slowly(getattr(module, name)))
    data, out = write_squares(tmp_path / "squares"), tmp_path / "out"
    done = alignrank("data", *(word.replace("DATA", str(data)).replace("OUT", str(out)) for word in arguments))
    assert f"\n{line}" in f"\n{done.stderr}"


def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        time.sleep(0.02)
        return function(*arguments)

    return call


class Stream(io.StringIO):
    """A terminal, or what only looks like one to whoever looks at colours."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("terminal", [True, False])
def test_bars_are_for_terminals_alone(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """Without one there are lines, also where FORCE_COLOR, as in CI, makes rich believe otherwise."""
    stream = Stream(terminal)
    console = Console(file=stream, force_terminal=True, width=100, highlight=False)
    monkeypatch.setattr(progress, "console", lambda: console)
    monkeypatch.setattr(sys, "stderr", stream)
    with shown(Work("training", 4)) as work:
        work.advance("epoch 1")
        with steps("validating", 2) as advance:
            advance()
            until(lambda: "validating" in stream.getvalue() and (terminal or "1 of 2" in stream.getvalue()))
            say("a line between")
    assert ("\x1b[2K" in stream.getvalue()) is terminal
    assert ("━" in stream.getvalue()) is terminal
    assert ("validating: 1 of 2" in stream.getvalue()) is not terminal
    assert "a line between\n" in stream.getvalue()
    assert not tellers()


class Kernel:
    """IPython as a notebook's kernel shows it to the code of a cell."""

    def __init__(self, shell: object) -> None:
        self.module = ModuleType("IPython")
        self.module.get_ipython = lambda: shell  # type: ignore[attr-defined]
        self.display = ModuleType("IPython.display")
        self.display.display = self.show  # type: ignore[attr-defined]
        self.shown: list[str] = []

    def show(self, data: dict[str, str], *, raw: bool, display_id: bool = False) -> Any:
        assert raw
        assert display_id is not bool(self.shown)
        self.shown.append(data["text/plain"])
        return SimpleNamespace(update=self.show)


class ZMQInteractiveShell:
    kernel = None


class ColabShell(ZMQInteractiveShell):
    __module__ = "google.colab._shell"


class TerminalInteractiveShell:
    pass


@pytest.fixture
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel(request.param)
    monkeypatch.setitem(sys.modules, "IPython", kernel.module)
    monkeypatch.setitem(sys.modules, "IPython.display", kernel.display)
    monkeypatch.setattr(builtins, "get_ipython", lambda: request.param, raising=False)
    return kernel


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kernel", [ZMQInteractiveShell(), ColabShell()], indirect=True)
def test_a_notebook_has_a_bar(kernel: Kernel, err: Err) -> None:
    with shown(Work("training", 4)) as work:
        work.advance("epoch 1")
        with steps("validating", 2) as advance:
            advance()
            until(lambda: any("validating: 1 of 2" in text for text in kernel.shown))
        drawn = next(text for text in kernel.shown if "validating: 1 of 2" in text)
    lines = drawn.splitlines()
    assert [line.split()[0].count("#") / len(line.split()[0]) for line in lines] == [pytest.approx(0.25, abs=0.03), 0.5]
    assert ["epoch 1: 1 of 4" in lines[0], "validating: 1 of 2" in lines[1]] == [True, True]
    assert kernel.shown[-1] == ""
    assert err() == ""
    assert not tellers()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kernel", [TerminalInteractiveShell(), None], indirect=True)
def test_ipython_in_a_terminal_is_no_notebook(kernel: Kernel, err: Err) -> None:
    with steps("validating", 2):
        until(lambda: "validating: 0 of 2" in err())
    assert kernel.shown == []


@pytest.mark.parametrize(
    ("done", "total", "spent", "line"),
    [
        (0, 9, 31.4, "decoding: 0 of 9, 0:00:31 so far"),
        (3, 9, 31.4, "decoding: 3 of 9, 10.5 s each, 0:01:03 left"),
        (3000, 9000, 30.0, "decoding: 3000 of 9000, 100 a second, 0:01:00 left"),
        (9, 9, 61.0, "decoding: 9 of 9, 0:01:01 so far"),
        (9, 8, 61.0, "decoding: 9 of 8, 0:01:01 so far"),
        (0, None, 4000.0, "decoding: 1:06:40 so far"),
        (7, None, 4000.0, "decoding: 7 done, 1:06:40 so far"),
    ],
)
def test_how_far_a_work_is(
    monkeypatch: pytest.MonkeyPatch, done: int, total: int | None, spent: float, line: str
) -> None:
    work = Work("decoding", total)
    work.began, work.done = 0.0, done
    monkeypatch.setattr("alignrank.terminal.works.time", SimpleNamespace(monotonic=lambda: spent))
    assert work.line() == line


def test_durations() -> None:
    assert [clock(130.2), seconds(1.44), seconds(0.036), seconds(12.34)] == ["0:02:10", "1.4 s", "0.036 s", "12.3 s"]


def test_an_item_counts_when_the_work_on_it_is_done() -> None:
    done: list[int] = []
    for number in counted(range(3), lambda: done.append(1)):
        assert len(done) == number
    assert len(done) == 3


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """Ten steps a second for three seconds, then two a second: the quick ones are forgotten."""
    moment = [0.0]
    rate = Rate(2.0, lambda: moment[0])
    quick = []
    for _ in range(30):
        moment[0] += 0.1
        quick.append(rate.step())
    assert quick == pytest.approx([10] * 30, rel=0.2)
    slow = []
    for _ in range(10):
        moment[0] += 0.5
        slow.append(rate.step())
    assert slow[-1] == pytest.approx(2, rel=0.3)
    assert all(after <= before + 1e-9 for before, after in pairwise(slow))
    assert len(rate._marks) < 30
