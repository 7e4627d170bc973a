"""Configuration: a frozen pydantic base, safe YAML with line numbers, and `section.field=value` overrides."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from alignrank.errors import InputError, nearest

# A document of a few kilobytes can expand to gigabytes through aliases of aliases.
MAX_ALIASES = 100


class Config(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent coercion of types (an int is a valid float)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate `values`; raises InputError naming `where` (a file or "command line") and the field."""
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: must be a mapping of options, got {values!r}")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise InputError(f"{where}: {_first_problem(cls, error)}") from None


def _first_problem(cls: type[BaseModel], error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    field, section = _known_part(cls, problem["loc"])
    if problem["type"] == "extra_forbidden":
        dotted = ".".join(map(str, problem["loc"]))
        return f"unknown option {dotted!r}; {nearest(str(problem['loc'][-1]), section.model_fields)}"
    given = "" if isinstance(problem["input"], Mapping) else f", got {problem['input']!r}"
    return f"{field}: {problem['msg'].removeprefix('Value error, ')}{given}"


def _known_part(cls: type[BaseModel], location: tuple[int | str, ...]) -> tuple[str, type[BaseModel]]:
    """The dotted field at the head of `location`, and the innermost section on the way.

    Behind the field pydantic names the member of a union, which is no name of ours.
    """
    known: list[str] = []
    for part in map(str, location):
        if part not in cls.model_fields:
            break
        known.append(part)
        annotation = cls.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        cls = annotation
    return ".".join(known), cls


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that counts aliases and refuses a key given twice (PyYAML keeps the last in silence)."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise yaml.YAMLError(f"more than {MAX_ALIASES} aliases")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.YAMLError(f"{key!r} is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key if isinstance(key, (str, int, float, bool)) else id(key_node))
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; plain types only, nothing is executed.

    Raises InputError naming the file, and the line where the parser knows it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: {line}not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML ({error})") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{path}: must hold a mapping of option names to values, holds {type(value).__name__}")
    return value


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """`["head.nms=true", "train.lr=0.01"]` -> {"head.nms": True, ...}; values are YAML scalars or flow lists."""
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise InputError(f"{item!r} is not an override: write section.field=value")
        try:
            overrides[key] = yaml.load(text, Loader=_StrictLoader)
        except yaml.YAMLError:
            overrides[key] = text
        # YAML 1.1 reads 1e-3 as a string; everybody who types it means the number.
        if isinstance(overrides[key], str):
            with suppress(ValueError):
                overrides[key] = float(overrides[key])
    return overrides


def apply_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A copy of nested `values` with dotted keys set. Raises InputError for a section that does not exist."""
    result: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for dotted, value in overrides.items():
        section, dot, name = dotted.partition(".")
        if not dot or not name:
            raise InputError(f"{where}: {dotted!r} is not section.field")
        if not isinstance(result.setdefault(section, {}), dict):
            raise InputError(f"{where}: {section!r} is not a section")
        result[section][name] = value
    return result
