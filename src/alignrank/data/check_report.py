"""`alignrank data check`: the report in lines, as JSON and as pictures, and the cleaned copy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.text import Text

from alignrank.data import check as checking
from alignrank.data.clean import cleaned
from alignrank.data.convert import convert, new_folder, write_json
from alignrank.data.decode import decode
from alignrank.data.faults import KINDS, Box
from alignrank.data.problems import Problem
from alignrank.data.samples import Array, Sample
from alignrank.drawing import draw_boxes
from alignrank.errors import InputError, printable
from alignrank.folders import new_file
from alignrank.report.pictures import sheet
from alignrank.terminal.progress import console, say, steps

MAX_PICTURES, MAX_PAIRS = 24, 16
# Examples of a problem on the terminal; the JSON has more.
MAX_SHOWN = 3
# Longer side of a picture, px.
_SIDE = 1280
_MARGIN_GREY = 200


def check(data: str, *, out: Path | None = None, fix: Path | None = None) -> dict[str, Any]:
    """Check a data set; what `data check --json` prints.

    out: new folder for report.json, pictures of the images with the most problems, and a sheet of images
    that are in several splits. fix: new folder for a cleaned copy in COCO form; the data set itself is
    never written to. Raises InputError if the data set cannot be read at all, if `out` or `fix` exist
    or lie in the data set's folder.
    """
    for option, folder in (("--out", out), ("--fix", fix)):
        if folder is not None:
            _refuse_inside(data, new_file(folder, option), option)
    if out is not None and fix is not None and out.resolve() == fix.resolve():
        raise InputError(f"--fix: {fix} is the folder of --out, too; choose another one")
    report = checking.check(data, steps=steps)
    result = report.to_dict()
    _say_report(report, result)
    if fix is not None:
        with steps("writing the cleaned copy", None):
            written = convert(cleaned(report), fix, "coco")
        result["fixed"] = {"out": str(fix), "images": written.images, "objects": written.boxes}
        say(f"wrote {written.images:,} images and {written.boxes:,} objects to {fix}")
    if out is not None:
        _write(report, result, out)
        say(f"wrote {out / 'report.json'}" + (f" and pictures to {out}" if any(out.glob("*.jpg")) else ""))
    return result


def _refuse_inside(data: str, folder: Path, option: str) -> None:
    """A folder made in the data set's own would become a part of it."""
    whole = Path(data).resolve() if data != "digits" and Path(data).is_dir() else None
    if whole is not None and folder.resolve().is_relative_to(whole):
        raise InputError(f"{option}: {folder} lies in the data set {data}; choose a folder elsewhere")


def _say_report(report: checking.CheckReport, result: dict[str, Any]) -> None:
    splits = ", ".join(f"{name} {counts['images']:,}" for name, counts in result["splits"].items())
    totals = f"{result['images']:,} images ({splits}), {result['objects']:,} objects"
    classes = len(report.source.classes)
    say(f"{result['data']}: {result['format']}, {totals}, {classes} class{'es' * (classes != 1)}")
    for problem in report.problems:
        _say_problem(problem)
    errors, warnings = (
        sum(problem.count for problem in report.problems if problem.severity == severity)
        for severity in ("error", "warning")
    )
    found = f"{_counted(errors, 'error')}, {_counted(warnings, 'warning')}"
    say(found + (": training would refuse this data set" if errors else ""))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}" if count else f"no {noun}s"


def _say_problem(problem: Problem) -> None:
    """A problem and its first examples. Lines are not broken: names of files stay whole, to be copied or searched."""
    kind, style = KINDS[problem.kind], "red" if problem.severity == "error" else ""
    lines = [f"{kind.meaning}: {problem.count:,} (training: {kind.training})"]
    lines += [f"  {printable(example)}" for example in problem.examples[:MAX_SHOWN]]
    if problem.count > MAX_SHOWN:
        lines.append(f"  and {problem.count - MAX_SHOWN:,} more")
    for line in lines:
        # Text, not markup: names of files hold brackets.
        console().print(Text(line, style=style), soft_wrap=True)


