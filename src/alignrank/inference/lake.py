"""Detections of very many images as Parquet: sources as parts, and what a worker makes of one.

A part is a few images that are named, not read: so nothing large travels between processes. Its file appears whole
under a name of its own (docs/decisions/0033), so that a part that is done twice is there once, and one that is there
need not be done again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignrank.contracts import Detections
from alignrank.data.decode import decode, list_images
from alignrank.data.parquet_files import IMAGES
from alignrank.errors import InputError, first_line
from alignrank.export.runtimes import ready
from alignrank.folders import replacing
from alignrank.inference.addresses import ADDRESS
from alignrank.inference.entries import SourceImage
from alignrank.inference.options import PredictOptions
from alignrank.inference.places import from_text
from alignrank.inference.predict import pipeline
from alignrank.inference.sources import ahead
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import SelectionOptions

SUFFIX = ".parquet"
# Images of a part: some minutes of work of a slow worker are lost with it, and a billion images are a million files.
LARGEST = 1000
# Of few images so many parts are made: what several workers can share.
PARTS = 64
COLUMNS = (*IMAGES, "bytes", "path", "file", "file_name", "image_path")
Item = tuple[str, str | bytes | None]


@dataclass(frozen=True, slots=True)
class Part:
    """number: of the file, from 0. names: of files of images; else rows `start` to `stop` of the row group `group` of a
    Parquet file `table`, whose `column` holds images.
    """

    number: int
    names: tuple[str, ...] = ()
    table: str = ""
    group: int = 0
    start: int = 0
    stop: int = 0
    column: str = ""

    @property
    def file(self) -> str:
        return f"part-{self.number:07d}{SUFFIX}"

    def __len__(self) -> int:
        return len(self.names) or self.stop - self.start

    def items(self) -> Iterator[Item]:
        """(source, path or bytes) of each image; None for a row without one."""
        if self.names:
            yield from ((name, name) for name in self.names)
            return
        import pyarrow
        from pyarrow import parquet

        row = -1
        try:
            # Pages as they are needed: a row group of pictures may be gigabytes.
            with parquet.ParquetFile(self.table, buffer_size=1 << 20, pre_buffer=False) as file:
                before = sum(file.metadata.row_group(group).num_rows for group in range(self.group))
                for batch in file.iter_batches(batch_size=32, row_groups=[self.group], columns=[self.column]):
                    for value in batch.column(0):
                        row += 1
                        if row >= self.stop:
                            return
                        if row >= self.start:
                            yield _of_row(value.as_py(), Path(self.table), before + row)
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{self.table}: row {row + 1} of row group {self.group}: {first_line(error)}") from None


def parts_of(sources: Sequence[str], column: str | None = None) -> list[Part]:
    """All images of folders, files, patterns and lists, or of the Parquet files among them, in order.

    column: that holds images; None: the first of the usual names. Raises InputError for what cannot be looked at.
    """
    tables_of = {source: _tables(Path(source)) for source in sources}
    tables = [table for source in sources for table in tables_of[source]]
    if not tables:
        if column is not None:
            raise InputError(f"--column {column}: is for Parquet files; there is none among the sources")
        entries = [entry for source in sources for entry in from_text(source)]
        names = [os.path.abspath(entry.name) for entry in entries if _is_file(entry.name, entry.live)]
        size = _size(len(names))
        return [Part(i // size, names=tuple(names[i : i + size])) for i in range(0, len(names), size)]
    others = [source for source in sources if not tables_of[source]]
    if others:
        raise InputError(f"{others[0]}: images beside Parquet files; predict them in two runs")
    spans = [span for table in tables for span in _spans(table, column)]
    size = _size(sum(rows for _, _, rows, _ in spans))
    pieces = [
        (table, group, start, min(start + size, rows), name)
        for table, group, rows, name in spans
        for start in range(0, rows, size)
    ]
    if not pieces:
        raise InputError(f"{sources[0]}: there is no row in it")
    return [Part(number, (), *piece) for number, piece in enumerate(pieces)]


class Worker:
    """A detector in a process of its own: makes the file of a part. Options as of `predict`."""

    def __init__(
        self, weights: Path | Checkpoint, options: PredictOptions, selection: SelectionOptions, device: str, out: Path
    ) -> None:
        self.pipeline, self.out = pipeline(ready(weights, device, selection), options), out

    def __call__(self, part: Part) -> None:
        """Raises InputError where the table of the part cannot be read."""
        import pyarrow
        from pyarrow import parquet

        rows = list(self._rows(part))
        with replacing(self.out / part.file) as path:
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema()), path, compression="zstd")

    def _rows(self, part: Part) -> Iterator[dict[str, Any]]:
        """One an image, in order; of one that cannot be read it says why."""
        tiling = self.pipeline.options.tiling
        bad: deque[tuple[int, dict[str, Any]]] = deque()

        def read(item: Item) -> Any:
            name, image = item
            try:
                if image is None:
                    raise InputError(f"{name}: there is no image in this row")
                found = SourceImage(name, decode(image), image if isinstance(image, str) else None)
            except InputError as error:
                # Of bytes the decoder knows no name.
                text = str(error)
                return row_of_error(
                    name, text if text.startswith(name) else f"{name}: {text.partition(': ')[2] or text}"
                )
            return found if tiling is not None else self.pipeline.prepare(found)

        def good(results: Iterable[Any]) -> Iterator[Any]:
            for number, result in enumerate(results):
                if isinstance(result, dict):
                    bad.append((number, result))
                else:
                    yield result

        number = 0
        # With tiles an image is held while it is looked at, and no other beside it.
        with closing(ahead(read, _generated(part.items()), 0 if tiling else None)) as results:
            images = good(results)
            for detections in self.pipeline.tiled(images, tiling) if tiling else self.pipeline.found(images):
                while bad and bad[0][0] == number:
                    yield bad.popleft()[1]
                    number += 1
                yield row_of(detections)
                number += 1
            yield from (row for _, row in bad)


def schema() -> Any:
    """Of the files; docs/data-lake.md says what the columns mean."""
    import pyarrow as pa

    return pa.schema([
        pa.field("source", pa.string(), nullable=False),
        ("width", pa.int32()),
        ("height", pa.int32()),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("labels", pa.list_(pa.int32()), nullable=False),
        pa.field("names", pa.list_(pa.string()), nullable=False),
        ("error", pa.string()),
    ])  # fmt: skip


def row_of(found: Detections) -> dict[str, Any]:
    """Of an image that was looked at."""
    return {
        "source": found.source, "width": found.size[1], "height": found.size[0], "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(), "labels": found.labels.tolist(), "names": found.class_names, "error": None,
    }  # fmt: skip


def row_of_error(source: str, reason: str) -> dict[str, Any]:
    """Of an image that could not be read."""
    empty: dict[str, list[Any]] = {name: [] for name in ("boxes", "scores", "labels", "names")}
    return {"source": source, "width": None, "height": None, **empty, "error": reason}


def _generated(items: Iterable[Item]) -> Generator[Item, None, None]:
    yield from items


def _size(count: int) -> int:
    """Images of a part. It follows from the source alone: a job that goes on finds the same parts."""
    return min(max(-(-count // PARTS), 1), LARGEST)


def _is_file(name: str, live: bool) -> bool:
    if live or ADDRESS.match(name):
        raise InputError(f"{name}: workers look at files; cameras and addresses are for predict without --engine")
    return True


def _tables(source: Path) -> list[Path]:
    """The Parquet files that a source names: itself, or those of a folder, without what begins with `_` or `.`."""
    source = source.absolute()
    if source.is_dir():
        found = list_images(source, named=lambda name: name.lower().endswith(SUFFIX))
        return [path for path in found if not path.name.startswith(("_", "."))]
    return [source] if source.name.lower().endswith(SUFFIX) and source.is_file() else []


def _spans(table: Path, wanted: str | None) -> list[tuple[str, int, int, str]]:
    """(table, row group, its rows, column of the images)."""
    file = _opened(table)
    name, metadata = _column(table, file.schema_arrow.names, wanted), file.metadata
    return [(str(table), group, metadata.row_group(group).num_rows, name) for group in range(metadata.num_row_groups)]


def _column(table: Path, names: Sequence[str], wanted: str | None) -> str:
    """That of the images: bytes or paths, or a struct of both, as `datasets` writes it."""
    found = next((name for name in ((wanted,) if wanted else COLUMNS) if name in names), None)
    if found is None:
        listed = ", ".join(names[:20])
        raise InputError(f"{table}: has no column {wanted or 'image'!r}; it has {listed}: name one with --column")
    return found


def _opened(table: Path) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(table)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{table}: is not a Parquet file that can be read ({first_line(error)})") from None


def _of_row(value: Any, table: Path, row: int) -> Item:
    """A path is relative to the table's folder, or absolute, or else to the current folder."""
    held = value
    if isinstance(value, dict):
        held = value.get("bytes") or value.get("path")
    if isinstance(held, bytes):
        return f"{table}#{row}", held
    if isinstance(held, str) and held:
        beside = table.parent / held
        path = str(beside) if beside.exists() else held
        return path, path
    return f"{table}#{row}", None
