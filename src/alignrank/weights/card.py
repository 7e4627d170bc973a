"""The page of weights on the hub: what they detect, how well, how they were made, how to load them; for its reader.

What a run has written down goes into it, but for the folders that its files lay in: they are nobody else's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import PurePath
from typing import Any

from alignrank.errors import printable
from alignrank.report.figures import DASH, FIGURES, plain_number, value_of
from alignrank.weights.checkpoint import Checkpoint

# Figures of the table: COCO's, then those of ranking.
SHOWN = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "lrp"),
    *("rank.spearman", "rank.spearman_true_class_mean", "rank.misranked", "rank.best_box_missed"),
    *("rank.ap_lost_ranking", "rank.ap_lost_duplicates", "rank.laece"),
)
# Those that the hub's metadata has names for.
OF_METADATA = {"ap": ("map", "AP, IoU .50 to .95"), "ap50": ("map_50", "AP50"), "ap75": ("map_75", "AP75")}
PICTURE = "val_predictions.jpg"
_LISTED_CLASSES = 100
_DATA_SET = "hf://datasets/"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#|~$])")


@dataclass(frozen=True, slots=True)
class Story:
    """What is known of weights beside themselves.

    results, started: the run's results.json and run.json, empty where there is none. data: what its data set is called,
    an address, or hf://datasets/OWNER/NAME. licence: of the weights, as the hub writes it (`apache-2.0`). picture:
    whether there is one beside the page.
    """

    results: Mapping[str, Any] = field(default_factory=dict)
    started: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    licence: str | None = None
    picture: bool = False

    @property
    def data_set(self) -> str | None:
        """What the data set is called; of a path its last part."""
        given = self.data or _of(self.started, "options", "data")
        if not isinstance(given, str) or self.data is not None:
            return self.data
        return PurePath(given).name or None

    @property
    def data_set_on_hub(self) -> str | None:
        """OWNER/NAME."""
        return self.data.removeprefix(_DATA_SET) if self.data and self.data.startswith(_DATA_SET) else None

    @property
    def base(self) -> str | None:
        """The repository of the hub that the training started from, with another library's weights."""
        recipe = self.started.get("recipe", {})
        if _of(recipe, "detector") != "transformers" or _of(recipe, "model", "pretrained") != "hub":
            return None
        return str(_of(recipe, "model", "hub"))


