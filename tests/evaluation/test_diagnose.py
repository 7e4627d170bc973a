"""`alignrank diagnose` and `alignrank.diagnose`: from files to figures, JSON and the report; bad input."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import alignrank
from alignrank.cli import app
from alignrank.errors import InputError
from alignrank.evaluation.options import DiagnosisOptions

NAMES = ("cell", "<b>odd</b> & name")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images with two objects each; in a.json the worse of two boxes often scores better, in b.json never."""
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "sub").mkdir(parents=True)
    images, annotations = [], []
    first: list[dict[str, Any]] = []
    second: list[dict[str, Any]] = []
    for image in range(1, 9):
        name = f"sub/im{image}.png" if image % 2 else f"im{image}.png"
        Image.fromarray(rng.integers(0, 255, (120, 160, 3), dtype=np.uint8)).save(tmp_path / "images" / name)
        images.append({"id": image, "file_name": name, "width": 160, "height": 120})
        for category, box in ((3, [10.0, 10.0, 50.0, 40.0]), (7, [90.0, 60.0, 40.0, 40.0])):
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                }
            )
            row = {"image_id": image, "category_id": category}
            worse = [box[0] + 8, box[1], box[2], box[3]]
            high, low = 0.9 - 0.01 * image, 0.5 - 0.01 * image
            swapped = image % 2 == 0
            first += [row | {"bbox": box, "score": low if swapped else high}]
            first += [row | {"bbox": worse, "score": high if swapped else low}]
            second += [row | {"bbox": box, "score": high}, row | {"bbox": worse, "score": low}]
    categories = [{"id": 3, "name": NAMES[0]}, {"id": 7, "name": NAMES[1]}]
    for name, content in (
        ("gt", {"images": images, "annotations": annotations, "categories": categories}),
        ("a", first),
        ("b", second),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def invoke(*arguments: object, code: int = 0) -> tuple[str, str]:
    """stdout, stderr; errors of ours are raised."""
    result = CliRunner().invoke(app, ["diagnose", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_one_results_file(folder: Path) -> None:
    """In half of the images the pairs are the wrong way round: mis-ranked .5. The worse boxes are shifted by 8 px: IoU
    42/58 and 32/48. Those images lose 1 - 42/58 and 1 - 32/48, and the mean is half of the mean of the two.
    """
    stdout, stderr = invoke("--gt", folder / "gt.json", "--dt", folder / "a.json", "--json")
    found = json.loads(stdout)
    assert found["rank"]["misranked"] == pytest.approx(0.5)
    assert found["rank"]["best_box_missed"] == pytest.approx(0.5)
    lost = (1 - 42 / 58) / 2 + (1 - 32 / 48) / 2
    assert found["rank"]["iou_lost"] == pytest.approx(lost / 2)
    assert found["per_class"]["3"]["name"] == "cell"
    assert found["max_dets"] == 100
    assert "mis-ranked pairs" in stderr
    assert "0.500" in stderr


def test_two_results_files(folder: Path) -> None:
    stdout, stderr = invoke(
        "--gt", folder / "gt.json", "--dt", folder / "a.json", "--dt2", folder / "b.json", "--json", "--replicates", 30
    )
    found = json.loads(stdout)
    assert set(found) == {"dt", "dt2", "differences"}
    gap = found["differences"]["figures"]["rank.misranked"]
    assert gap["difference"] == pytest.approx(-0.5)
    assert gap["low"] <= gap["difference"] <= gap["high"] < 0
    assert found["differences"]["per_class"]["3"]["ap"]["difference"] > 0
    assert re.search(r"first: a\nsecond: b", stderr)
    errors = found["differences"]["detection_errors"]
    assert [errors[of]["tp"] for of in ("dt", "dt2", "difference")] == [16, 16, 0]
    # The worse boxes of images with the right order score below .5; where they are swapped, the better ones do.
    assert re.search(r"^ *second +16 +0 +0 +1\.000 +1\.000 +1\.000 *$", stderr, re.MULTILINE)
    gain = found["differences"]["gains"]["ap_medium"]
    assert gain["absolute"] == found["dt2"]["ap_medium"] - found["dt"]["ap_medium"]
    assert f"{100 * gain['relative']:+.1f} %" in stderr
    again, _ = invoke(
        "--gt", folder / "gt.json", "--dt", folder / "a.json", "--dt2", folder / "b.json", "--json", "--replicates", 30
    )
    assert again == stdout


def test_some_classes(folder: Path) -> None:
    for given in (NAMES[0], "3"):
        stdout, _ = invoke("--gt", folder / "gt.json", "--dt", folder / "a.json", "--json", "--classes", given)
        assert list(json.loads(stdout)["per_class"]) == ["3"]


def test_classes_with_commas_in_their_names(folder: Path) -> None:
    """Whole where a class has that name, else parts; by several options, too; also for the function."""
    truth = json.loads((folder / "gt.json").read_text())
    truth["categories"][1]["name"] = "cell, large"
    (folder / "gt.json").write_text(json.dumps(truth))
    for given, expected in (
        (["cell, large"], ["7"]),
        (["cell", "cell, large"], ["3", "7"]),
        (["cell,cell, large"], ["3", "7"]),
        (["3,7"], ["3", "7"]),
    ):
        options = [word for text in given for word in ("--classes", text)]
        stdout, _ = invoke("--gt", folder / "gt.json", "--dt", folder / "a.json", "--json", *options)
        assert list(json.loads(stdout)["per_class"]) == expected
    result = alignrank.diagnose(truth, str(folder / "a.json"), classes="cell, large")
    assert list(result.to_dict()["per_class"]) == [7]


def test_the_report_shows_misranked_objects(folder: Path) -> None:
    report = folder / "new" / "report.html"
    invoke("--gt", folder / "gt.json", "--dt", folder / "a.json", "--images", folder / "images", "--html", report)
    text = report.read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 8  # two objects in each of the four images with swapped scores
    assert "im2.png" in text
    assert NAMES[1] not in text
    assert "&lt;b&gt;odd" in text


def test_pictures_that_are_missing_are_counted(folder: Path) -> None:
    (folder / "images" / "im2.png").unlink()
    (folder / "images" / "im4.png").write_bytes(b"no image")
    report = folder / "report.html"
    _, stderr = invoke(
        "--gt", folder / "gt.json", "--dt", folder / "a.json", "--images", folder / "images", "--html", report
    )
    assert "skipped pictures of 2 images, the first: image 2 has no file in the folder" in stderr
    assert report.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 4


def test_file_names_do_not_lead_out_of_the_folder(folder: Path) -> None:
    truth = json.loads((folder / "gt.json").read_text())
    Image.new("RGB", (160, 120)).save(folder / "secret.png")
    for record in truth["images"]:
        record["file_name"] = "../secret.png"
    (folder / "gt.json").write_text(json.dumps(truth))
    report = folder / "report.html"
    invoke("--gt", folder / "gt.json", "--dt", folder / "a.json", "--images", folder / "images", "--html", report)
    assert "data:image/jpeg" not in report.read_text(encoding="utf-8")


def test_as_a_function(folder: Path) -> None:
    result = alignrank.diagnose(folder / "gt.json", folder / "a.json", folder / "b.json", replicates=0, tau=0.75)
    assert result.comparison is not None
    assert result.comparison.figures["ap"].low is None
    assert result.to_dict()["dt2"]["rank"]["misranked"] == 0
    assert result.save(folder / "two.html").stat().st_size < 15e6
    parsed = [json.loads((folder / f"{name}.json").read_text()) for name in ("gt", "a")]
    assert alignrank.diagnose(*parsed).metrics.ap == result.metrics.ap


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dt", "none.json"], "none.json: cannot be read (No such file"),
        (["--dt", "gt.json"], "gt.json: not COCO detections"),
        (["--dt", "a.json", "--classes", "cel"], "did you mean 'cell'"),
        (["--dt", "a.json", "--images", "nowhere"], "images: nowhere is not a folder"),
        (["--dt", "a.json", "--html", "a.json"], "html: a.json already exists"),
        (["--dt", "a.json", "--max-dets", "0"], "max_dets: must be at least 1"),
        (["--dt", "a.json", "--tau", "1"], "tau: must be between 0 and 1"),
        (["--dt", "a.json", "--gap", "-1"], "gap: must be from 0 to 1"),
        (["--dt", "a.json", "--conf", "nan"], "conf: must be from 0 to 1"),
        (["--dt", "a.json", "--replicates", "-1"], "replicates: must be at least 0"),
    ],
)
def test_bad_input(folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=re.escape(message)):
        invoke("--gt", "gt.json", *arguments)
    assert sorted(folder.rglob("*")) == before


def test_defaults_are_those_of_the_record() -> None:
    """The function and the command line write them out, for their readers."""
    record = {field.name: field.default for field in dataclasses.fields(DiagnosisOptions)}
    function = {name: p.default for name, p in inspect.signature(alignrank.diagnose).parameters.items()}
    verb = {parameter.name: parameter.default for parameter in typer.main.get_command(app).commands["diagnose"].params}
    assert {name: function[name] for name in record} == record
    assert {name: verb[name] for name in record} == record
