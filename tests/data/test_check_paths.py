"""Every path that `data check` prints can be opened as printed, from the folder the user is in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import alignrank
from test_check import make_coco, make_visdrone, make_voc, make_yolo

_END_OF_NAME = re.compile(r"\.(txt|jpg|json|yaml|xml)(?=$|[ :,;)'])")
_START_OF_NAME = re.compile(r"(?:^|(?<=[ (']))(?=\S)")


def wrong_names(text: str) -> list[str]:
    """Names of files in a text that are no path of a file: no part of the line that ends there is one."""
    wrong = []
    for line in text.splitlines():
        for end in _END_OF_NAME.finditer(line):
            starts = [m.start() for m in _START_OF_NAME.finditer(line[: end.end()])]
            if not any(Path(line[start : end.end()]).is_file() for start in starts):
                wrong.append(line[: end.end()])
    return wrong


def spoil_yolo(root: Path) -> None:
    """One problem and more of each kind that names a file."""
    labels = root / "labels"
    (labels / "train/train0.txt").write_text(
        "0 .3 .3 .2 .2 9\n1 .99 .5 .1 .1\n0 .5 .5 0 .1\n0 nan .5 .1 .1\n0 2 .5 .1 .1\n7 .5 .5 .1 .1\n"
        + 2 * "1 .6 .6 .3 .3\n"
    )  # fmt: skip
    (labels / "train/train1.txt").write_text("0 .3 .3 .2 .2\n0 0.3 .3 .2 .2000000001\n")
    (labels / "train/train2.txt").write_bytes(b"\xff\xfe\x00")
    (labels / "train/train3.txt").unlink()
    (labels / "val/ghost.txt").write_text("0 .5 .5 .1 .1")
    (root / "images/train/train4.jpg").write_text("x")
    (root / "images/val/val1.jpg").write_bytes((root / "images/train/train5.jpg").read_bytes())


def yaml_of(path: str, train: str = "images/train") -> str:
    return f"path: {path}\ntrain: {train}\nval: images/val\nnames: [cat, dog]\n"


def absolute(home: Path) -> str:
    """The reported one: the folder of the yaml has the name of a folder in `path`."""
    root = home / "elsewhere" / "d" / "set"
    make_yolo(root)
    spoil_yolo(root)
    (home / "d").mkdir()
    (home / "d/data.yaml").write_text(yaml_of(str(root)))
    return "d/data.yaml"


def beside(home: Path) -> str:
    """The yaml is in the folder the user is in: `./`."""
    root = home / "odd." / "d"
    make_yolo(root)
    spoil_yolo(root)
    (home / "data.yaml").write_text(yaml_of(str(root)))
    return "data.yaml"


def relative(home: Path) -> str:
    root = home / "d" / "old" / "d" / "set"
    make_yolo(root)
    spoil_yolo(root)
    (home / "d/data.yaml").write_text(yaml_of("old/d/set"))
    return "d"


def above(home: Path) -> str:
    make_yolo(home / "set")
    spoil_yolo(home / "set")
    (home / "lists" / "set").mkdir(parents=True)
    (home / "lists/set/data.yaml").write_text(yaml_of("../../set"))
    return "lists/set/data.yaml"


def listed(home: Path) -> str:
    root = home / "set"
    make_yolo(root)
    spoil_yolo(root)
    names = [f"./images/train/train{i}.jpg\n" for i in range(3)]
    names += [f"images/val/../train/train{i}.jpg\n" for i in range(3, 6)]
    (root / "train.txt").write_text("".join(names))
    (home / "set.yaml").write_text(yaml_of(str(root), "train.txt"))
    return "set.yaml"


def stored(home: Path) -> Path:
    """A spoilt set, in a folder of its own."""
    root = home / "store" / "set"
    make_yolo(root)
    spoil_yolo(root)
    return root


def linked(home: Path) -> str:
    """`link/..` is the folder that the linked one is in."""
    root = stored(home)
    (root / "part").mkdir()
    (root / "train.txt").write_text("".join(f"link/../images/train/train{i}.jpg\n" for i in range(6)))
    (home / "here").mkdir()
    (home / "here" / "link").symlink_to(root / "part")
    for name in ("images", "labels"):
        (home / "here" / name).symlink_to(root / name)
    (home / "here/train.txt").write_text((root / "train.txt").read_text())
    (home / "here/data.yaml").write_text(yaml_of(".", "train.txt"))
    return "here"


def link_above(home: Path) -> str:
    root = stored(home)
    (root / "part").mkdir()
    (home / "link").symlink_to(root / "part")
    names = "".join(f"images/train/train{i}.jpg\n" for i in range(6))
    (root / "train.txt").write_text(names)
    (home / "data.yaml").write_text(yaml_of("link/..", "train.txt"))
    return "data.yaml"


def spaces(home: Path) -> str:
    root = home / "My Data (2)" / "set [new] & old"
    make_yolo(root)
    for kind, suffix in (("images", "jpg"), ("labels", "txt")):
        (root / kind / "train" / f"train3.{suffix}").rename(root / kind / "train" / f"Copy of train 3 (1).{suffix}")
    spoil = root / "labels/train/train3.txt"
    spoil.write_text("")
    spoil_yolo(root)
    (root / "labels/train/Copy of train 3 (1).txt").write_text("0 .99 .5 .1 .1\n0 .5 .5 0 .1\n")
    return "My Data (2)/set [new] & old"


def coco(home: Path) -> str:
    root = home / "d" / "d"
    make_coco(root)
    file = root / "annotations/train.json"
    document = json.loads(file.read_text())
    for index, box in ((0, [150, 5, 30, 9]), (1, [5, 5, 0, 4]), (2, [300, 5, 5, 4]), (3, [1, float("nan"), 1, 1])):
        document["annotations"][index]["bbox"] = box
    document["annotations"][5] = document["annotations"][4] | {"id": 77}
    document["images"][4]["width"] = 300
    file.write_text(json.dumps(document))
    (root / "images/val1.jpg").write_bytes((root / "images/train5.jpg").read_bytes())
    (root / "images/val2.jpg").write_text("x")
    return "d"


def voc(home: Path) -> str:
    root = home / "d" / "VOC"
    make_voc(root)
    file = root / "Annotations/train0.xml"
    file.write_text(file.read_text().replace("<xmax>61<", "<xmax>190<").replace("<xmin>81<", "<xmin>nan<"))
    (root / "Annotations/train1.xml").write_text("<annotation>")
    (root / "JPEGImages/train2.jpg").write_text("x")
    (root / "JPEGImages/train3.jpg").unlink()
    return "d"


def visdrone(home: Path) -> str:
    root = home / "d"
    make_visdrone(root)
    lines = "150,20,40,14,1,1,0,0\n300,1,9,9,1,1,0,0\n1,1,9,9,1,12,0,0\n" + 2 * "1,1,9,9,1,2,0,0\n"
    (root / "VisDrone2019-DET-train/annotations/train0.txt").write_text(lines)
    return "d"


FORMS: list[Callable[[Path], str]] = [
    absolute, beside, relative, above, listed, linked, link_above, spaces, coco, voc, visdrone
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_printed_path_exists(
    form: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    data = form(home)
    done = alignrank("data", "check", data, "--out", "report", "--json")
    assert done.returncode == 2
    problems = json.loads(done.stdout)["problems"]
    assert len(problems) >= 4
    assert Path(json.loads(done.stdout)["data"]).exists()
    assert json.loads(Path("report/report.json").read_text())["problems"] == problems
    examples = [example for problem in problems for example in problem["examples"]]
    assert sum(bool(_END_OF_NAME.search(example)) for example in examples) >= 4
    assert wrong_names("\n".join(examples)) == []
    assert wrong_names(done.stderr) == []
    # On the terminal the examples are those of the report, whole.
    for problem in problems:
        assert all(f"  {example}\n" in done.stderr for example in problem["examples"][:3])


def test_the_check_of_names_finds_what_it_should(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c.txt").write_text("")
    assert wrong_names(f"  {tmp_path}/a b/c.txt: line 3: is wrong") == []
    assert len(wrong_names(f"  {tmp_path}/b/c.txt: line 3: is wrong, in train0.jpg")) == 2


def test_a_folder_of_path_that_is_absent_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(yaml_of("/data/absent"))
    message = alignrank("data", "convert", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "out")).stderr
    assert f"train: {tmp_path}/images/train does not exist, nor does the folder of path, /data/absent" in message


def test_labels_that_are_looked_for_in_a_folder_that_is_absent(tmp_path: Path) -> None:
    make_yolo(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    message = alignrank("data", "convert", str(tmp_path), "--to", "coco", "--out", str(tmp_path / "out")).stderr
    assert f"{tmp_path}/images/train: none of the 6 images has a label file in {tmp_path}/labels/train" in message
    assert "there is no such folder" in message
