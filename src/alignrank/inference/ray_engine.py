"""`predict --engine ray`: parts of a source over an actor pool of Ray Data, results as a folder of Parquet files."""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alignrank.cores import usable_cores
from alignrank.errors import InputError, WorkerError, first_line
from alignrank.export.runtimes import ready
from alignrank.extras import require
from alignrank.folders import BESIDE, check_place, is_free, locked, make_folder, replacing
from alignrank.inference.lake import Part, Worker, parts_of
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import pipeline
from alignrank.terminal.progress import say, steps
from alignrank.terminal.skipped import say_processed
from alignrank.weights.catalog import weights_file
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import SelectionOptions

# Reasons that are kept in memory, of images that cannot be read.
NAMED = 1000
# What readers of Parquet pass over: names that begin with `_`.
JOB = "_job.json"
# How often a part is tried again whose worker has died: pictures may be what kills it.
TRIES = 3
# What Ray keeps account of, each of one part or several.
BLOCKS = 10_000
# Ray waits 30 s for itself; on a busy machine that is too short for the first time, which reads its files.
STARTS = 3
# Parts are names; this is the least that Ray takes.
STORE_BYTES = 80 * 1024**2
TELEMETRY_OFF = {"RAY_USAGE_STATS_ENABLED": "0"}
# Its own processes' notices to its own users.
QUIET = {"RAY_BACKEND_LOG_LEVEL": "fatal"}
# Ray listens on the loopback where it takes itself for one machine's only; the variable has its name from the systems
# on which that is so by default. Elsewhere it takes 127.0.0.1 for a mistake.
ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def predict_to_parquet(
    sources: Sequence[str],
    weights: Path | Checkpoint,
    options: PredictOptions,
    *,
    selection: SelectionOptions,
    device: str = "auto",
    out: str | None = None,
    pool: tuple[int, str | None] = (1, None),
) -> dict[str, Any]:
    """Detect in all images of `sources`, and write a Parquet file for each part of them to the folder `out`.

    pool: workers, and the column of Parquet files that holds images. A folder in which the same job was stopped is gone
    on with. Returns {out, processed, objects, skipped}. Raises InputError, and WorkerError for a part whose workers
    died again and again.
    """
    require("ray", "ray", "pyarrow")
    workers, column = pool
    if out is None:
        raise InputError("out: must be given with --engine ray, the folder for Parquet files")
    if isinstance(weights, Path):
        weights = weights_file(weights).absolute()
    options = replace(options, keep_images=False, report_skipped=False)
    pipeline(ready(weights, "cpu", selection), options)  # what is wrong with them is known before workers start
    parts = parts_of(sources, column)
    folder = Path(out)
    check_place(folder, "out")
    about = _about(sources, weights, options, selection, parts)
    _check(folder, about)
    make_folder(folder, "out")
    with locked(folder):
        with replacing(folder / JOB) as path:
            path.write_text(json.dumps(about, indent=1), encoding="utf-8")
        missing = [part for part in parts if not (folder / part.file).is_file()]
        if len(missing) < len(parts):
            say(f"{folder}: goes on, {len(parts) - len(missing)} of {len(parts)} parts are there")
        made = (weights, options, selection, device, folder.absolute())
        try:
            if missing:
                with _cluster(workers) as ray, steps("predicting, in parts", len(missing)) as advance:
                    for _ in _done(ray, missing, made, workers):
                        advance()
        finally:
            for left in folder.glob(f"*{BESIDE}"):  # by workers that were killed
                left.unlink()
        return _result(folder, parts)


