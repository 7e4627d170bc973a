"""One small data set as each annotation tool exports it, by the tools' documented formats."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("car", "person", "traffic light")
# Split -> name -> (width, height), objects as class, left, top, width, height. Whole and half pixels.
Scene = tuple[tuple[int, int], list[tuple[str, float, float, float, float]]]
SCENES: dict[str, dict[str, Scene]] = {
    "train": {
        "street one.jpg": ((64, 48), [("car", 8, 4, 16, 12), ("person", 40.5, 10, 6, 30), ("car", 0, 40, 64, 8)]),
        "b.png": ((40, 80), [("traffic light", 20, 8, 5, 12)]),
        "empty.jpg": ((32, 32), []),
    },
    "val": {"d.jpg": ((100, 50), [("person", 25, 5, 10, 40), ("traffic light", 90, 0, 10, 20)])},
}


def picture(name: str, size: tuple[int, int]) -> bytes:
    """Noise of its own for each name."""
    rng = np.random.default_rng(sum(name.encode()))
    stream = io.BytesIO()
    pixels = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG" if name.endswith("png") else "JPEG")
    return stream.getvalue()


def put(path: Path, content: str | bytes | dict[str, Any] | list[Any]) -> Path:
    """A file with its folders; what is neither text nor bytes becomes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def pictures(folder: Path, split: str) -> None:
    """The pictures of a split."""
    for name, (size, _) in SCENES[split].items():
        put(folder / name, picture(name, size))


def coco(split: str, *, first: int = 1) -> dict[str, Any]:
    """COCO's document of a split; first: the id of the first class."""
    images, annotations = [], []
    for image_id, (name, ((width, height), objects)) in enumerate(SCENES[split].items()):
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for name_of_class, *box in objects:
            category = CLASSES.index(name_of_class) + first
            annotations.append(
                {"id": len(annotations), "image_id": image_id, "category_id": category, "bbox": box,
                 "area": box[2] * box[3], "segmentation": [], "iscrowd": 0}
            )  # fmt: skip
    categories = [{"id": i + first, "name": name, "supercategory": ""} for i, name in enumerate(CLASSES)]
    return {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def as_coco(root: Path) -> None:
    """COCO's own layout."""
    for split in SCENES:
        put(root / "annotations" / f"{split}.json", coco(split))
        pictures(root / "images", split)


def as_roboflow_coco(root: Path) -> None:
    """Roboflow "COCO": a file in each split's folder, and a category 0 that names the project."""
    for split, folder in (("train", "train"), ("val", "valid")):
        document = coco(split)
        for category in document["categories"]:
            category["supercategory"] = "street-lights"
        document["categories"].insert(0, {"id": 0, "name": "street-lights", "supercategory": "none"})
        for image in document["images"]:
            image |= {"license": 1, "date_captured": "2024-05-01T10:00:00+00:00"}
        put(root / folder / "_annotations.coco.json", document)
        pictures(root / folder, split)
    put(root / "README.roboflow.txt", "street-lights - v1\n")


def as_roboflow_yolo(root: Path) -> None:
    """Roboflow "YOLOv8": paths that begin with ../, a test split that is not there."""
    names = "\n".join(["names:", *(f"- {name}" for name in CLASSES)])
    put(
        root / "data.yaml",
        f"train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: {len(CLASSES)}\n{names}\n"
        "roboflow:\n  workspace: ours\n  project: street-lights\n  version: 1\n  license: CC BY 4.0\n",
    )
    for split, folder in (("train", "train"), ("val", "valid")):
        pictures(root / folder / "images", split)
        for name, ((width, height), objects) in SCENES[split].items():
            lines = [
                f"{CLASSES.index(c)} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}"
                for c, x, y, w, h in objects
            ]
            put(root / folder / "labels" / f"{name[:-4]}.txt", "\n".join(lines))


def as_roboflow_voc(root: Path) -> None:
    """Roboflow "Pascal VOC": XML beside the pictures, counted from 1."""
    for split, folder in (("train", "train"), ("val", "valid")):
        pictures(root / folder, split)
        for name, ((width, height), objects) in SCENES[split].items():
            things = "".join(
                f"<object><name>{c}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
                f"<occluded>0</occluded><bndbox><xmin>{x + 1}</xmin><xmax>{x + w}</xmax><ymin>{y + 1}</ymin>"
                f"<ymax>{y + h}</ymax></bndbox></object>"
                for c, x, y, w, h in objects
            )
            size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            text = f"<annotation><folder></folder><filename>{name}</filename><path>{name}</path>{size}{things}"
            put(root / folder / f"{name[:-4]}.xml", f"{text}</annotation>")


def cvat_xml(images: str, *, labels: tuple[str, ...] = CLASSES) -> str:
    """CVAT's file around `images`."""
    described = "".join(f"<label><name>{c}</name><color>#fa3253</color><attributes/></label>" for c in labels)
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task><id>7</id>'
        f"<name>street</name><mode>annotation</mode><labels>{described}</labels></task><dumped>2024</dumped></meta>"
        f"{images}</annotations>"
    )


