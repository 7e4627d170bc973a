"""Any timm backbone as a pyramid of strides 8, 16, 32."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from alignrank.errors import InputError, first_line, nearest
from alignrank.nn.conv import DepthwiseConv2d
from alignrank.nn.csp import PyramidPooling, Scale

STRIDES = (8, 16, 32)


def timm_name(backbone: str, others: Sequence[str] = ("csp",)) -> str:
    """`timm:NAME` -> NAME. Raises InputError for anything else, naming the `others` that there are."""
    prefix, _, name = backbone.partition(":")
    if prefix != "timm" or not name:
        known = ", ".join(map(repr, others))
        raise InputError(f"model.backbone: {backbone!r} is neither {known} nor 'timm:NAME'")
    return name


class TimmPyramid(nn.Module):
    """images [B,3,H,W] 0..1 -> maps of `strides` with `channels`.

    The model's own mean and standard deviation are applied inside. norm: batch norms `learn`; are `fixed` (statistics
    stay, affine parameters learn); or `frozen` (both stay), which small batches need. freeze: stages without gradient,
    from the stem on, as timm counts them. drop_path: share of the deepest block's residuals that are left out in
    training, 0..<1. checkpointing: training computes activations anew on the way back instead of keeping them. Maps of
    families that compute channels-last (Swin) have a layer norm each, `norms`. Raises InputError for models, options
    and weights that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        *,
        pretrained: str = "",
        norm: Literal["learn", "fixed", "frozen"] = "learn",
        freeze: int = 0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        import timm

        if not timm.is_model(name):
            raise InputError(f"model.backbone: timm has no model {name!r}; {nearest(name, timm.list_models())[:200]}")
        body = _features(name, pretrained, drop_path, strides)
        DepthwiseConv2d.take_over(body)
        self.channels: tuple[int, ...] = tuple(body.feature_info.channels())
        settings = body.pretrained_cfg
        self.body: nn.Module = timm.layers.freeze_batch_norm_2d(body) if norm == "frozen" else body
        self.fixed_norm = norm == "fixed"
        _freeze(self.body, name, freeze)
        channels_last = getattr(body, "output_fmt", None) == timm.layers.Format.NHWC
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in self.channels) if channels_last else nn.ModuleList()
        self.checkpointing = checkpointing
        if checkpointing:
            self._check_checkpointing(name)
        self.register_buffer("mean", torch.tensor(settings.get("mean", (0.0,) * 3)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(settings.get("std", (1.0,) * 3)).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        """sizes [B,2]: height and width, px, of each picture's own content at the upper left; None: all of it.

        What lies beyond is 0 to the network, which is the mean colour.
        """
        x = (images - self.mean) / self.std
        if sizes is not None:
            x = torch.where(inside_of(x, sizes), x, 0.0)
        maps = list(self.body(x))
        if self.norms:
            maps = [norm(m).permute(0, 3, 1, 2).contiguous() for norm, m in zip(self.norms, maps, strict=True)]
        return maps

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.body.modules():
            # The statistics of a frozen stage are as frozen as its weights, and none of its blocks is left out.
            fixed = self.fixed_norm and isinstance(module, nn.BatchNorm2d)
            if fixed or (_learns(module) is False):
                module.eval()
        if self.checkpointing:
            _checkpoint(self.body, mode)
        return self

    def _check_checkpointing(self, name: str) -> None:
        try:
            _checkpoint(self.body, self.training)
        except (AttributeError, AssertionError):
            raise InputError(f"model.checkpointing: timm:{name} cannot, its maps are taken out another way") from None
        norms = [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]
        if not self.fixed_norm and any(_learns(module) for module in norms):
            raise InputError(
                f"model.checkpointing: batch norms of timm:{name} would count each batch twice; "
                "set model.norm=fixed or model.norm=frozen"
            )


class TimmBackbone(TimmPyramid):
    """The same for the YOLO family: the last map goes through a pyramid pooling of our own, as in the CSP backbone."""

    def __init__(self, name: str, scale: Scale, *, pretrained: str = "", frozen_norm: bool = False) -> None:
        super().__init__(name, pretrained=pretrained, norm="frozen" if frozen_norm else "learn")
        c3, c4, c5 = self.channels
        self.channels = (c3, c4, scale.channels(1024))
        self.pooling = PyramidPooling(c5, self.channels[2])

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
        p3, p4, p5 = super().forward(images, sizes)
        return [p3, p4, self.pooling(p5)]


def inside_of(images: Tensor, sizes: Tensor) -> Tensor:
    """[B,1,H,W] bool: what is picture in images [B,3,H,W], of `sizes` [B,2] (height, width) px; the rest is padding."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) < sizes[:, :1]
    columns = torch.arange(width, device=images.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def _learns(module: nn.Module) -> bool | None:
    """None: it has no parameters."""
    parameters = list(module.parameters())
    return any(parameter.requires_grad for parameter in parameters) if parameters else None


def _checkpoint(body: Any, on: bool) -> None:
    """Raises AttributeError or AssertionError where timm's way to take maps out of the network cannot."""
    body.set_grad_checkpointing(False)
    # Where stages can do it block by block, less is alive at once than with a whole stage computed anew.
    stages = [module for module in body.modules() if module is not body and hasattr(module, "grad_checkpointing")]
    for stage in stages:
        stage.grad_checkpointing = on
    if not stages:
        body.set_grad_checkpointing(on)


def _freeze(body: Any, name: str, stages: int) -> None:
    """What comes before the end of that stage, in the order of the modules, learns no more."""
    if not stages:
        return
    ends = [info["module"] for info in body.feature_info.info]
    if stages > len(ends):
        raise InputError(f"model.freeze: timm:{name} has {len(ends)} stages, got {stages}")
    modules = dict(body.named_modules())
    names = list(modules)
    # timm makes stages.0 to stages_0 where it takes a network apart.
    end = ends[stages - 1].replace(".", "_")
    inside = [i for i, module in enumerate(names) if f"{module}.".replace(".", "_").startswith(f"{end}_")]
    if not inside:
        raise InputError(f"model.freeze: the stages of timm:{name} cannot be told apart; leave it at 0")
    for module in names[1 : inside[-1] + 1]:
        for parameter in modules[module].parameters(recurse=False):
            parameter.requires_grad_(False)


def _features(name: str, pretrained: str, drop_path: float, strides: Sequence[int]) -> Any:
    import timm

    from alignrank.nn import swin

    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    probe = _probe(name, options)
    reductions = probe.feature_info.reduction()
    missing = [stride for stride in strides if stride not in reductions]
    if missing:
        raise InputError(f"model.backbone: timm:{name} has no map of stride {missing[0]} (it has {reductions})")
    # The last map of each stride is the deepest one.
    options["out_indices"] = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
    if swin.is_swin(name):
        options |= swin.ANY_SIZE
    if pretrained == "hub":
        body = _hub(name, options)
    else:
        body = timm.create_model(name, features_only=True, pretrained=False, **options)
        if pretrained:
            load_weights(body, f"timm:{name}", Path(pretrained))
    swin.take_any_size(body)
    for module in body.modules():
        if isinstance(module, timm.layers.DropPath) and not drop_path:
            # Some networks have a share of their own.
            module.drop_prob = 0.0
    return body


def _probe(name: str, options: dict[str, Any]) -> Any:
    """All maps that there are. Raises InputError where there is no drop_path_rate."""
    import timm

    from alignrank.nn import swin

    refusal = InputError(f"model.drop_path: timm:{name} cannot leave blocks out; leave it at 0")
    try:
        # Random weights of a large Swin take seconds, which need not be twice.
        with torch.device("meta") if swin.is_swin(name) else nullcontext():
            probe = timm.create_model(name, features_only=True, pretrained=False, **options)
    except TypeError:
        if options:
            raise refusal from None
        raise
    if options and not any(isinstance(module, timm.layers.DropPath) for module in probe.modules()):
        raise refusal
    return probe


def _hub(name: str, options: dict[str, Any]) -> Any:
    import timm

    try:
        return timm.create_model(name, features_only=True, pretrained=True, **options)
    except Exception as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise InputError(
            f"model.pretrained=hub: weights of timm:{name} could not be fetched{offline}: {first_line(error)}; "
            "give a file instead: model.pretrained=WEIGHTS.safetensors, or train from random weights: model.pretrained="
        ) from None


def load_weights(body: nn.Module, name: str, path: Path) -> None:
    """Load a classifier's weights into a network of timm's that gives maps; what belongs to the classifier (or to later
    stages) is left out. name: in messages. Raises InputError for a file that does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from alignrank.nn.swin import timm_names

    if not path.is_file():
        raise InputError(f"model.pretrained: no file {path}")
    if path.suffix != ".safetensors":
        raise InputError(f"model.pretrained: {path} must be a .safetensors file")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"model.pretrained: {path} is not a readable safetensors file ({error})") from None
    own = body.state_dict()
    # features_only renames "blocks.1" to "blocks_1" in some families; timm maps the names by replacing dots.
    by_name = {key.replace(".", "_"): value for key, value in timm_names(weights).items()}
    chosen = {key: by_name.get(key.replace(".", "_")) for key in own}
    absent = [key for key, value in chosen.items() if value is None and not key.endswith("num_batches_tracked")]
    wrong = [key for key, value in chosen.items() if value is not None and value.shape != own[key].shape]
    if absent or wrong:
        raise InputError(
            f"model.pretrained: {path} does not fit {name}: {len(absent)} tensors are missing and "
            f"{len(wrong)} have another shape (first: {(absent + wrong)[0]})"
        )
    body.load_state_dict({key: own[key] if value is None else value for key, value in chosen.items()})
