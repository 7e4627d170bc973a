"""The surface of the command line (`alignrank.cli.verbs`, `alignrank.cli.data`) is frozen, and cheap to ask for help.

After a change that is meant: `python tests/test_cli_surface.py` writes the golden file again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from alignrank import cli

GOLDEN = Path(__file__).parent / "golden" / "cli_surface.json"
HEAVY = ("torch", "torchvision", "numpy", "lightning", "timm", "matplotlib", "supervision", "PIL")


def commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb with its words, `("data", "show")`, and its command object."""
    command = typer.main.get_command(cli.app) if command is None else command
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from commands(child, (*path, name))


def surface() -> dict[str, list[str]]:
    """Each verb's arguments and options, one line each: names, and whether required or which default."""
    return {" ".join(path): [_line(parameter) for parameter in command.params] for path, command in commands()}


def _line(parameter: Any) -> str:
    names = "/".join([*parameter.opts, *parameter.secondary_opts])
    name = names if parameter.param_type_name == "option" else names.upper() + (" ..." if parameter.nargs == -1 else "")
    if parameter.required:
        return f"{name}: required"
    return f"{name}: optional" if parameter.default in (None, []) else f"{name}: {parameter.default!r}"


def help_text(path: tuple[str, ...], command: Any) -> str:
    """What --help prints."""
    text: str = command.get_help(command.make_context(path[-1], [], resilient_parsing=True))
    return text


def exit_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    """The exit code of `alignrank WORDS`."""
    monkeypatch.setattr(sys, "argv", ["alignrank", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_surface_is_the_committed_one() -> None:
    assert surface() == json.loads(GOLDEN.read_text(encoding="utf-8")), f"if meant: python {Path(__file__).name}"


@pytest.mark.parametrize(
    ("path", "command"), list(commands()), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_help_shows_an_example_of_the_verb(path: tuple[str, ...], command: Any) -> None:
    _, _, example = help_text(path, command).partition("Example:")
    assert f"alignrank {' '.join(path)}" in example


def test_help_and_import_load_nothing_heavy() -> None:
    script = f"""
import contextlib, io, sys
import alignrank
from alignrank.cli import main
for verb in {[list(path) for path, _ in commands()]!r} + [[]]:
    sys.argv = ["alignrank", *verb, "--help"]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main()
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("trian",), "train"),
        (("data", "sho"), "show"),
        (("train", "--epoch", "3"), "--epochs"),
        (("val", "--weights", "x"), "data"),
        (("train", "--epochs", "many"), "epochs"),
        (("predict", "a.jpg", "--weights", "x", "--conf", "2"), "conf"),
        (("train", "--data", "digits", "--imgsz", "large"), "--imgsz"),
        (("train", "--data", "digits", "--imgsz", "640px"), "--imgsz"),
        (("predict", "a.jpg", "--weights", "x", "--rectangle"), "--rect"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_word_is_one_line_and_exit_code_2(
    words: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_of(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("alignrank: ")
    assert len(captured.err.splitlines()) == 1
    assert named in captured.err


def test_help_exits_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert [path[0] for path, _ in commands() if path[0] not in shown] == []


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
    print(f"wrote {GOLDEN}")