def cvat_image(number: int, name: str, split: str, scene: Scene) -> str:
    """CVAT's element of a picture of a project, with its subset."""
    (width, height), objects = scene
    boxes = "".join(
        f'<box label="{c}" source="manual" occluded="1" xtl="{x:.2f}" ytl="{y:.2f}" xbr="{x + w:.2f}" '
        f'ybr="{y + h:.2f}" z_order="0"><attribute name="parked">false</attribute></box>'
        for c, x, y, w, h in objects
    )
    subset = {"train": "Train", "val": "Validation"}[split]
    return (
        f'<image id="{number}" name="{name}" subset="{subset}" task_id="7" width="{width}" height="{height}">'
        f"{boxes}</image>"
    )


def as_cvat(root: Path) -> None:
    """CVAT "CVAT for images 1.1" of a project with two subsets."""
    elements = []
    for split, folder in (("train", "Train"), ("val", "Validation")):
        pictures(root / "images" / folder, split)
        elements += [cvat_image(len(elements) + i, n, split, s) for i, (n, s) in enumerate(SCENES[split].items())]
    put(root / "annotations.xml", cvat_xml("".join(elements)))


def as_cvat_tasks(root: Path) -> None:
    """CVAT's XML of two tasks, each in a folder of its own; names hold a folder."""
    for split, folder in (("train", "train"), ("val", "val")):
        pictures(root / folder / "images" / "camera 1", split)
        images = "".join(cvat_image(i, f"camera 1/{n}", split, s) for i, (n, s) in enumerate(SCENES[split].items()))
        put(root / folder / "annotations.xml", cvat_xml(images))


def as_cvat_coco(root: Path) -> None:
    """CVAT "COCO 1.0" of a project: attributes, areas, a file and an image folder for each subset."""
    for split, name in (("train", "Train"), ("val", "Validation")):
        document = coco(split)
        for annotation in document["annotations"]:
            annotation["attributes"] = {"occluded": False, "rotation": 0.0}
        put(root / "annotations" / f"instances_{name}.json", document)
        pictures(root / "images" / name, split)


def labelme(name: str, scene: Scene, *, embedded: bool = False) -> dict[str, Any]:
    """LabelMe's document of a picture; corners of rectangles in all four orders."""
    (width, height), objects = scene
    shapes = []
    for index, (label, x, y, w, h) in enumerate(objects):
        corners = [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]
        points = [corners[index % 4], corners[(index + 2) % 4]]
        shapes.append({"label": label, "points": points, "group_id": None, "description": "",
                       "shape_type": "rectangle", "flags": {"difficult": False}, "mask": None})  # fmt: skip
    data = base64.b64encode(picture(name, (width, height))).decode() if embedded else None
    return {"version": "5.5.0", "flags": {"night": False}, "shapes": shapes, "imagePath": name, "imageData": data,
            "imageHeight": height, "imageWidth": width}  # fmt: skip


def as_labelme(root: Path) -> None:
    """LabelMe: JSON beside pictures, val in another folder than its pictures with the slashes of Windows."""
    pictures(root / "train", "train")
    pictures(root / "pictures", "val")
    for name, scene in SCENES["train"].items():
        put(root / "train" / f"{name[:-4]}.json", labelme(name, scene))
    for name, scene in SCENES["val"].items():
        put(root / "val" / f"{name[:-4]}.json", labelme(f"..\\pictures\\{name}", scene))


def as_labelme_embedded(root: Path) -> None:
    """LabelMe with the pictures inside of the JSON files."""
    for split in SCENES:
        for name, scene in SCENES[split].items():
            put(root / split / f"{name[:-4]}.json", labelme(name, scene, embedded=True))


def label_studio_region(number: int, scene: Scene, entry: tuple[str, float, float, float, float]) -> dict[str, Any]:
    """A rectangle in per cent."""
    (width, height), _ = scene
    label, x, y, w, h = entry
    value = {"x": 100 * x / width, "y": 100 * y / height, "width": 100 * w / width, "height": 100 * h / height,
             "rotation": 0, "rectanglelabels": [label]}  # fmt: skip
    return {"id": f"r{number}", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value,
            "original_width": width, "original_height": height, "image_rotation": 0, "origin": "manual"}  # fmt: skip


def label_studio_task(number: int, address: str, scene: Scene) -> dict[str, Any]:
    """A task with one annotation, beside a cancelled one and a prediction."""
    regions = [label_studio_region(i, scene, entry) for i, entry in enumerate(scene[1])]
    wrong = [label_studio_region(99, scene, ("bus", 0, 0, 5, 5))]
    return {
        "id": number, "data": {"image": address}, "meta": {}, "total_annotations": 1, "cancelled_annotations": 1,
        "annotations": [
            {"id": 10 * number, "result": wrong, "was_cancelled": True, "updated_at": "2024-05-02T00:00:00Z"},
            {"id": 10 * number + 1, "result": regions, "was_cancelled": False, "ground_truth": False,
             "updated_at": "2024-05-01T00:00:00.5Z"},
        ],
        "predictions": [{"id": 3, "result": wrong, "score": 0.9}],
    }  # fmt: skip


