"""Two checkouts of this project compared: losses and evaluation figures must be equal, bit for bit.

    git worktree add /tmp/before main
    python benchmarks/loss_compare.py /tmp/before        # against this checkout, about 6 minutes of one core

Of every recipe of BEFORE in a tiny form, on made-up images: weights at the start, total and parts of the loss in the
first 20 optimizer steps (one with a picture that is not square, one without any object), weights at the end, and what
is selected in evaluation. Of a few recipes on 24 images of bloodcells, through the command line: `train` with random
augmentation, its history, figures, detections and best weights, then `val` in several forms. Inputs are square, the
only shape that older checkouts know. Each checkout has a process of its own, on the CPU, in fp32 with one thread; the
times in history.json are left out. Exit code 1 where anything differs. Data by path: ALIGNRANK_SHARED, else ../shared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ALIGNRANK_SHARED", ROOT.parent / "shared")) / "data" / "bloodcells"
IMAGES = {"train": 16, "val": 8}
SEED, STEPS, CLASSES = 0, 20, 3
SQUARE, OBLONG = (128, 128), (96, 160)
OBLONG_STEP, EMPTY_STEP = 7, 13
OBJECTS = (5, 0, 3)  # of each image of a batch

# What makes a recipe of an architecture small; all begin with model.size=t.
CSP: dict[str, Any] = {"model.backbone": "csp", "model.freeze": 0, "model.norm": "learn", "neck.width": 32}
FORMS: dict[str, dict[str, Any]] = {
    "reppoints": CSP | {"head.groups": 8},
    "retinanet": CSP,
    "varifocalnet": CSP | {"head.groups": 8},
}
# Long enough for figures that are not zero.
COMMON = ["--imgsz", "96", "--lr", "0.01", "--device", "cpu", "--seed", str(SEED), "train.precision=fp32"]
TRAININGS = {
    "yolov8-n": ["--epochs", "24", "--batch", "2", "--workers", "0", "train.accumulate=2", "train.ema_decay=0.9",
                 "augment.mixup=0.5", "augment.plain_epochs=12"],
    "alignrank-n": ["--epochs", "24", "--batch", "4", "--workers", "2", "train.ema_decay=0.9",
                    "augment.multi_scale=0.5", "augment.flip_vertical=0.5", "augment.plain_epochs=12"],
    "atss-r50": ["--epochs", "12", "--batch", "2", "--workers", "0", "train.clip_norm=10"],
}  # fmt: skip
EVALUATIONS: dict[str, list[list[str]]] = {
    "yolov8-n": [[], ["--oracle", "class-iou"]],
    "alignrank-n": [[], ["--nms"]],
    "atss-r50": [[], ["--oracle", "ctr-iou"], ["--iou", "0.3", "--conf", "0.01", "--imgsz", "128"]],
}

# What is compared: by its place, a number's exact digits or a text.
Values: TypeAlias = dict[str, str]


def imported(name: str, *modules: str) -> Any:
    """`name` from the first of the modules that the checkout has."""
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
    sys.exit(f"this checkout has none of {', '.join(modules)}")


def exact(value: Any, place: str) -> Values:
    """The leaves of nested containers."""
    if isinstance(value, Mapping):
        return {k: v for key, item in value.items() for k, v in exact(item, f"{place}/{key}").items()}
    if isinstance(value, list | tuple):
        return {k: v for i, item in enumerate(value) for k, v in exact(item, f"{place}/{i}").items()}
    return {place: value.hex() if isinstance(value, float) else repr(value)}


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of names, types, shapes and contents."""
    result = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        result.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        result.update(tensor.detach().contiguous().numpy().tobytes())
    return result.hexdigest()


