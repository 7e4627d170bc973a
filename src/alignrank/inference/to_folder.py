"""`predict`: everything that sources name, into a folder of pictures and results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignrank.contracts import Detections
from alignrank.errors import InputError
from alignrank.export.runtimes import ready
from alignrank.folders import new_run_folder
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import predict
from alignrank.inference.results import write_results
from alignrank.inference.sources import Sources
from alignrank.terminal.progress import say
from alignrank.terminal.skipped import say_processed
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import SelectionOptions


def predict_to_folder(
    sources: Sequence[str],
    weights: Path | Checkpoint,
    options: PredictOptions,
    *,
    out: str | None = None,
    device: str = "auto",
    selection: SelectionOptions | None = None,
    collect: bool = False,
) -> dict[str, Any]:
    """Detect in everything `sources` name and write the results to a new folder, with pictures if `keep_images`.

    Returns {images, processed, skipped}; the detections of `images` only if `collect`, else the memory is constant.
    """
    detector = ready(weights, device, selection or SelectionOptions())
    opened = Sources([*sources])
    found = predict(detector, opened, replace(options, report_skipped=False))
    images: list[dict[str, Any]] = []

    def collected() -> Iterator[Detections]:
        with closing(found):
            for detections in found:
                if collect:
                    images.append(detections.to_dict())
                yield detections

    with new_run_folder(out, "predict" if options.tracking is None else "track") as folder:
        try:
            written = write_results(collected(), folder, pictures=options.keep_images, sources=opened)
        except BaseException as error:
            if not isinstance(error, InputError):
                opened.skips.report()
            raise
    say(f"results are in {written.out}")
    for line in opened.skips.first_in_words():
        say(line)
    say_processed(written.images, written.objects, opened.skips.items)
    return {"images": images, "processed": written.images, "skipped": {"image": 0} | opened.skips.counts}
