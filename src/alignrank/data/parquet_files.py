"""Parquet and Arrow files as Hugging Face `datasets` writes them: a few rows at a time, and their class names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignrank.errors import InputError

# Rows that become Python objects at a time; Arrow decodes the row group that they are of.
ROWS = 32
IMAGES, OBJECTS = ("image", "img", "picture"), ("objects", "annotations")
CATEGORIES = ("category", "categories", "label", "labels", "category_id")


def batches(path: Path, without_bytes: bool) -> Iterator[tuple[Any, Any]]:
    """(schema, record batch of few rows) of a file. without_bytes: what pictures hold is not read, but their paths.

    Raises InputError naming the file.
    """
    import pyarrow
    from pyarrow import ipc, parquet

    try:
        if path.suffix.lower() == ".arrow":
            with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as stream:
                for batch in stream:
                    for start in range(0, batch.num_rows, ROWS):
                        yield stream.schema, batch.slice(start, ROWS)
            return
        # Not read in advance: else the next row group is in memory beside the one in use.
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
            schema = file.schema_arrow
            image = column(schema, IMAGES, path)
            wanted = [image, column(schema, OBJECTS, path), *(c for c in ("width", "height") if c in schema.names)]
            kind = schema.field(image).type
            if without_bytes and pyarrow.types.is_struct(kind) and kind.get_field_index("path") >= 0:
                wanted[0] = f"{image}.path"
            for group in range(file.num_row_groups):  # else a batch goes on into the next ones
                for batch in file.iter_batches(batch_size=ROWS, row_groups=[group], columns=wanted):
                    yield schema, batch
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        kind = "an Arrow" if path.suffix.lower() == ".arrow" else "a Parquet"
        raise InputError(
            f"{path}: is not {kind} file that can be read ({' '.join(str(error).split())[:120]})"
        ) from None


def column(schema: Any, names: tuple[str, ...], path: Path) -> str:
    """The first of `names` that is a column. Raises InputError naming the file."""
    name = next((name for name in names if name in schema.names), None)
    if name is None:
        listed = ", ".join(schema.names[:20])
        raise InputError(f"{path}: has no column {names[0]!r}, as object detection has it on the hub; it has {listed}")
    return name


def class_names(metadata: dict[bytes, bytes] | None) -> tuple[str, ...] | None:
    """Those of the `ClassLabel` of a category among the features of `datasets`, wherever its version nests it."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    for column in OBJECTS:
        for key, value in _nested(features.get(column) if isinstance(features, dict) else None):
            names = value.get("names") if key in CATEGORIES else None
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return None


def _nested(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """All mappings in `value`, with the key of a field that they are below."""
    if isinstance(value, list):
        for part in value:
            yield from _nested(part, key, depth + 1)
    if isinstance(value, dict) and depth < 10:
        yield key, value
        for name, part in value.items():
            # `feature` only wraps: the field's own name stands above it.
            yield from _nested(part, key if name == "feature" else name, depth + 1)