def made_up(rng: np.random.Generator, step: int) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Noise, with boxes and labels for each image."""
    height, width = OBLONG if step == OBLONG_STEP else SQUARE
    images = rng.random((len(OBJECTS), 3, height, width), dtype=np.float32)
    truth = []
    for count in [0] * len(OBJECTS) if step == EMPTY_STEP else OBJECTS:
        sides = rng.uniform(8, 80, (count, 2))
        corners = rng.random((count, 2)) * (np.array([width, height]) - sides)
        boxes = torch.from_numpy(np.concatenate([corners, corners + sides], 1).astype(np.float32))
        truth.append((boxes, torch.from_numpy(rng.integers(CLASSES, size=count))))
    return torch.from_numpy(images).contiguous(memory_format=torch.channels_last), truth


def losses(recipe: Any) -> Values:
    """The first steps of a training, and one evaluation."""
    from alignrank.contracts import Targets

    places = ("alignrank.training.optimizer", "alignrank.engine.optimization")
    parameter_groups, schedule = (imported(name, *places) for name in ("parameter_groups", "schedule"))
    torch.manual_seed(SEED)
    rng, settings, built = np.random.default_rng(SEED), recipe.train, recipe.build()
    model = built.model.to(memory_format=torch.channels_last).train()
    values = {"weights at the start": digest(model.state_dict())}
    groups = parameter_groups(model, settings)
    if settings.optimizer == "adamw":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(groups, betas=(settings.momentum, 0.999))
    else:
        optimizer = torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.momentum > 0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(settings, STEPS))
    for step in range(STEPS):
        images, truth = made_up(rng, step)
        terms = built.criterion(model(images), [Targets(*of_image) for of_image in truth], progress=step / STEPS)
        parts = {name: float(part.detach()) for name, part in terms.parts.items()}
        values |= exact({"total": float(terms.total.detach()), **parts}, f"step {step}")
        optimizer.zero_grad()
        terms.total.backward()
        if settings.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        scheduler.step()
    values["weights at the end"] = digest(model.state_dict())
    with torch.inference_mode():
        predictions = model.eval()(made_up(rng, STEPS)[0])
        for i, chosen in enumerate(built.postprocess(predictions, conf=0.001, iou=0.7, max_dets=100)):
            kept = {"boxes": chosen.boxes, "scores": chosen.scores, "labels": chosen.labels}
            values |= exact({name: tensor.tolist() for name, tensor in kept.items()}, f"selected/{i}")
    return values


def alignrank(*words: str) -> str:
    """What one command of the checkout's command line prints."""
    result = subprocess.run([sys.executable, "-m", "alignrank", *words], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"alignrank {' '.join(words)} failed:\n{result.stderr}")
    return result.stdout


def evaluation(name: str, form: Mapping[str, Any], data: str, *, shapes: bool) -> Values:
    """A training and the evaluation of its weights. shapes: the checkout has inputs that are not square."""
    overrides = [f"{key}={value}" for key, value in form.items()] + ["data.rect=false"] * shapes
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        alignrank("train", "--model", name, "--data", data, "--out", str(run), *COMMON, *TRAININGS[name], *overrides)
        history = json.loads((run / "history.json").read_text())
        for row in history:
            row.pop("seconds")
        values = exact(history, "history.json")
        for file in ("metrics.json", "detections.json"):
            values |= exact(json.loads((run / file).read_text()), file)
        values["best.safetensors"] = digest(load_file(run / "best.safetensors"))
        for words in EVALUATIONS[name]:
            square = ["--square"] * shapes
            text = alignrank("val", "--weights", str(run), "--data", data, "--device", "cpu", "--json", *words, *square)
            values |= exact(json.loads(text), " ".join(["val", *words]))
    return values


def child(root: Path, data: str) -> dict[str, dict[str, Values]]:
    """Everything about one checkout, in a process that imports it."""
    package = Path(import_module("alignrank").__file__ or "").resolve()
    if not package.is_relative_to(root):
        sys.exit(f"{package} was imported, not the package of {root}")
    torch.set_num_threads(1)
    load_recipe = imported("load_recipe", "alignrank.weights.recipe", "alignrank.engine.recipe")
    recipe_names = imported(
        "recipe_names", "alignrank.weights.catalog", "alignrank.weights.recipe", "alignrank.engine.recipe"
    )
    result: dict[str, dict[str, Values]] = {"losses": {}, "evaluation": {}}
    for name in recipe_names():
        form = {"model.size": "t"} | FORMS.get(load_recipe(name).detector, {})
        result["losses"][name] = losses(load_recipe(name, num_classes=CLASSES, overrides=form))
        print(f"{root}: {name}", file=sys.stderr, flush=True)
        if data and name in TRAININGS:
            shapes = (root / "src/alignrank/input_size.py").exists()
            result["evaluation"][name] = evaluation(name, form, data, shapes=shapes)
            print(f"{root}: {name}, trained and evaluated", file=sys.stderr, flush=True)
    return result