ADDRESSES = (
    "/data/upload/1/0a1b2c3d-{}",
    "/data/local-files/?d=street%2F{}",
    "https://example.org/bucket/{}?signature=1",
    "s3://bucket/folder/{}",
)


def as_label_studio(root: Path) -> None:
    """Label Studio "JSON": addresses of all kinds, the pictures as they were called before uploading."""
    for split in SCENES:
        pictures(root / "images", split)
        tasks = [
            label_studio_task(i, ADDRESSES[i % 4].format(name.replace(" ", "%20")), scene)
            for i, (name, scene) in enumerate(SCENES[split].items())
        ]
        put(root / f"project-1-{split}.json", tasks)


def as_label_studio_min(root: Path) -> None:
    """Label Studio "JSON-MIN"; the pictures as they are called after uploading."""
    for split in SCENES:
        records = []
        for number, (name, scene) in enumerate(SCENES[split].items()):
            put(root / "upload" / "1" / f"0a1b2c3d-{name}", picture(name, scene[0]))
            regions = []
            for i, entry in enumerate(scene[1]):
                region = label_studio_region(i, scene, entry)
                regions.append(region["value"] | {k: region[k] for k in ("original_width", "original_height")})
            own = {
                "annotator": 1,
                "annotation_id": number,
                "created_at": "2024",
                "updated_at": "2024",
                "lead_time": 3.2,
            }
            records.append({"image": f"/data/upload/1/0a1b2c3d-{name}", "id": number} | own | {"label": regions})
        for record in records:
            if not record["label"]:
                del record["label"]
        put(root / f"project-1-{split}-min.json", records)


def features(names: tuple[str, ...] | None, *, version: int = 2) -> dict[bytes, bytes]:
    """The metadata of `datasets` 2 or 4."""
    category: dict[str, Any] = {"dtype": "int64", "_type": "Value"}
    if names is not None:
        category = {"names": list(names), "_type": "ClassLabel"}
    box: dict[str, Any] = {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4}
    objects: dict[str, Any] = {
        "feature": {"bbox": box | {"_type": "Sequence"}, "category": category}, "_type": "Sequence",
    }  # fmt: skip
    if version == 4:
        objects = {"bbox": {"feature": box | {"_type": "List"}, "_type": "List"},
                   "category": {"feature": category, "_type": "List"}}  # fmt: skip
    return {
        b"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "objects": objects}}}).encode()
    }


def table(split: str, *, structs: bool = False, names: tuple[str, ...] | None = CLASSES, version: int = 2) -> Any:
    """A table of a split, objects as a struct of lists or a list of structs."""
    import pyarrow as pa

    rows = []
    for number, (name, (size, objects)) in enumerate(SCENES[split].items()):
        boxes, categories = [list(entry[1:]) for entry in objects], [CLASSES.index(entry[0]) for entry in objects]
        described: Any = {"bbox": boxes, "category": categories}
        if structs:
            described = [{"bbox": b, "category": c} for b, c in zip(boxes, categories, strict=True)]
        image = {"bytes": picture(name, size), "path": name}
        rows.append({"image_id": number, "image": image, "width": size[0], "height": size[1], "objects": described})
    box, image = pa.list_(pa.float32()), pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    objects = pa.struct([("bbox", pa.list_(box)), ("category", pa.list_(pa.int64()))])
    if structs:
        objects = pa.list_(pa.struct([("bbox", box), ("category", pa.int64())]))
    columns = [("image_id", pa.int64()), ("image", image), ("width", pa.int32()), ("height", pa.int32())]
    schema = pa.schema([*columns, ("objects", objects)], metadata=features(names, version=version))
    return pa.Table.from_pylist(rows, schema)


def as_parquet(root: Path) -> None:
    """The hub's layout: `data/SPLIT-00000-of-00001.parquet`."""
    from pyarrow import parquet

    (root / "data").mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "validation")):
        parquet.write_table(table(split), root / "data" / f"{name}-00000-of-00001.parquet", row_group_size=1)


def as_parquet_structs(root: Path) -> None:
    """As `datasets` 4 nests it, in split folders, objects as a list of structs."""
    from pyarrow import parquet

    for split in SCENES:
        (root / split).mkdir(parents=True)
        parquet.write_table(table(split, structs=True, version=4), root / split / "0000.parquet")


def as_arrow(root: Path) -> None:
    """`DatasetDict.save_to_disk`."""
    import pyarrow as pa

    put(root / "dataset_dict.json", {"splits": ["train", "validation"]})
    for split, name in (("train", "train"), ("val", "validation")):
        put(root / name / "state.json", {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]})
        put(root / name / "dataset_info.json", {"features": {}})
        content = table(split)
        file = str(root / name / "data-00000-of-00001.arrow")
        with pa.OSFile(file, "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:
            writer.write_table(content)
