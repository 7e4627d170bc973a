"""README and docs: examples run or parse, links lead somewhere, named things exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import alignrank
from alignrank.cli import app
from alignrank.config import parse_overrides
from alignrank.detectors import DETECTORS
from alignrank.input_size import read_size
from alignrank.weights.catalog import recipe_names
from alignrank.weights.recipe import load_recipe
from alignrank.weights.settings import AugmentConfig, DataConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
# Examples that train, that need what a training wrote, or that fetch weights, are not run.
NEEDS_TRAINING = re.compile(r"\.train\(|\btune\(|\.load\(|InferenceSession\(|pretrained=\"hub\"")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> Iterator[tuple[int, str]]:
    """Fenced blocks of a language: (line number of the first line, text)."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield text[: match.start(1)].count("\n") + 1, match[1]


def all_blocks(language: str) -> list[Any]:
    """The same of all documents, as test parameters."""
    return [
        pytest.param(path, line, text, id=f"{name(path)}:{line}")
        for path in DOCUMENTS
        for line, text in blocks(path, language)
    ]


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each command of a bash block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """`alignrank WORDS` -> verb and options, by the real command line; its usage errors are raised."""
    command: Any = typer.main.get_command(app)
    verb = []
    while hasattr(command, "commands"):
        verb.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return " ".join(verb), command.make_context(verb[-1], list(words)).params


def check_alignrank(words: list[str]) -> None:
    """Verb, options and values are valid, and so is the recipe they ask for."""
    verb, options = parsed(words)
    if verb == "train" and options["resume"] is None:
        overrides = parse_overrides(options["overrides"] or [])
        fields = {key: options[key] for key in ("epochs", "lr", "seed") if options[key] is not None}
        fields |= {"imgsz": read_size(options["imgsz"])} if options["imgsz"] is not None else {}
        overrides |= {f"train.{key}": value for key, value in fields.items()}
        overrides.pop("model.pretrained", None)  # a whole published detector would be fetched to see what it is
        load_recipe(options["model"] or "yolov8-n", overrides=overrides)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_makefile_has_the_targets() -> None:
    assert {"setup", "demo", "test", "check", "slow", "bench"} <= make_targets()


@pytest.mark.parametrize(("path", "line", "text"), all_blocks("bash"))
def test_commands_are_valid(path: Path, line: int, text: str) -> None:
    for words in command_lines(text):
        if words[0] == "alignrank":
            check_alignrank(words[1:])
        elif words[0] == "make":
            assert words[1] in make_targets()
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()
        else:
            assert words[:2] == ["pip", "install"], f"unknown command {words[0]!r}"


@pytest.mark.parametrize("recipe", recipe_names())
def test_command_in_a_recipes_header_is_valid(recipe: str) -> None:
    text = (ROOT / "src" / "alignrank" / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    commands = [shlex.split(line.partition("Command:")[2]) for line in header if "Command:" in line]
    assert len(commands) == 1
    assert commands[0][:4] == ["alignrank", "train", "--model", recipe]
    check_alignrank(commands[0][1:])


def test_examples_of_help_are_valid() -> None:
    seen = 0
    groups: list[Any] = [typer.main.get_command(app)]
    while groups:
        for command in groups.pop().commands.values():
            if hasattr(command, "commands"):
                groups.append(command)
                continue
            for line in re.findall(r"^ *(alignrank .*)$", command.epilog or "", re.MULTILINE):
                check_alignrank(shlex.split(line)[1:])
                seen += 1
    assert seen


@pytest.mark.parametrize(("path", "line", "text"), all_blocks("python"))
def test_python_examples(path: Path, line: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = compile("\n" * (line - 1) + text, name(path), "exec")
    if NEEDS_TRAINING.search(text):
        check_calls(text)
    else:
        monkeypatch.chdir(tmp_path)
        exec(code, {"__name__": "__main__"})


def check_calls(text: str) -> None:
    """What an example takes from alignrank exists, and its methods take the keywords it gives."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "alignrank":
            assert hasattr(alignrank, node.attr), f"alignrank.{node.attr}"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if isinstance(node.func.value, ast.Name) and node.func.value.id == "detector":
            method = getattr(alignrank.Detector, node.func.attr)
            keywords = {word.arg: None for word in node.keywords if word.arg is not None}
            inspect.signature(method).bind(None, *node.args, **keywords)


@pytest.mark.parametrize(("path", "line", "text"), all_blocks("yaml"))
def test_yaml_examples_are_valid_configurations(
    path: Path, line: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignrank.training.options import read_options

    (tmp_path / "CELLS").mkdir()
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    options, recipe = read_options(file, {}, {})
    assert options.model == recipe.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_relative_links_exist(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [link for link in links if link and "://" not in link and not (path.parent / link).exists()]
    assert not missing


def anchors(path: Path) -> set[str]:
    """Of the headings of a page, as code hosts and the site make them: lower case, letters, digits and dashes."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w -]", "", heading).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=name)
def test_anchors_of_links_exist(path: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(((?!https?:)[^)\s#]*)#([^)\s]+)\)", text)
    pages = [(path.parent / page if page else path, anchor) for page, anchor in links]
    missing = [
        f"{page.name}#{anchor}" for page, anchor in pages if page.suffix == ".md" and anchor not in anchors(page)
    ]
    assert not missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_named_make_targets_exist(path: Path) -> None:
    assert set(re.findall(r"`make ([a-z]+)", path.read_text(encoding="utf-8"))) <= make_targets()


def test_security_page_has_the_floors_of_pyproject() -> None:
    """Both ways for those with a reason of security."""
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    floors = re.findall(r"^\| `([a-z]+>=[\d.]+)` \|", page, re.MULTILINE)
    assert [floor.partition(">")[0] for floor in floors] == ["torch", "onnx", "lightning"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf'"{re.escape(floor)}(,[^"]*)?"', project) for floor in floors)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_version_is_the_same_everywhere() -> None:
    version = alignrank.__version__
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert f'\nversion = "{version}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_training_page_names_every_field_and_option() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`\s]+)`", page))
    fields = [*TrainConfig.model_fields, *AugmentConfig.model_fields, *DataConfig.model_fields]
    for architecture in DETECTORS.values():
        sections = {key: field.annotation for key, field in architecture.config.model_fields.items()}
        for section, config in sections.items():
            fields += [f"{section}.{key}" for key in getattr(config, "model_fields", {})]
    train: Any = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    options = [option for parameter in train.params for option in parameter.opts if option.startswith("--")]
    assert sorted({*fields, *options} - named) == []


def test_index_names_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page != "index.md" and f"]({page})" not in index] == []
