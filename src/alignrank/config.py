"""Configuration: a frozen pydantic base, safe YAML with line numbers, and `section.field=value` overrides."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from alignrank.errors import InputError, nearest
from alignrank.files import read_text

# A document of a few kilobytes can expand to gigabytes through aliases of aliases.
MAX_EXPANDED = 10_000


class Config(BaseModel):
    """Base of every section: frozen, no unknown keys, no silent coercion of types (an int is a valid float)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate `values`; raises InputError naming `where` (a file or "command line") and the field."""
        if not isinstance(values, Mapping):
            raise InputError(f"{where}: must be a mapping of options, got {shown(values)}")
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
    given = "" if isinstance(problem["input"], Mapping) else f", got {shown(problem['input'])}"
    named = f"{field}: " if field else ""  # what is wrong with several fields together names one itself
    return f"{named}{problem['msg'].removeprefix('Value error, ')}{given}"


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


def shown(value: Any) -> str:
    """A value in a message: the beginning of it, however large it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxlong, short.maxstring, short.maxother = 2, 60, 100, 100
    return short.repr(value)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (PyYAML keeps the last in silence) and aliases that expand to much."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._expanded: dict[int, int] = {}
        self._aliased = False

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias:
            self._aliased = True
            if id(node) not in self._expanded:
                mark = node.start_mark if node is not None else None
                raise yaml.composer.ComposerError(None, None, "an alias refers to what it stands in", mark)
        else:
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            nodes = [part for item in parts for part in (item if isinstance(item, tuple) else (item,))]
            self._expanded[id(node)] = 1 + sum(self._expanded[id(part)] for part in nodes)
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if self._aliased and self._expanded[id(node)] > MAX_EXPANDED:
            pairs = node.value if isinstance(node, yaml.MappingNode) else ()
            large = [str(key.value) for key, value in pairs if self._expanded[id(value)] > MAX_EXPANDED / 10]
            raise yaml.YAMLError(f"aliases expand to more than {MAX_EXPANDED} values in {', '.join(large)}")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, "merge keys (<<) are not read, write the options out", key_node.start_mark
                )
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float, bool)) and key in seen:
                raise yaml.YAMLError(f"{key!r} is given twice (line {key_node.start_mark.line + 1})")
            seen.add(key if isinstance(key, (str, int, float, bool)) else id(key_node))
        return super().construct_mapping(node, deep=deep)


# YAML 1.1 takes 1e-3 and 1.5e3 for text (it wants a dot and a sign); everybody who writes them means the number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; plain types only, nothing is executed.

    Raises InputError naming the file, and the line where the parser knows it.
    """
    text = read_text(path)
    try:
        value = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: {line}not valid YAML ({error.problem})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a mapping of option names to values, holds {_kind(value)}")
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"{path}: must hold a mapping of option names to values; {shown(key)} is not a name")
    return value


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def parse_overrides(items: list[str]) -> dict[str, Any]:
    """`["head.nms=true", "train.lr=0.01"]` -> {"head.nms": True, ...}; values are YAML scalars or flow lists."""
    overrides: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise InputError(f"{item!r} is not an override: write section.field=value")
        try:
            overrides[key] = yaml.load(text, Loader=_StrictLoader)
        except (yaml.YAMLError, ValueError, RecursionError):
            overrides[key] = text
    return overrides


def apply_overrides(values: Mapping[str, Any], overrides: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A copy of nested `values` with dotted keys set; `section.field.name` sets one value of a field that is a mapping.
    Raises InputError for a section that does not exist.
    """
    result: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for dotted, value in overrides.items():
        section, dot, name = dotted.partition(".")
        if not dot or not name:
            raise InputError(f"{where}: {dotted!r} is not section.field")
        if not isinstance(result.setdefault(section, {}), dict):
            raise InputError(f"{where}: {section!r} is not a section")
        result[section] = _with(result[section], name, value)
    return result


def _with(values: Mapping[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    """A copy with one value set; a dot in the name leads into a mapping, where there is one."""
    name, dot, rest = dotted.partition(".")
    inner = values.get(name)
    if dot and isinstance(inner, Mapping):
        return {**values, name: _with(inner, rest, value)}
    return {**values, dotted: value}
