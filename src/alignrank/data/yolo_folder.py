"""What a folder of YOLO's looks like."""

from __future__ import annotations

import re
from pathlib import Path

from alignrank.errors import InputError
from alignrank.files import read_bytes


def yaml_file(folder: Path) -> Path | None:
    """The data.yaml of the folder, or the one yaml file that names splits or classes, if there is any.

    Raises InputError where several could be meant.
    """
    for name in ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml"):
        if (folder / name).is_file():
            return folder / name
    found = [path for path in sorted(folder.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")]
    found = [path for path in found if re.search(rb"(?m)^(train|names)\s*:", read_bytes(path)[:100_000])]
    if len(found) > 1:
        raise InputError(
            f"{folder}: holds several yaml files ({', '.join(p.name for p in found)}); give the one to use"
        )
    return found[0] if found else None


def is_folder(folder: Path) -> bool:
    """Whether there are YOLO's labels, without a data.yaml."""
    if (folder / "labels").is_dir() or any((folder / name / "labels").is_dir() for name in ("train", "val", "valid")):
        return True
    texts = {path.stem for path in folder.iterdir() if path.suffix.lower() == ".txt"}
    return any(path.stem in texts for path in folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