def write_card(repository: str, loaded: Checkpoint, story: Story) -> str:
    """README.md of a repository with the hub's metadata on top."""
    parts = [f"# {_plain(repository.partition('/')[2])}", _detects(loaded)]
    if story.picture:
        parts.append(f"![Validation images: the truth on the left, what is detected on the right]({PICTURE})")
    parts += [_use(repository), *_figures(loaded, story), *_training(loaded, story), _licence(story)]
    return f"---\n{_metadata(repository, loaded, story)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _metadata(repository: str, loaded: Checkpoint, story: Story) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    figures = story.results.get("metrics", loaded.metrics)
    of_data = story.data_set or "validation data"
    results = [
        EvalResult(
            task_type="object-detection",
            dataset_type=story.data_set_on_hub or re.sub(r"[^a-z0-9]+", "-", of_data.lower()).strip("-") or "data",
            dataset_name=of_data,
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for key, (kind, name) in OF_METADATA.items()
        if (value := _figure(figures, key)) is not None
    ]
    data = ModelCardData(
        library_name="alignrank",
        pipeline_tag="object-detection",
        license=story.licence,
        tags=["object-detection", "alignrank", loaded.recipe.name.replace("/", "-")],
        datasets=[story.data_set_on_hub] if story.data_set_on_hub else None,
        base_model=story.base,
        metrics=["map"] if results else None,
        eval_results=results or None,
        model_name=repository.partition("/")[2],
    )
    if not results:
        del data.model_name  # it belongs to the results
    text: str = data.to_yaml()
    return text


def _detects(loaded: Checkpoint) -> str:
    names = [_plain(name) for name in loaded.classes[:_LISTED_CLASSES]]
    more = len(loaded.classes) - len(names)
    several = "es" if len(loaded.classes) != 1 else ""
    sides = loaded.recipe.train.imgsz
    return (
        f"Finds objects of {len(loaded.classes)} class{several} in images: {', '.join(names)}"
        f"{f', and {more} more' if more else ''}. It is a `{loaded.recipe.name}` of AlignRank, for inputs of "
        f"{' x '.join(map(str, sides)) if isinstance(sides, list) else sides} px."
    )


def _use(repository: str) -> str:
    address = f"hf://{repository}"
    shown = "found.source, found.class_names, found.scores, found.boxes"
    return (
        "## Use\n\n```python\nimport alignrank\n\n"
        f'detector = alignrank.Detector.load("{address}")\n'
        f'for found in detector.predict("photos/"):\n    print({shown})\n```\n\n'
        f"```bash\nalignrank predict --weights {address} photos/\n"
        f"alignrank val --weights {address} --data DATA\n```\n\n"
        "The weights are one safetensors file: loading it runs no code. `recipe.yaml` holds every option of network "
        "and training, and trains again with `alignrank train --model recipe.yaml --data DATA`."
    )


def _figures(loaded: Checkpoint, story: Story) -> Iterator[str]:
    figures = story.results.get("metrics", loaded.metrics)
    rows = [(FIGURES[key], value) for key in SHOWN if (value := _figure(figures, key)) is not None]
    if not rows:
        return
    images, data = _of(story.results, "images", "val"), story.data_set
    count, of_data = f"{images} " if images else "", f" of {_linked(data)}" if data else ""
    where = f"{count}validation image{'' if images == 1 else 's'}{of_data}"
    how = (
        "as `alignrank val` measures the weights"
        if story.results
        else f"measured in training, after epoch {loaded.metrics.get('epoch', DASH)}"
    )
    note = ""
    if story.results.get("validated_on_training_images"):
        note = " **These are the images that it was trained on: on others it does worse.**"
    table = [f"| {name} | {value:.3f} | {meaning} |" for (name, meaning), value in rows]
    yield (
        f"## Figures\n\nOn {where}, {how}.{note}\n\n"
        + "\n".join(["| figure | value | meaning |", "|---|---|---|", *table])
        + "\n\nThey hold for images like these. On others, measure before you rely on it."
    )


def _training(loaded: Checkpoint, story: Story) -> Iterator[str]:
    results, train = story.results, loaded.recipe.train
    rows = []
    if story.data_set:
        count = _of(results, "images", "train")
        rows.append(f"Data: {_linked(story.data_set)}{f', {count} training images' if count else ''}.")
    if story.base:
        rows.append(f"It started from the published weights [{story.base}](https://huggingface.co/{story.base}).")
    if results:
        rows.append(
            f"Epochs: {results.get('epochs', train.epochs)}; the best was number {results.get('best_epoch', DASH)} "
            f"({_plain(str(results.get('best_because', '')))}); batches of {train.batch}, seed {train.seed}, "
            f"{_plain(str(results.get('precision', train.precision)))}."
        )
        took = timedelta(seconds=round(float(results.get("seconds", 0))))
        rows.append(f"Time: {took} (h:mm:ss) on {_plain(str(results.get('device', 'an unknown device')))}.")
        commit = f", commit {results['commit']}" if results.get("commit") else ""
        rows.append(f"AlignRank {results.get('alignrank', DASH)}{commit}, PyTorch {results.get('torch', DASH)}.")
    else:
        rows.append(f"A schedule of {train.epochs} epochs, batches of {train.batch}, seed {train.seed}.")
    text = "## Training\n\n" + "\n".join(f"- {row}" for row in rows)
    command = results.get("command")
    if isinstance(command, str) and command:
        text += f"\n\n````bash\n{without_folders(command)}\n````"
    yield text


def _licence(story: Story) -> str:
    if story.licence:
        return f"## Licence\n\nThe weights: {_plain(story.licence)}. AlignRank's code: Apache-2.0."
    return (
        "## Licence\n\nNone is stated for these weights; ask their owner before you use them. AlignRank's code is "
        "Apache-2.0."
    )


def without_folders(command: str) -> str:
    """A command with the last part alone of paths from the root, from the home folder and from a folder above."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ""
    return printable(shlex.join(_last_part(word) for word in words))


def _last_part(word: str) -> str:
    name, equals, value = word.partition("=")
    if not equals:
        name, value = "", word
    return f"{name}{equals}{PurePath(value).name}" if value.startswith(("/", "~", "../")) else word


def _figure(figures: Mapping[str, Any], key: str) -> float | None:
    """From metrics as results have them, nested, or as weights have them, flat."""
    nested = value_of(figures, key)
    return nested if nested is not None else plain_number(figures.get(key))


def _of(values: Any, *keys: str) -> Any:
    """The value below some keys; None where there is none."""
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def _linked(data: str) -> str:
    """A data set's name; its page where it has one."""
    if data.startswith(_DATA_SET):
        name = data.removeprefix(_DATA_SET)
        return f"[{_plain(name)}](https://huggingface.co/datasets/{name})"
    return f"<{data}>" if re.fullmatch(r"https?://[^\s<>]+", data) else _plain(data)


def _plain(text: str) -> str:
    """Text of somebody else as Markdown that shows it."""
    return _MARKDOWN.sub(r"\\\1", printable(text))
