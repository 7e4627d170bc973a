"""Configuration: strict YAML, overrides, and errors that name the place, the field and the nearest valid name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, ValidationError

from alignrank.config import MAX_EXPANDED, Config, apply_overrides, parse_overrides, read_yaml
from alignrank.errors import InputError, nearest


class Inner(Config):
    depth: int = Field(default=1, ge=0)
    rate: float = 0.5


class Outer(Config):
    name: str = "x"
    inner: Inner = Inner()


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "options.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_values_are_checked_and_frozen() -> None:
    outer = Outer.parse({"name": "a", "inner": {"depth": 3, "rate": 1}}, where="here")
    assert (outer.name, outer.inner.depth, outer.inner.rate) == ("a", 3, 1.0)
    with pytest.raises(ValidationError):
        outer.name = "b"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nmae": "a"}, "file.yaml: unknown option 'nmae'; did you mean 'name'? known: inner, name"),
        ({"inner": {"dpth": 1}}, "file.yaml: unknown option 'inner.dpth'; did you mean 'depth'? known: depth, rate"),
        ({"inner": {"zzz": 1}}, "file.yaml: unknown option 'inner.zzz'; known: depth, rate"),
    ],
)
def test_unknown_option_gives_the_nearest(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Outer.parse(values, where="file.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "field", "given"),
    [
        ({"inner": {"depth": -1}}, "inner.depth", "-1"),
        ({"inner": {"depth": "3"}}, "inner.depth", "'3'"),
        ({"inner": {"depth": 1.5}}, "inner.depth", "1.5"),
        ({"inner": {"depth": True}}, "inner.depth", "True"),
        ({"name": 5}, "name", "5"),
        ({"inner": 7}, "inner", "7"),
    ],
)
def test_wrong_value_names_field_and_value(values: dict[str, Any], field: str, given: str) -> None:
    with pytest.raises(InputError) as caught:
        Outer.parse(values, where="file.yaml")
    assert str(caught.value).startswith(f"file.yaml: {field}: ")
    assert str(caught.value).endswith(f", got {given}")


def test_read_yaml(tmp_path: Path) -> None:
    """Plain types, a byte-order mark, a few aliases."""
    path = written(tmp_path, "\ufeffa: 1\nb: [1.5, true, null]\nc: &x {d: e}\nf: *x\n".encode())
    assert read_yaml(path) == {"a": 1, "b": [1.5, True, None], "c": {"d": "e"}, "f": {"d": "e"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", r"'a' is given twice \(line 3\)"),
        ("a:\n  b: 1\n  b: 1\n", r"'b' is given twice \(line 3\)"),
        ("1: a\n", "must hold a mapping of option names to values; 1 is not a name"),
        ("- 1\n- 2\n", "must hold a mapping of option names to values, holds a list"),
        ("", "holds nothing"),
        ("a: [1\n", r"line \d+: not valid YAML"),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            r"line 1: not valid YAML \(could not determine a constructor",
        ),
        ("a: !include other.yaml\n", "line 1: not valid YAML"),
        (b"a: \xff\xfe\n", "is not UTF-8 text"),
        ("a: \x00\n", "not valid YAML"),
        ("? {a: 1}\n: b\n", "not valid YAML"),
        ("a: 2024-99-99\n", "not valid YAML"),
    ],
)
def test_bad_yaml_names_the_file(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=said) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_alias_bomb(tmp_path: Path) -> None:
    """Levels of ten references each; the message names the options, and building it takes no memory either."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    with pytest.raises(InputError, match=rf"aliases expand to more than {MAX_EXPANDED} values in .*, names\)"):
        read_yaml(written(tmp_path, "\n".join([*lines, "names: *a9"])))


def test_an_alias_bomb_names_what_is_large(tmp_path: Path) -> None:
    """Options that are more than a tenth of the limit: a list of 999 numbers is 1,000 values, one of 1,000 is 1,001."""
    assert MAX_EXPANDED == 10_000
    lists = [f"{name}: &{name} [{', '.join(['1'] * n)}]" for name, n in (("even", 999), ("odd", 1000))]
    text = "\n".join([*lists, f"bomb: [{', '.join(['*odd'] * 10)}]"])
    with pytest.raises(InputError, match=r"aliases expand to more than 10000 values in odd, bomb\)"):
        read_yaml(written(tmp_path, text))


