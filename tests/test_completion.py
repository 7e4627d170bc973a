"""What the Tab key offers, asked of the shells themselves; nobody waits for PyTorch meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import environment

from alignrank import cli
from alignrank.evaluation.oracle import KINDS
from alignrank.export.formats import FORMATS
from alignrank.inference.options import TRACKERS
from alignrank.weights.catalog import recipe_names

ASK = 'source "$1"; COMP_WORDS=({words}); COMP_CWORD={last}; _alignrank_completion alignrank; echo "${{COMPREPLY[@]}}"'
LOADED = """
import sys
from alignrank.cli import main
try:
    main()
except SystemExit:
    print(*sorted({"torch", "numpy", "typer"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def on_path(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment whose PATH has this package's program first."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "alignrank"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m alignrank "$@"\n')
    program.chmod(0o755)
    return environment() | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def shell(name: str, code: str, *arguments: str, env: dict[str, str]) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, "-c", code, name, *arguments], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_bash(on_path: dict[str, str], tmp_path: Path) -> None:
    """By the script that `--show-completion` prints. Where nothing is offered, bash itself completes files."""
    script = tmp_path / "script"
    script.write_text(shell("bash", "alignrank --show-completion; exit", env=on_path))
    assert "complete -o default -F _alignrank_completion alignrank" in script.read_text()
    for words, expected in {
        "alignrank mo": {"models"},
        "alignrank train --model rank-dino-s": {"rank-dino-swin-l"},
        "alignrank val --weights ./": set(),
    }.items():
        code = ASK.format(words=words, last=len(words.split()) - 1)
        assert set(shell("bash", code, str(script), env=on_path).split()) == expected


def test_zsh(on_path: dict[str, str]) -> None:
    """Its completion is a function that is called below a key; what it would be told is looked at."""
    script = shell("zsh", "alignrank --show-completion; exit", env=on_path)
    assert script.startswith("#compdef alignrank\n")
    code = f"compdef() {{ }}; _arguments() {{ print -r -- $@ }}; {script}\n" + (
        "words=(alignrank export --format o); CURRENT=4; _alignrank_completion"
    )
    assert set(re.findall(r"\w+", shell("zsh", code, env=on_path))) == {"onnx", "openvino"}


def offered(verb: str, name: str) -> set[str]:
    """All values of a verb's option, as Typer has them for any shell."""
    command: Any = typer.main.get_command(cli.app)
    for word in verb.split():
        command = command.commands[word]
    (parameter,) = [one for one in command.params if one.name == name]
    context = command.make_context(verb, [], resilient_parsing=True)
    return {item.value for item in parameter.shell_complete(context, "")}


@pytest.mark.parametrize(
    ("verb", "name", "expected"),
    [
        ("export", "format", set(FORMATS)),
        ("track", "tracker", set(TRACKERS)),
        ("val", "oracle", set(KINDS)),
        ("data show", "split", {"train", "val", "test"}),
        *[(verb, "model", set(recipe_names())) for verb in ("train", "tune", "benchmark", "field", "convert")],
        ("config", "name", set(recipe_names())),
    ],
)
def test_values_are_those_that_the_verb_takes(verb: str, name: str, expected: set[str]) -> None:
    assert offered(verb, name) == expected


def test_nothing_heavy_is_imported() -> None:
    asked = {"_ALIGNRANK_COMPLETE": "complete_bash", "COMP_WORDS": "alignrank predict --model ", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=environment() | asked, capture_output=True, text=True, check=True
    )
    assert "transformers/dfine-n" in done.stdout.split()
    assert "yolov8-n" not in done.stdout.split()
    assert done.stderr.split() == ["typer"]
