"""What a network makes of images on the way to its head: the maps of its backbone and neck, and what meets in FINE.

Shape letters: B images, C channels, D channels of a coarser map, S cells over all levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from torch import Tensor, nn

from alignrank.nn.fine import FINE

# Of the finest map of every backbone and neck; each further one is twice as coarse.
FINEST = 8


@dataclass(frozen=True, slots=True)
class Level:
    """A map [B,C,H,W], and how many px of the input one of its cells is apart from the next. normed: a layer norm over
    its channels comes last.
    """

    part: Literal["backbone", "neck"]
    stride: int
    map: Tensor
    normed: bool


@dataclass(frozen=True, slots=True)
class Fusion:
    """A FINE module of the network, by its name there, and the maps that met in it: low [B,C,h,w], high [B,D,H,W]."""

    name: str
    module: FINE
    low: Tensor
    high: Tensor

    def tokens(self) -> tuple[Tensor, Tensor]:
        """[B,C,h',w'] of low and [B,D,H',W'] of high: pooled, before any projection."""
        return self.module.pool_low(self.low), self.module.pool_high(self.high)

    def modulation(self) -> Tensor:
        """[B,C,h,w]: the paper's M, spread over the cells of low."""
        return self.module.spread(self.module.context(self.low, self.high), self.low)


class FeatureMaps:
    """Keeps what `network` computes while the block runs, of its last forward; the hooks are gone at its end.

    levels: maps of the backbone, then those of the neck, finest first; a transformer's neck is its encoder.
    fusions: of FINE modules, in the order in which they run; empty where there are none.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self.fusions: list[Fusion] = []
        self._outputs: dict[str, Any] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        network = self.network
        self._hooks.append(network.register_forward_pre_hook(self._forget))
        parts = {"backbone": network.backbone}
        if hasattr(network, "neck"):
            parts["neck"] = network.neck
        else:
            parts |= {"mapper": network.mapper, "encoder": network.encoder[-1]}
        for name, module in parts.items():
            self._hooks.append(module.register_forward_hook(self._keeps(name)))
        for name, module in network.named_modules():
            if isinstance(module, FINE):
                self._hooks.append(module.register_forward_hook(self._meets(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @property
    def levels(self) -> list[Level]:
        outputs = self._outputs
        encodes = "encoder" in outputs
        neck = _as_maps(outputs["encoder"], outputs["mapper"]) if encodes else outputs["neck"]
        # timm's channels-last families have a layer norm for each map (`TimmPyramid.norms`).
        normed = len(getattr(self.network.backbone, "norms", ())) > 0
        return [
            *(Level("backbone", FINEST * 2**i, x, normed) for i, x in enumerate(outputs["backbone"])),
            *(Level("neck", FINEST * 2**i, x, encodes) for i, x in enumerate(neck)),
        ]

    def _forget(self, *_: Any) -> None:
        self._outputs.clear()
        self.fusions.clear()

    def _keeps(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self._outputs[name] = output

        return hook

    def _meets(self, name: str) -> Any:
        def hook(module: FINE, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
            self.fusions.append(Fusion(name, module, *inputs))

        return hook


def _as_maps(cells: Tensor, like: list[Tensor]) -> list[Tensor]:
    """[B,S,C] -> [B,C,H,W] of each level, the sizes those of `like`."""
    counts = [x.shape[-2] * x.shape[-1] for x in like]
    split = cells.split(counts, 1)
    return [rows.transpose(1, 2).unflatten(2, x.shape[-2:]) for rows, x in zip(split, like, strict=True)]