def test_few_aliases_of_much_and_many_of_little(tmp_path: Path) -> None:
    once = "a: &x [" + ", ".join(["1"] * 4000) + "]\nb: *x\n"
    assert len(read_yaml(written(tmp_path, once))["b"]) == 4000
    often = "a: &x [1, 2]\n" + "".join(f"b{i}: *x\n" for i in range(300))
    assert read_yaml(written(tmp_path, often))["b299"] == [1, 2]


@pytest.mark.parametrize("text", ["a: &x [*x]\n", "a: &x {b: {c: *x}}\n"])
def test_an_alias_of_itself(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"line 1: not valid YAML \(an alias refers to what it stands in"):
        read_yaml(written(tmp_path, text))


def test_merge_keys(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 2: not valid YAML \(merge keys \(<<\)"):
        read_yaml(written(tmp_path, "a: &x {b: 1}\n<<: *x\n"))


def test_numbers_as_everybody_writes_them(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: 1.5e3\nc: -2E+2\nd: .5e1\ne: e5\nf: 1e\n"
    assert read_yaml(written(tmp_path, text)) == {"a": 1e-3, "b": 1500.0, "c": -200.0, "d": 5.0, "e": "e5", "f": "1e"}


def test_deep_nesting_is_refused_without_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        read_yaml(written(tmp_path, "a: " + "[" * 1200 + "]" * 1200))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path, said in ((tmp_path / "absent.yaml", "cannot be read"), (tmp_path, "is not a file")):
        with pytest.raises(InputError, match=said) as caught:
            read_yaml(path)
        assert str(path) in str(caught.value)


def test_parse_overrides() -> None:
    """YAML scalars and flow lists; 1e-3, a string to YAML 1.1, is a number; what is no YAML stays text."""
    given = ["a.b=true", "a.c=3", "a.d=1e-3", "a.e=[1, 2]", "a.f=timm:x", "a.g=", "a.h=x=y", "a.i=[1", "a.j=null"]
    assert parse_overrides(given) == {
        "a.b": True,
        "a.c": 3,
        "a.d": 1e-3,
        "a.e": [1, 2],
        "a.f": "timm:x",
        "a.g": None,
        "a.h": "x=y",
        "a.i": "[1",
        "a.j": None,
    }


@pytest.mark.parametrize("item", ["a.b", "=3", ""])
def test_not_an_override(item: str) -> None:
    with pytest.raises(InputError, match="is not an override: write section.field=value".replace(".", r"\.")):
        parse_overrides([item])


def test_apply_overrides_copies() -> None:
    values = {"a": {"x": 1, "y": 2}, "n": 5}
    result = apply_overrides(values, {"a.x": 7, "new.z": 8}, where="command line")
    assert result == {"a": {"x": 7, "y": 2}, "n": 5, "new": {"z": 8}}
    assert values == {"a": {"x": 1, "y": 2}, "n": 5}


@pytest.mark.parametrize(("key", "said"), [("x", "is not section"), ("a.", "is not section"), ("n.x", "not a section")])
def test_bad_override_target(key: str, said: str) -> None:
    with pytest.raises(InputError, match=f"^command line: .*{said}"):
        apply_overrides({"a": {}, "n": 5}, {key: 1}, where="command line")


def test_nearest() -> None:
    assert nearest("yolov8n", ["yolov8-n", "alpha"]) == "did you mean 'yolov8-n'? known: alpha, yolov8-n"
    assert nearest("zzz", ["b", "a"]) == "known: a, b"


def test_a_long_list_of_names_is_cut() -> None:
    """timm knows 1,300 models: the message names the nearest, and how many there are."""
    names = [f"resnet{i}" for i in range(100)]
    assert nearest("resnet7x", names) == "did you mean 'resnet7'? 100 are known, such as resnet0, resnet1, resnet10"
    assert nearest("resnet7x", names[:9]).endswith("known: " + ", ".join(names[:9]))