def measured(root: Path, data: str) -> dict[str, dict[str, Values]]:
    """`child` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, __file__, str(root), "--child", data]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if result.returncode:
        sys.exit(f"{root}: could not be measured")
    values: dict[str, dict[str, Values]] = json.loads(result.stdout.splitlines()[-1])
    return values


def write_subset(folder: Path) -> None:
    """The first images of each split, with their annotations."""
    for part in ("images", "annotations"):
        (folder / part).mkdir()
    for split, count in IMAGES.items():
        truth = json.loads((DATA / "annotations" / f"{split}.json").read_text())
        truth["images"] = truth["images"][:count]
        ids = {image["id"] for image in truth["images"]}
        truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(truth))
        for image in truth["images"]:
            shutil.copy(DATA / "images" / image["file_name"], folder / "images")


def compared(before: Values, after: Values | None) -> dict[str, Any]:
    """How many values there are, how many differ, and the first of them."""
    after = after or {}
    places = list(before | after)
    sides = {place: (before.get(place, "missing"), after.get(place, "missing")) for place in places}
    differing = [place for place, (old, new) in sides.items() if old != new]
    entry: dict[str, Any] = {"equal": not differing, "values": len(places), "differing": len(differing)}
    if differing:
        entry["first"] = dict(zip(("place", "before", "after"), (differing[0], *sides[differing[0]]), strict=True))
    return entry


def state_of(root: Path) -> dict[str, Any]:
    """The commit, and whether the sources are others by now."""
    git = ["git", "--no-optional-locks", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain", "src"], capture_output=True, text=True, check=False)
    return {"commit": head.stdout.strip(), "sources_changed_since": bool(changed.stdout.strip())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="root of a checkout")
    parser.add_argument("after", type=Path, nargs="?", default=ROOT, help="another one [default: this one]")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/loss_compare.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    before, after = options.before.resolve(), options.after.resolve()
    if options.child is not None:
        print(json.dumps(child(before, options.child)))
        return
    table: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/loss_compare.py", *sys.argv[1:]]),
        "before": state_of(before), "after": state_of(after), "torch": torch.__version__,
        "device": f"cpu ({platform.machine()}, {os.cpu_count()} cores)", "seed": SEED, "steps": STEPS,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if DATA.exists():
            write_subset(Path(folder))
        else:
            table["left_out"] = "evaluation: there is no bloodcells, set ALIGNRANK_SHARED"
        data = folder if DATA.exists() else ""
        old, new = measured(before, data), measured(after, data)
    for kind in ("losses", "evaluation"):
        table[kind] = {name: compared(values, new[kind].get(name)) for name, values in old[kind].items()}
    entries = [(kind, name, entry) for kind in ("losses", "evaluation") for name, entry in table[kind].items()]
    table["equal"] = all(entry["equal"] for _, _, entry in entries)
    options.out.write_text(json.dumps(table, indent=1) + "\n")
    for kind, name, entry in entries:
        row = f"{kind:10} {name:14} {'yes' if entry['equal'] else 'NO':3} {entry['values']:6} values"
        first = entry.get("first")
        note = f"  {entry['differing']} differ: {' '.join(first.values())}" if first else ""
        print(row + note, file=sys.stderr)
    print(table.get("left_out", "nothing was left out"), file=sys.stderr)
    sys.exit(0 if table["equal"] else 1)


if __name__ == "__main__":
    main()