def _done(ray: Any, parts: Sequence[Part], made: tuple[Any, ...], workers: int) -> Iterator[str]:
    """The file of each part, as soon as it is there, in any order."""
    resources = ray.cluster_resources()
    cores = max(1, int(resources.get("CPU", 1)) // workers)
    gpus = min(1.0, resources.get("GPU", 0) / workers) if made[3] != "cpu" else 0
    data = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=min(len(parts), BLOCKS))
    with warnings.catch_warnings():
        # Another way to bound retries is announced for Ray 2.64, and not there yet: the extra ends before it.
        warnings.simplefilter("ignore")
        found = data.map_batches(
            _Actor,
            fn_constructor_args=made,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=cores,
            num_gpus=gpus,
            ray_remote_args_fn=_patience,
        )
    try:
        for row in found.iter_rows():
            yield str(row["file"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, InputError):
            raise InputError(str(cause)) from None
        raise WorkerError(
            f"workers failed {TRIES + 1} times over the same images ({first_line(cause or error)}); parts that are "
            "done are kept: the same command goes on"
        ) from None


def _patience() -> dict[str, int]:
    """Workers are started again as often as they die, but not over the same part."""
    return {"max_restarts": -1, "max_task_retries": TRIES}


class _Actor:
    """What Ray calls: batches of one part."""

    def __init__(self, *made: Any) -> None:
        self.worker = Worker(*made)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        (part,) = batch["part"]
        if not (self.worker.out / part.file).is_file():  # else another worker has died behind it
            self.worker(part)
        return {"file": [part.file]}


@contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    """Ray, on this machine alone and reachable from it only, unless RAY_ADDRESS names a cluster."""
    address = os.environ.get("RAY_ADDRESS")
    os.environ.update(TELEMETRY_OFF | QUIET | ({} if address else ALONE))
    import ray
    import ray.data

    # Ray tells of workers that died on stdout, which is for results.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        redirect_stdout(sys.stderr),
    ):
        own: dict[str, Any] = {
            "address": "local", "include_dashboard": False, "num_cpus": max(usable_cores(), workers),
            "object_store_memory": STORE_BYTES, "_node_ip_address": "127.0.0.1", "_temp_dir": folder,
        }  # fmt: skip
        for left in reversed(range(STARTS)):
            try:
                given: dict[str, Any] = {"address": address} if address else own
                ray.init(**given, log_to_driver=False, logging_level=logging.CRITICAL)
                break
            except Exception as error:  # of any kind: no room, no answer, another version
                ray.shutdown()
                if not left:
                    raise WorkerError(f"Ray did not start ({first_line(error)})") from None
        try:
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            yield ray
        finally:
            ray.shutdown()


def _about(
    sources: Sequence[str], weights: Path | Checkpoint, options: PredictOptions, selection: SelectionOptions,
    parts: Sequence[Part],
) -> dict[str, Any]:  # fmt: skip
    """All that decides what the files hold."""
    named = [str(weights), weights.stat().st_mtime_ns] if isinstance(weights, Path) else [weights.recipe.name]
    asked: dict[str, Any] = json.loads(json.dumps({"options": asdict(options), "selection": asdict(selection)}))
    asked["options"].pop("batch")
    return {"sources": [*sources], "weights": named, **asked, "parts": len(parts), "images": sum(map(len, parts))}


def _check(folder: Path, about: Mapping[str, Any]) -> None:
    """Raises InputError where the folder holds something else than the beginning of this job."""
    if is_free(folder):
        return
    try:
        there = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"out: {folder} already exists and is not empty; choose another folder") from None
    other = next((name for name in about if there.get(name) != about[name]), None)
    if other is not None:
        raise InputError(f"out: {folder} holds another job, of other {other}; choose another folder")


def _result(folder: Path, parts: Sequence[Part]) -> dict[str, Any]:
    """Counts of all parts, also of those that were there; what could not be read is told."""
    from pyarrow import compute, dataset

    objects = images = 0
    skipped: list[tuple[str, str]] = []
    table = dataset.dataset([str(folder / part.file) for part in parts], format="parquet")
    for batch in table.to_batches(columns=["scores", "error"]):
        images += batch.num_rows
        objects += len(compute.list_flatten(batch.column("scores")))
        reasons = batch.column("error").drop_null()
        new = [("image", text) for text in reasons[: max(NAMED - len(skipped), 0)].to_pylist()]
        skipped += new + [("image", "others: their rows say why")] * (len(reasons) - len(new))
    say(f"results are in {folder}")
    say_processed(images - len(skipped), objects, skipped)
    return {
        "out": str(folder), "processed": images - len(skipped), "objects": objects, "skipped": {"image": len(skipped)},
    }  # fmt: skip
