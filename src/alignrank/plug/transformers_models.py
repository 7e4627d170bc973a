"""The detectors of transformers: configuration, network, published weights and loss, each the library's own.

The library is imported when one of them is asked for.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alignrank.config import shown
from alignrank.errors import InputError, nearest
from alignrank.extras import require

# The library's own switch.
CHECKS_OFF = "TRANSFORMERS_DISABLE_TORCH_CHECK"
# Fields of the library's configuration that are the data's, not the architecture's, or say how a file was written.
_NOT_OF_THE_ARCHITECTURE = (
    "id2label", "label2id", "num_labels", "architectures", "dtype", "torch_dtype", "transformers_version",
    "_name_or_path", "model_type",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Architecture:
    """A detector of transformers, by the names of its classes there.

    masked: it is told which pixels are padding, and its boxes are shares of the picture; else of the whole input.
    normalised: by ImageNet's mean and standard deviation; else it takes 0..1.
    copies: modules that hold the heads once more, and that its forward does not look at. processor: that of files which
    name none, without its `ImageProcessor`.
    """

    config: str
    model: str
    processor: str
    masked: bool = False
    normalised: bool = False
    copies: tuple[str, ...] = ()


ARCHITECTURES = {
    "rt_detr": Architecture("RTDetrConfig", "RTDetrForObjectDetection", "RTDetr"),
    "rt_detr_v2": Architecture(
        "RTDetrV2Config", "RTDetrV2ForObjectDetection", "RTDetr", copies=("class_embed", "bbox_embed")
    ),
    "d_fine": Architecture("DFineConfig", "DFineForObjectDetection", "RTDetr", copies=("class_embed", "bbox_embed")),
    "deformable_detr": Architecture(
        "DeformableDetrConfig", "DeformableDetrForObjectDetection", "DeformableDetr", masked=True, normalised=True
    ),
    "rf_detr": Architecture("RfDetrConfig", "RfDetrForObjectDetection", "RfDetr", normalised=True),
}


def library_config(architecture: str, values: Mapping[str, Any], num_classes: int) -> Any:
    """The library's configuration with fields that differ from its defaults.

    Raises InputError naming a field that it does not have, or a value that it does not take.
    """
    kind = library_class(architecture, ARCHITECTURES[architecture].config)
    known = _fields(kind)
    for name in values:
        if name not in known:
            raise InputError(f"model.config: {architecture} has no option {name!r}; {nearest(name, sorted(known))}")
    return _built(kind, values, num_classes)


def adopted(architecture: str, settings: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A published `config.json` as fields that differ from the library's defaults, and the names of class channels.

    Raises InputError unless it is of a detector of this architecture.
    """
    if (kind := settings.get("model_type")) != architecture:
        raise InputError(f"model.pretrained: {where} is a {shown(kind)}, the recipe's architecture is {architecture!r}")
    wanted = ARCHITECTURES[architecture].model
    if (models := settings.get("architectures")) and wanted not in models:
        raise InputError(f"model.pretrained: {where} holds a {shown(models[0])}, no {wanted}: it detects no objects")
    kind = library_class(architecture, ARCHITECTURES[architecture].config)
    try:
        with quiet():
            config = kind.from_dict(dict(settings))
            values = config.to_diff_dict()
    except Exception as error:  # the library's own checks raise what they like
        raise InputError(f"model.pretrained: {where}: config.json cannot be used ({one_line(error)})") from None
    if sorted(config.id2label) != list(range(config.num_labels)):
        raise InputError(
            f"model.pretrained: {where}: config.json: id2label must name the channels 0 to {config.num_labels - 1}"
        )
    names = tuple(str(config.id2label[channel]) for channel in range(config.num_labels))
    known = _fields(kind)  # older files have others, which the library has read
    return {name: value for name, value in values.items() if name in known}, names


