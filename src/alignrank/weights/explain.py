"""A recipe in full, as a YAML file that trains: every option with its value, what it may be, and what it means."""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import types
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from alignrank.config import Config
from alignrank.weights.recipe import Recipe, load_recipe

# Column of the comments, if the line leaves room.
COMMENT_COLUMN = 32
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "a multiple of"}


def explained(name: str, overrides: Mapping[str, Any] | None = None) -> str:
    """The recipe `name`, or of a YAML file, as text. Raises InputError for unknown names and fields."""
    return explained_recipe(load_recipe(name, overrides=overrides, where="config"))


def explained_recipe(recipe: Recipe) -> str:
    """A recipe as such text."""
    architecture = type(recipe.architecture)
    lines = [
        f"# {recipe.name}: every option, with its default in brackets where the recipe has another value.",
        "# The file trains with --model FILE; a single option goes on the command line:",
        f"# alignrank train --model {recipe.name} --data DATA train.lr=0.01",
        f"detector: {recipe.detector}",
    ]
    for section in architecture.model_fields:
        value = getattr(recipe.architecture, section)
        if isinstance(value, Config):
            lines += ["", *_section(section, value)]
    for section in ("train", "augment", "data"):
        lines += ["", *_section(section, getattr(recipe, section))]
    return "\n".join(lines) + "\n"


def _section(name: str, section: Config) -> list[str]:
    doc = " ".join(inspect.getdoc(type(section)).split()) if type(section).__doc__ else ""  # type: ignore[union-attr]
    lines = [f"# {doc}", f"{name}:"]
    meaning = meanings(type(section))
    for field, about in type(section).model_fields.items():
        value, default = getattr(section, field), about.get_default(call_default_factory=True)
        notes = [meaning.get(field, "")]
        if allowed := _allowed(about.annotation, about.metadata):
            notes.append(f"({allowed})")
        if value != default:
            notes.append(f"[default: {_scalar(default)}]")
        comment = " ".join(filter(None, notes))
        lines.append(f"{f'  {field}: {_scalar(value)}':<{COMMENT_COLUMN}}  # {comment}")
    return lines


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize)
    return text.removesuffix("...\n").strip()


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    """What a value may be: choices, or a range."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(filter(None, (_allowed(part, metadata) for part in get_args(annotation))))
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        more = [item for part in more for item in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _allowed(inner, [*metadata, *more])
    if get_origin(annotation) is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    words = [
        f"{sign} {getattr(item, bound)}"
        for item in metadata
        for bound, sign in _BOUNDS.items()
        if getattr(item, bound, None) is not None
    ]
    return ", ".join(words) if annotation in (int, float) else ""


@cache
def meanings(section: type[Config]) -> dict[str, str]:
    """{field: the text below it in the class, inherited fields included}."""
    found: dict[str, str] = {}
    for cls in reversed(section.__mro__):
        if not issubclass(cls, Config) or cls is Config:
            continue
        tree = ast.parse(inspect.getsource(sys.modules[cls.__module__]))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
        for node, after in itertools.pairwise(body):
            text = after.value if isinstance(after, ast.Expr) else None
            named = isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
            if named and isinstance(text, ast.Constant) and isinstance(text.value, str):
                found[node.target.id] = " ".join(text.value.split())  # type: ignore[attr-defined]
    return found
