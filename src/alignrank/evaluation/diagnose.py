"""Rank diagnosis of any detector's COCO results: figures, a comparison of two, the HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignrank.class_names import listed
from alignrank.data.containment import relative_name
from alignrank.errors import InputError, nearest
from alignrank.evaluation.options import DiagnosisOptions
from alignrank.evaluation.rank_report import report_content
from alignrank.metrics import CocoInputs, Comparison, Diagnosis, Metrics, compare, read_inputs
from alignrank.metrics.inputs import Id, Source
from alignrank.report.html import write_html
from alignrank.terminal.progress import say, steps


@dataclass(frozen=True, slots=True)
class RankDiagnosis:
    """One or two results on the same ground truth. diagnoses: by name; comparison: of two, else None.

    images: a path for each image, None where there is none; absent if no folder was given.
    """

    diagnoses: dict[str, Diagnosis]
    comparison: Comparison | None
    images: Sequence[Path | None] | None
    notes: Sequence[str]

    @property
    def metrics(self) -> Metrics:
        """The figures of the first results."""
        return next(iter(self.diagnoses.values())).metrics

    def to_dict(self) -> dict[str, Any]:
        """`Metrics.to_dict`; of two results {dt, dt2, differences}, second minus first with 95 % intervals."""
        if self.comparison is None:
            return self.metrics.to_dict()
        first, second = (d.metrics.to_dict() for d in self.diagnoses.values())
        return {"dt": first, "dt2": second, "differences": self.comparison.to_dict()}

    def save(self, path: str | Path) -> Path:
        """Write the HTML report, one file that needs no network. Raises InputError if it cannot be written."""
        title = "Rank report: " + " and ".join(self.diagnoses)
        content = report_content(
            self.diagnoses, title=title, images=self.images, comparison=self.comparison, notes=self.notes
        )
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return write_html(content, path)
        except OSError as error:
            raise InputError(f"html: {path} cannot be written: {error.strerror}") from None


def diagnose(gt: Source, dt: Source, dt2: Source | None, options: DiagnosisOptions) -> RankDiagnosis:
    """Diagnose the COCO results `dt` against ground truth `gt`, beside those of a second detector `dt2` if given.

    gt, dt, dt2: paths of COCO JSON files, or the parsed objects. Raises InputError for unusable input.
    """
    sources = [dt] if dt2 is None else [dt, dt2]
    inputs = []
    with steps("reading", len(sources)) as advance:
        for source in sources:
            inputs.append(_chosen(read_inputs(gt, source), options.classes))
            advance()
    first, replicates = inputs[0], options.replicates
    say(f"{', '.join(f'{len(i.dt_scores):,}' for i in inputs)} detections in {len(first.image_ids):,} images")
    with steps("measuring", len(inputs) * Diagnosis.STEPS) as advance:
        diagnoses = {
            name: Diagnosis(
                i, max_dets=options.max_dets, tau=options.tau, gap=options.gap, conf=options.conf, advance=advance
            )
            for name, i in zip(_names(sources), inputs, strict=True)
        }
    comparison = None
    if dt2 is not None:
        with steps("comparing, on drawn images", replicates) as advance:
            comparison = compare(*diagnoses.values(), replicates=replicates, seed=options.seed, advance=advance)
    notes = [] if options.classes is None else [f"Only these classes: {', '.join(first.names)}."]
    if dt2 is not None:
        notes.append(f"Intervals: 95 %, from {replicates} draws of the images with replacement, seed {options.seed}.")
    folder = options.images
    files = None if folder is None else [_located(Path(folder), name) for name in first.image_files]
    return RankDiagnosis(diagnoses, comparison, files, notes)


def _chosen(inputs: CocoInputs, classes: Sequence[Id] | None) -> CocoInputs:
    if classes is None:
        return inputs
    by_name: dict[str, Id] = {str(category): category for category in inputs.category_ids}
    by_name |= dict(zip(inputs.names, inputs.category_ids, strict=True))
    wanted = listed(classes, by_name)
    unknown = [name for name in wanted if name not in by_name]
    if unknown or not wanted:
        given = repr(unknown[0]) if unknown else "none"
        raise InputError(f"classes: {given} is no class of the ground truth; {nearest(given, inputs.names)}")
    return inputs.only(list({by_name[name] for name in wanted}))


def _names(sources: Sequence[Source]) -> list[str]:
    """Names of the results: their files', with folders where the files' are equal."""
    if any(isinstance(source, dict | list) for source in sources):
        return ["dt", "dt2"][: len(sources)]
    paths = [Path(str(source)) for source in sources]
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [f"{path.parent.name}/{path.stem}" for path in paths]
    return names if len(set(names)) == len(names) else ["dt", "dt2"]


def _located(folder: Path, name: object) -> Path | None:
    """The image's file in `folder`, also without the folders in its name; None if it is not there."""
    try:
        plain = relative_name(name, where="ground truth", field="file_name")
    except InputError:
        return None
    return next((path for path in (folder / plain, folder / Path(plain).name) if path.is_file()), None)