def same_network(architecture: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two mappings of fields make the same configuration of the library."""
    kind = library_class(architecture, ARCHITECTURES[architecture].config)
    return bool(_built(kind, first, 1).to_dict() == _built(kind, second, 1).to_dict())


def library_model(architecture: str, config: Any) -> Any:
    """The library's network with random weights, as its authors begin.

    Heads are the same tensors in all decoder layers only where the authors share them (Deformable DETR without
    refinement of boxes): the library would share them in fresh networks, and not in those that it loads.
    """
    of = ARCHITECTURES[architecture]
    if hasattr(config, "tie_word_embeddings"):
        config.tie_word_embeddings = of.masked and not config.with_box_refine
    try:
        with quiet():
            model = library_class(architecture, of.model)(config)
    except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
        raise InputError(f"model.config: these options make no {architecture} ({one_line(error)})") from None
    for name in of.copies:
        delattr(model, name)
    if of.masked and config.with_box_refine:  # the decoder looks at the heads to move its reference points
        model.model.decoder.bbox_embed = model.bbox_embed
        if config.two_stage:
            model.model.decoder.class_embed = model.class_embed
    for module in model.modules():
        # The library begins them near 0, which no signal passes, and timm those at the end of a branch at 0, where
        # frozen ones would stay.
        if isinstance(module, nn.BatchNorm2d) or type(module).__name__.endswith("FrozenBatchNorm2d"):
            nn.init.ones_(module.weight)
    for name, parameter in model.named_parameters():
        if name.endswith("mask_token"):  # of the pretext task: several processes would wait for its gradient
            parameter.requires_grad_(False)
    return model


def published_weights(architecture: str, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a published checkpoint under the names that the library has for them now.

    Raises InputError where the file cannot be read, or tensors are missing.
    """
    kind = library_class(architecture, ARCHITECTURES[architecture].model)
    try:
        with quiet():
            model, found = kind.from_pretrained(
                folder, use_safetensors=True, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:  # of damaged files and of the library's own checks
        raise InputError(f"model.pretrained: {folder} cannot be loaded ({one_line(error)})") from None
    absent = sorted(found["missing_keys"])
    if absent:
        raise InputError(
            f"model.pretrained: {folder} does not fit its own config.json: {len(absent)} tensors are missing "
            f"(first: {absent[0]})"
        )
    weights: dict[str, torch.Tensor] = model.state_dict()
    return weights


class Recorder:
    """In the place of the library's loss: gives back what the network hands to it, by name, for a criterion outside.

    The network returns that as its `loss`, and keeps nothing.
    """

    def __init__(self, loss: Callable[..., Any]) -> None:
        self.signature = inspect.signature(loss)

    def __call__(self, *arguments: Any, **named: Any) -> tuple[dict[str, Any], None, None]:
        bound = dict(self.signature.bind(*arguments, **named).arguments)
        rest = bound.pop("kwargs", {})
        left_out = ("labels", "device", "config")
        return {name: value for name, value in (bound | rest).items() if name not in left_out}, None, None


def library_loss(architecture: str) -> Callable[..., Any]:
    """The function that the library trains this network with."""
    require("transformers", "transformers")
    from transformers.loss.loss_utils import LOSS_MAPPING

    loss: Callable[..., Any] = LOSS_MAPPING[ARCHITECTURES[architecture].model]
    return loss


@contextmanager
def traceable(model: nn.Module) -> Iterator[None]:
    """While the library's network runs: no comparison of the sizes of maps in each layer, which makes a GPU wait and
    has no numbers on the meta device and in a graph for ONNX; and in such a graph a batch of any size.
    """
    before = os.environ.get(CHECKS_OFF)
    os.environ[CHECKS_OFF] = "1"
    module: Any = sys.modules[type(model).__module__]
    exporting = torch.compiler.is_exporting()
    if exporting:  # `len` of a tensor is a constant there, its shape is not
        module.len = _length
    try:
        yield
    finally:
        if exporting:
            del module.len
        if before is None:
            os.environ.pop(CHECKS_OFF, None)
        else:
            os.environ[CHECKS_OFF] = before


def _length(value: Any) -> Any:
    return value.shape[0] if isinstance(value, torch.Tensor) else len(value)


@contextmanager
def quiet() -> Iterator[None]:
    """The library's notices and bars speak to its own users."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def library_class(architecture: str, name: str) -> Any:
    require("transformers", "transformers")
    transformers = importlib.import_module("transformers")
    try:
        return getattr(transformers, name)
    except AttributeError:
        version = transformers.__version__
        raise InputError(
            f"model.architecture: transformers {version} has no {architecture}; install a newer one"
        ) from None


def _fields(kind: Any) -> set[str]:
    return {name for name in kind().to_dict() if name not in _NOT_OF_THE_ARCHITECTURE} | set(kind.attribute_map)


def _built(kind: Any, values: Mapping[str, Any], num_classes: int) -> Any:
    try:
        with quiet():
            return kind(**values, num_labels=num_classes)
    except Exception as error:  # the library's own checks raise what they like
        raise InputError(f"model.config: {kind.model_type}: {one_line(error)}") from None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