def _printable(text: str) -> str:
    """Without what a file's name should not hold."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def _write(report: checking.CheckReport, result: dict[str, Any], out: Path) -> None:
    with new_folder(out) as folder:
        try:
            write_json(folder / "report.json", result)
            _write_pictures(report, folder)
            _write_pairs(report, folder / "copies.jpg")
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror or error})") from None


def _write_pictures(report: checking.CheckReport, folder: Path) -> None:
    """Pictures of the images with the most problems, those that do not decode left out."""
    splits = report.source.splits().values()
    samples = {sample.image: sample for split in splits for sample in split.samples}
    worst = [image for image in report.collected.worst_images() if report.collected.marks.get(image)]
    number = 0
    with steps("drawing", min(len(worst), MAX_PICTURES)) as advance:
        for image in worst:
            if number == MAX_PICTURES:
                break
            try:
                pixels = decode(image)
            except InputError:
                continue
            number += 1
            picture = _drawn(pixels, samples.get(image), report.collected.marks[image], report.source.classes)
            name = f"{number:02d}_{_printable(image.stem[:80])}.jpg"
            Image.fromarray(picture).save(folder / name, quality=90)
            advance()


def _drawn(pixels: Array, sample: Sample | None, marks: list[tuple[Box, str]], classes: tuple[str, ...]) -> Array:
    """uint8 [H,W,3]: the image with its usable boxes, and on top, on a margin where needed, what is wrong."""
    scale = min(1.0, _SIDE / max(pixels.shape[:2]))
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    wrong = np.array([box for box, _ in marks], np.float64).reshape(-1, 4) * scale
    canvas, (left, top) = _with_margin(pixels, wrong)
    shift = np.array([left, top, left, top])
    if sample is not None:
        canvas = draw_boxes(canvas, sample.boxes * scale + shift, sample.labels, classes, enlarge=True)
    # `draw_boxes` enlarges a small image; the second call finds it large enough.
    enlarged = canvas.shape[1] / (pixels.shape[1] + 2 * left)
    # What is wrong gets colours of its own behind those of the classes.
    names = list(dict.fromkeys([*classes, *(text for _, text in marks)]))
    labels = np.array([names.index(text) for _, text in marks])
    height, width = canvas.shape[:2]
    boxes = np.sort(((wrong + shift) * enlarged).reshape(-1, 2, 2), axis=1).reshape(-1, 4)
    # A box without width is a line of two pixels.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
    boxes = np.clip(boxes, 0, [width - 1, height - 1] * 2)
    return draw_boxes(canvas, boxes, labels, names, enlarge=True)


def _with_margin(pixels: Array, boxes: Array) -> tuple[Array, tuple[int, int]]:
    """The image on a grey margin that shows boxes beyond it, half the image at most; the margin's (x, y)."""
    height, width = pixels.shape[:2]
    beyond = np.maximum(-boxes[:, :2], boxes[:, 2:] - [width, height]).max(0, initial=0)
    x, y = (int(np.ceil(min(value, side / 2))) for value, side in zip(beyond, (width, height), strict=True))
    return np.pad(pixels, ((y, y), (x, x), (0, 0)), constant_values=_MARGIN_GREY), (x, y)


def _write_pairs(report: checking.CheckReport, path: Path) -> None:
    """Images that are in several splits, each beside the one it is like."""
    pairs = [copy for copy in report.copies if copy.split != copy.other_split and copy.image != copy.other]
    images, captions = [], []
    for copy in pairs[:MAX_PAIRS]:
        for split, image in ((copy.split, copy.image), (copy.other_split, copy.other)):
            images.append(_reduced(decode(image)))
            captions.append(f"{split}: {image.name}")
    if images:
        sheet(images, path, columns=4 if len(images) > 2 else 2, captions=captions, tile=320)


def _reduced(pixels: Array) -> Array:
    """At most 640 px on the longer side, so that a sheet of photographs fits into memory."""
    image = Image.fromarray(pixels)
    image.thumbnail((640, 640), Image.Resampling.BOX)
    return np.array(image)
