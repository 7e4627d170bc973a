"""`data check`: every kind of problem, planted in a clean data set, is found with its count."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from alignrank import cli
from alignrank.data import problems
from alignrank.data.check import check
from alignrank.data.faults import KINDS
from alignrank.errors import InputError

SHARED = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).resolve().parents[3] / "shared"))
NUM_TRAIN, NUM_VAL = 6, 3
WIDTH, HEIGHT = 160, 120


def _picture(seed: int) -> bytes:
    """A JPEG that is like no other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    image = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    with io.BytesIO() as stream:
        image.save(stream, "JPEG", quality=90)
        return stream.getvalue()


def _names(split: str) -> list[str]:
    return [f"{split}{i}" for i in range(NUM_TRAIN if split == "train" else NUM_VAL)]


SPLITS = ("train", "val")


def make_coco(root: Path) -> None:
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for number, split in enumerate(SPLITS):
        images, annotations = [], []
        for i, name in enumerate(_names(split)):
            (root / "images" / f"{name}.jpg").write_bytes(_picture(100 * number + i))
            images.append({"id": i + 1, "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT})
            for k in range(2):
                box = [10 + i, 20 + 30 * k, 40, 25]
                annotations.append({"id": 2 * i + k + 1, "image_id": i + 1, "category_id": k + 1, "bbox": box})
        categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(document))


def make_yolo(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for i, name in enumerate(_names(split)):
            (root / "images" / split / f"{name}.jpg").write_bytes(_picture(100 * number + i))
            (root / "labels" / split / f"{name}.txt").write_text("0 0.3 0.3 0.2 0.2\n1 0.6 0.6 0.3 0.3\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")


def make_voc(root: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("cat\ndog\n")
    for number, split in enumerate(SPLITS):
        for i, name in enumerate(_names(split)):
            (root / "JPEGImages" / f"{name}.jpg").write_bytes(_picture(100 * number + i))
            things = "".join(
                f"<object><name>{thing}</name><bndbox><xmin>{x}</xmin><ymin>11</ymin>"
                f"<xmax>{x + 40}</xmax><ymax>50</ymax></bndbox></object>\n"
                for thing, x in (("cat", 21), ("dog", 81))
            )
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
            (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}\n{things}</annotation>\n")
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in _names(split)))


def make_visdrone(root: Path) -> None:
    for number, split in enumerate(SPLITS):
        folder = root / f"VisDrone2019-DET-{split}"
        for kind in ("images", "annotations"):
            (folder / kind).mkdir(parents=True)
        for i, name in enumerate(_names(split)):
            (folder / "images" / f"{name}.jpg").write_bytes(_picture(100 * number + i))
            lines = [f"{10 + 10 * k},20,12,14,1,{k + 1},0,0\n" for k in range(10)]
            (folder / "annotations" / f"{name}.txt").write_text("".join(lines))


MAKERS: dict[str, Callable[[Path], None]] = {
    "coco": make_coco, "yolo": make_yolo, "voc": make_voc, "visdrone": make_visdrone
}  # fmt: skip


def counts(path: Path | str) -> dict[str, int]:
    return {problem.kind: problem.count for problem in check(path).problems}


def run(*words: object) -> tuple[int, dict[str, Any], str]:
    """Exit code, the JSON on stdout, stderr of `alignrank data check WORDS --json`."""
    result = CliRunner().invoke(cli.app, ["data", "check", *map(str, words), "--json"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.stdout), result.stderr


def tree(root: Path) -> dict[str, bytes]:
    """Content of every file by its name below `root`."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).digest() for path in files}


@pytest.mark.parametrize("form", MAKERS)
def test_a_clean_set_has_no_problems(form: str, tmp_path: Path) -> None:
    MAKERS[form](tmp_path / "d")
    report = check(tmp_path / "d")
    assert (report.ok, report.problems, report.source.format) == (True, [], form)
    assert report.to_dict()["images"] == NUM_TRAIN + NUM_VAL


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put(section: str, *changes: tuple[int, str, Any]) -> Callable[[Path], None]:
    """Set fields of records of train.json; "DELETE" removes one."""

    def change(document: dict[str, Any]) -> None:
        for index, key, value in changes:
            if value == "DELETE":
                del document[section][index][key]
            else:
                document[section][index][key] = value

    return lambda root: edit_json(root / "annotations/train.json", change)


def add(section: str, *indices: int, **fields: Any) -> Callable[[Path], None]:
    """Repeat records of train.json with other fields."""

    def change(document: dict[str, Any]) -> None:
        for index in indices:
            new_id = {"id": 1000 + len(document[section])} if section == "annotations" else {}
            document[section].append(document[section][index] | new_id | fields)

    return lambda root: edit_json(root / "annotations/train.json", change)


def copy_image(source: str, target: str, quality: int | None = None) -> Callable[[Path], None]:
    """Put the image `source` in the place of `target`, compressed again with another quality if one is given."""

    def change(root: Path) -> None:
        content = (root / "images" / source).read_bytes()
        (root / "images" / target).write_bytes(content)
        if quality is not None:
            Image.open(io.BytesIO(content)).save(root / "images" / target, quality=quality)

    return change


def cut_off(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            path = root / "images" / name
            path.write_bytes(path.read_bytes()[:-200])

    return change


def one_class(*, keep: int) -> Callable[[Path], None]:
    """Leave `keep` dogs in train and add cats until there are more than a hundred times as many."""

    def change(document: dict[str, Any]) -> None:
        cats = [a for a in document["annotations"] if a["category_id"] == 1]
        dogs = [a for a in document["annotations"] if a["category_id"] == 2][:keep]
        more = [{**cats[0], "id": 1000 + i, "bbox": [i % 100, i // 100, 20 + i % 7, 20]} for i in range(200)]
        document["annotations"] = cats + dogs + more

    return lambda root: edit_json(root / "annotations/train.json", change)


NAN, INF = float("nan"), float("inf")
# What is done to the clean COCO set, and all that must be found then.
COCO_CASES: dict[str, tuple[Callable[[Path], None], dict[str, int]]] = {
    "truncated": (cut_off("train0.jpg", "train2.jpg"), {"unreadable_image": 2}),
    "no image": (lambda root: (root / "images/val1.jpg").write_text("text"), {"unreadable_image": 1}),
    "absent": (lambda root: (root / "images/val1.jpg").unlink(), {"missing_image": 1}),
    "size": (put("images", (1, "width", 161), (4, "height", 1000)), {"wrong_size": 2}),
    "size field": (put("images", (1, "width", -3)), {"invalid_record": 1}),
    "degenerate": (
        put("annotations", (0, "bbox", [5, 5, 0, 9]), (3, "bbox", [9, 9, -4, 5]), (4, "bbox", [9, 9, 4, 0])),
        {"degenerate_box": 3},
    ),
    "outside": (put("annotations", (0, "bbox", [170, 5, 10, 9]), (3, "bbox", [9, -40, 4, 5])), {"outside_box": 2}),
    "clipped": (put("annotations", (0, "bbox", [150, 5, 20, 9]), (3, "bbox", [-2, 4, 9, 5])), {"clipped_box": 2}),
    "NaN": (
        put("annotations", (0, "bbox", [NAN, 5, 9, 9]), (3, "bbox", [4, 4, INF, 5]), (5, "bbox", [4, -INF, 3, 5])),
        {"non_finite": 3},
    ),
    "no numbers": (
        put("annotations", (0, "bbox", [1, 2, 3]), (3, "bbox", "1 2 3 4"), (5, "bbox", "DELETE")),
        {"invalid_record": 3},
    ),
    "class": (put("annotations", (0, "category_id", 9), (3, "category_id", 0)), {"unknown_class": 2}),
    "class type": (put("annotations", (0, "category_id", "1")), {"invalid_record": 1}),
    "image id": (put("annotations", (0, "image_id", 99)), {"unknown_image": 1}),
    "two faults of one record": (
        put("annotations", (0, "category_id", 9), (0, "bbox", None), (0, "image_id", 99)),
        {"unknown_image": 1, "unknown_class": 1, "invalid_record": 1},
    ),
    "duplicate image id": (add("images", 0, 1), {"duplicate_image_id": 2}),
    "duplicate annotation id": (put("annotations", (0, "id", 5), (1, "id", 5)), {"duplicate_annotation_id": 2}),
    "duplicate box": (add("annotations", 0, 0, 3), {"duplicate_box": 3}),
    "the same box, another class": (add("annotations", 0, category_id=2), {}),
    "duplicate class id": (add("categories", 0, name="bird"), {"duplicate_class": 1}),
    "duplicate class name": (add("categories", 0, id=7), {"duplicate_class": 1}),
    "file name": (
        put("images", (0, "file_name", "../x.jpg"), (1, "file_name", "/etc/passwd"), (2, "file_name", "http://a/b.jpg")),
        {"unsafe_path": 3},
    ),
    "no file name": (put("images", (0, "file_name", "DELETE")), {"invalid_record": 1}),
    "equal across splits": (copy_image("train1.jpg", "val2.jpg"), {"leaked_image": 1}),
    "nearly equal across splits": (copy_image("train1.jpg", "val2.jpg", 60), {"near_leaked_image": 1}),
    "equal in a split": (copy_image("train1.jpg", "train2.jpg"), {"duplicate_image": 1}),
    "nearly equal in a split": (copy_image("train1.jpg", "train2.jpg", 60), {}),
    "unlabelled": (
        lambda root: edit_json(root / "annotations/train.json", lambda d: d["annotations"].__delitem__(slice(0, 4))),
        {"unlabelled_image": 2},
    ),
    "class without objects": (add("categories", 0, id=7, name="bird"), {"class_without_objects": 1}),
    "class without objects in train": (one_class(keep=0), {"class_without_objects": 1}),
    "imbalance": (one_class(keep=2), {"class_imbalance": 1}),
    "no objects": (
        lambda root: edit_json(root / "annotations/train.json", lambda d: d["annotations"].clear()),
        {"no_objects": 1, "class_without_objects": 2, "unlabelled_image": NUM_TRAIN},
    ),
    "class conflict": (put("categories", (0, "name", "bird")), {"class_conflict": 1}),
    "broken split": (lambda root: (root / "annotations/val.json").write_text("{"), {"unreadable_split": 1}),
    "no usable image": (
        cut_off(*(f"{name}.jpg" for name in _names("val"))),
        {"unreadable_image": NUM_VAL, "no_images": 1, "class_without_objects": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COCO_CASES)
def test_each_kind_of_problem_is_counted(case: str, tmp_path: Path) -> None:
    plant, expected = COCO_CASES[case]
    make_coco(tmp_path)
    plant(tmp_path)
    report = check(tmp_path)
    assert {problem.kind: problem.count for problem in report.problems} == expected
    assert report.ok == all(KINDS[kind].training != "refuses" for kind in expected)
    for problem in report.problems:
        assert len(problem.examples) == problem.count


def test_several_kinds_at_once(tmp_path: Path) -> None:
    make_coco(tmp_path)
    put("annotations", (6, "category_id", 9), (7, "bbox", [NAN, 1, 1, 1]), (8, "bbox", [1, 1, 0, 4]))(tmp_path)
    add("annotations", 9, 9)(tmp_path)
    add("annotations", 10, bbox=[150, 5, 20, 9])(tmp_path)
    add("categories", 0, id=7)(tmp_path)
    put("images", (0, "file_name", "../x.jpg"), (1, "width", 500))(tmp_path)
    copy_image("train2.jpg", "val2.jpg")(tmp_path)
    cut_off("val1.jpg")(tmp_path)
    assert counts(tmp_path) == {
        "duplicate_class": 1, "unsafe_path": 1, "unknown_class": 1, "non_finite": 1, "degenerate_box": 1,
        "duplicate_box": 2, "clipped_box": 1, "wrong_size": 1, "unreadable_image": 1, "leaked_image": 1,
    }  # fmt: skip


def test_examples_name_file_and_record(tmp_path: Path) -> None:
    make_coco(tmp_path)
    put("annotations", (2, "bbox", [NAN, 1, 1, 1]), (5, "bbox", [150, 5, 20, 9]))(tmp_path)
    add("annotations", 0)(tmp_path)
    examples = {problem.kind: problem.examples[0] for problem in check(tmp_path).problems}
    file = tmp_path / "annotations" / "train.json"
    assert examples["non_finite"].startswith(f"{file}: annotation 3: bbox must be four finite numbers")
    assert examples["clipped_box"].startswith(f"{file}: annotation 6: the box (150.0, 5.0, 170.0, 14.0)")
    assert (
        examples["duplicate_box"]
        == f"{file}: annotation 1012: the box and class of annotation 1 again, in {tmp_path}/images/train0.jpg"
    )


def test_yolo_lines(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    lines = [
        "0 0.3 0.3 0.2 0.2", "0 0.3 0.3 0.2 0.2", "0 0.3 0.3 0.2 0.2",  # two are repeated
        "2 0.5 0.5 0.1 0.1", "cat 0.5 0.5 0.1 0.1", "-1 0.5 0.5 0.1 0.1",  # classes
        "0 nan 0.5 0.1 0.1", "0 0.5 inf 0.1 0.1", "0 32 0.5 0.1 0.1", "0 0.5 0.5 0.1", "0 0,5 0.5 0.1 0.1",
        "1 0.5 0.5 0 0.1", "1 0.99 0.5 0.1 0.1", "0 0.31 0.3 0.2 0.2",
    ]  # fmt: skip
    (tmp_path / "labels/train/train0.txt").write_text("\n".join(lines))
    (tmp_path / "labels/train/train1.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "labels/train/train2.txt").unlink()
    (tmp_path / "labels/val/val1.txt").write_text("0 0.5 0.5 0.1")
    (tmp_path / "images/val/val1.jpg").write_text("no image, yet its labels are read")
    (tmp_path / "labels/val/ghost.txt").write_text("0 0.5 0.5 0.1 0.1")
    assert counts(tmp_path) == {
        "unreadable_annotations": 1, "unknown_class": 3, "non_finite": 2, "out_of_range": 1, "invalid_record": 3,
        "unreadable_image": 1, "degenerate_box": 1, "duplicate_line": 2, "clipped_box": 1, "orphan_label": 1,
        "unlabelled_image": 1,
    }  # fmt: skip
    found = {problem.kind: problem.examples for problem in check(tmp_path).problems}
    assert found["duplicate_line"][0].startswith(f"{tmp_path / 'labels/train/train0.txt'}: line 2: ")


@pytest.mark.parametrize("name", SPLITS)
def test_yaml_without_a_split(name: str, tmp_path: Path) -> None:
    make_yolo(tmp_path)
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text.replace(f"{name}: images/{name}\n", ""))
    assert counts(tmp_path / "data.yaml") == {"missing_split": 1}


def test_voc_files(tmp_path: Path) -> None:
    make_voc(tmp_path)

    def swap(name: str, *pairs: tuple[str, str]) -> None:
        path = tmp_path / "Annotations" / f"{name}.xml"
        text = path.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)

    swap("train0", ("<xmin>21<", "<xmin>nan<"), ("<name>dog<", "<name>dogg<"))
    swap("train1", ("<xmax>61<", "<xmax>10<"), ("<xmax>121<", "<xmax>190<"))
    swap("train2", ("<xmin>21<", "<xmin>left<"), ("<name>dog<", "<name><"))
    swap("train3", ("<width>160<", "<width>100<"))
    swap("val0", ("<annotation>", "<annotation><filename>../../x.jpg</filename>"))
    (tmp_path / "Annotations/train4.xml").write_text("<annotation>")
    (tmp_path / "JPEGImages/train5.jpg").unlink()
    (tmp_path / "Annotations/val1.xml").unlink()
    assert counts(tmp_path) == {
        "unreadable_annotations": 2, "unsafe_path": 1, "unknown_class": 1, "non_finite": 1, "invalid_record": 2,
        "missing_image": 1, "wrong_size": 1, "degenerate_box": 1, "clipped_box": 2, "class_without_objects": 1,
    }  # fmt: skip


def test_visdrone_lines(tmp_path: Path) -> None:
    make_visdrone(tmp_path)
    folder = tmp_path / "VisDrone2019-DET-train" / "annotations"
    bad = ["1,1,9,9,1,12,0,0", "1,1,9,9,1,1,0", "1,1,nan,9,1,1,0,0", "1,1,0,9,1,1,0,0", "300,1,9,9,1,1,0,0"]
    good = (folder / "train0.txt").read_text()
    (folder / "train0.txt").write_text(good + "\n".join([*bad, good.splitlines()[0]]))
    (folder / "train1.txt").write_text("1,1,9,9,0,11,0,0\n")
    (folder / "ghost.txt").write_text("")
    assert counts(tmp_path) == {
        "unknown_class": 1, "invalid_record": 2, "degenerate_box": 1, "outside_box": 1, "duplicate_box": 1,
        "orphan_label": 1,
    }  # fmt: skip


def test_what_cannot_be_read_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make_coco(tmp_path / "d")
    for split in SPLITS:
        (tmp_path / "d/annotations" / f"{split}.json").write_text("{")
    monkeypatch.setattr(sys, "argv", ["alignrank", "data", "check", str(tmp_path / "d")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert "train.json: line 1: is not valid JSON" in message
    assert len(message.splitlines()) == 1
    with pytest.raises(InputError, match="no such file"):
        check(tmp_path / "absent")


def test_exit_codes_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_coco(tmp_path)
    code, clean, _ = run(tmp_path)
    assert (code, clean["ok"], clean["problems"], clean["skipped"]) == (0, True, [], {"image": 0, "box": 0})
    assert (clean["images"], clean["objects"]) == (NUM_TRAIN + NUM_VAL, 2 * (NUM_TRAIN + NUM_VAL))
    assert clean["splits"]["train"]["classes"] == {"cat": NUM_TRAIN, "dog": NUM_TRAIN}
    put("annotations", (0, "bbox", [5, 5, 0, 9]))(tmp_path)
    cut_off("val1.jpg")(tmp_path)
    code, warned, text = run(tmp_path)
    assert (code, warned["ok"], warned["skipped"]) == (0, True, {"image": 1, "box": 1})
    assert (warned["images"], warned["objects"]) == (8, 15)
    assert "no errors, 2 warnings" in text
    put("annotations", (3, "category_id", 9), (4, "category_id", 9))(tmp_path)
    code, failed, text = run(tmp_path)
    assert (code, failed["ok"]) == (2, False)
    assert failed["problems"][0] == {
        "kind": "unknown_class", "meaning": KINDS["unknown_class"].meaning, "severity": "error",
        "training": "refuses", "count": 2,
        "examples": [f"{tmp_path}/annotations/train.json: annotation {i}: category_id 9 is not listed in categories"
                     for i in (4, 5)],
    }  # fmt: skip
    assert "annotations/train.json: annotation 4" in text
    monkeypatch.setattr(sys, "argv", ["alignrank", "data", "check", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2


def test_examples_are_bounded_and_counts_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "MAX_EXAMPLES", 2)
    make_coco(tmp_path)
    add("annotations", *[0] * 7)(tmp_path)
    (found,) = check(tmp_path).problems
    assert (found.count, len(found.examples)) == (7, 2)


def _dirty(root: Path) -> None:
    make_coco(root)
    put("annotations", (2, "category_id", 9), (4, "bbox", [NAN, 1, 1, 1]), (6, "bbox", [150, 5, 20, 9]))(root)
    put("annotations", (7, "bbox", [1, 1, 0, 4]))(root)
    add("annotations", 8, 8)(root)
    put("images", (0, "width", 500))(root)
    copy_image("train5.jpg", "val2.jpg")(root)
    cut_off("val1.jpg")(root)


def test_fix_writes_a_clean_copy_and_leaves_the_original(tmp_path: Path) -> None:
    _dirty(tmp_path / "d")
    before = tree(tmp_path / "d")
    code, result, _ = run(tmp_path / "d", "--fix", tmp_path / "clean")
    assert code == 2
    assert tree(tmp_path / "d") == before
    # Nine images less one of a wrong size, one cut off and one that val has, too; their objects, less three bad ones.
    assert result["fixed"] == {"out": str(tmp_path / "clean"), "images": 6, "objects": 9}
    code, again, _ = run(tmp_path / "clean")
    assert (code, again["problems"], again["images"], again["objects"]) == (0, [], 6, 9)
    assert again["splits"]["val"]["images"] == 2


@pytest.mark.parametrize("form", MAKERS)
def test_fix_of_a_clean_set_is_the_same_set(form: str, tmp_path: Path) -> None:
    MAKERS[form](tmp_path / "d")
    before = tree(tmp_path / "d")
    code, result, _ = run(tmp_path / "d", "--fix", tmp_path / "clean")
    assert code == 0
    assert tree(tmp_path / "d") == before
    _, again, _ = run(tmp_path / "clean")
    assert again["problems"] == []
    assert {key: again[key] for key in ("images", "objects")} == {key: result[key] for key in ("images", "objects")}


def test_fix_keeps_a_split_whose_images_are_all_in_another(tmp_path: Path) -> None:
    make_yolo(tmp_path / "d")
    text = (tmp_path / "d/data.yaml").read_text()
    (tmp_path / "d/data.yaml").write_text(text.replace("val: images/val", "val: images/train"))
    _, result, _ = run(tmp_path / "d/data.yaml", "--fix", tmp_path / "clean")
    assert [problem["kind"] for problem in result["problems"]] == ["leaked_image"]
    assert result["fixed"]["images"] == 2 * NUM_TRAIN


@pytest.mark.parametrize("option", ["--fix", "--out"])
def test_folders_that_exist_or_lie_inside_are_refused(option: str, tmp_path: Path) -> None:
    make_coco(tmp_path / "d")
    (tmp_path / "there").mkdir()
    before = tree(tmp_path)
    with pytest.raises(InputError, match="already exists"):
        run(tmp_path / "d", option, tmp_path / "there")
    with pytest.raises(InputError, match="lies in the data set"):
        run(tmp_path / "d", option, tmp_path / "d" / "new")
    assert tree(tmp_path) == before


def test_out_holds_the_report_and_pictures(tmp_path: Path) -> None:
    _dirty(tmp_path / "d")
    (tmp_path / "d/images/train3.jpg").rename(tmp_path / "d/images/[red].jpg")
    put("images", (3, "file_name", "[red].jpg"))(tmp_path / "d")
    _, result, text = run(tmp_path / "d", "--out", tmp_path / "report")
    assert json.loads((tmp_path / "report/report.json").read_text()) == result
    assert "[red].jpg" in text
    names = sorted(path.name for path in (tmp_path / "report").glob("*.jpg"))
    assert names == ["01_[red].jpg", "02_train4.jpg", "03_train0.jpg", "copies.jpg"]
    # Beyond its right border reaches the box of [red].jpg: there is a margin.
    assert Image.open(tmp_path / "report/01_[red].jpg").size[0] > 400
    for name in names:
        Image.open(tmp_path / "report" / name).load()


def test_embedded_data_has_no_errors() -> None:
    if any(importlib.util.find_spec(module) is None for module in ("sklearn", "skimage")):
        pytest.skip("the extra [digits] is not installed")
    assert check("digits").ok


@pytest.mark.parametrize(("name", "images", "objects"), [("bloodcells", 360, 4860)])
def test_shared_data(name: str, images: int, objects: int) -> None:
    folder = SHARED / "data" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set ALIGNRANK_SHARED")
    result = check(folder).to_dict()
    assert (result["ok"], result["images"], result["objects"]) == (True, images, objects)
    assert result["problems"] == []


def test_broken_inputs(tmp_path: Path) -> None:
    """Of the shared list of broken data sets each is reported as training reports it; the valid ones have no errors."""
    if not (SHARED / "bad_inputs").is_dir():
        pytest.skip(f"{SHARED / 'bad_inputs'} is absent; set ALIGNRANK_SHARED")
    spec = importlib.util.spec_from_file_location("stage", SHARED / "bad_inputs" / "stage.py")
    assert spec is not None
    assert spec.loader is not None
    stage = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stage)
    cases = [case for case in stage.load(SHARED / "bad_inputs") if case["use"] == "train data"]
    wrong = []
    for case in cases:
        expect, entry = case["expect"], stage.stage(case, tmp_path) / case["entry"]
        skipped = {"image": 0, "box": 0}
        try:
            code, result, text = run(entry)
            count, skipped = sum(problem["count"] for problem in result["problems"]), result["skipped"]
        except InputError as error:
            code, count, text = 2, 1, str(error)
        good = {
            "ok": code == 0,
            "skip": code == 0 and count > 0 and skipped.get(expect.get("unit")) == expect.get("skipped"),
            "error": code == 2,
        }[expect["outcome"]]
        if not good or not all(word in text for word in expect["message_names"]):
            wrong.append((case["id"], expect["outcome"], code, text))
    assert wrong == []
    assert len(cases) > 70
