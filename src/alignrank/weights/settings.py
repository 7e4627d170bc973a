"""What a recipe says beside its architecture: how to train, how pictures are augmented, how they are shaped.

It stands below the data, which it configures: weights carry a recipe, and are used without any data set.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from alignrank.config import Config
from alignrank.input_size import problem_of


def _size(imgsz: Any) -> Any:
    problem = problem_of(imgsz)
    if problem is not None:
        raise ValueError(problem)
    return imgsz


class TrainConfig(Config):
    """How to train. `imgsz`: the longer side, or [shorter, longer] (see `input_size`); `batch` is per process; lr falls
    to final_lr * lr; `freeze` names modules (e.g. backbone).

    schedule `step`: a tenth of the rate after each of the epochs `milestones`. bias_lr: rate of biases other than
    norms', in parts of lr.
    save_every: keep the averaged weights of each so many epochs, too, as epoch_NNNN.safetensors; 0: not.
    """

    epochs: int = Field(default=100, ge=1, le=100_000)
    batch: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = 16
    imgsz: Annotated[int | list[int], AfterValidator(_size)] = 640
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=0.0015, gt=0, le=10, allow_inf_nan=False)
    final_lr: float = Field(default=0.01, ge=0, le=1)
    schedule: Literal["linear", "cosine", "constant", "step"] = "linear"
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    warmup_epochs: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0005, ge=0, le=1)
    backbone_lr: float = Field(default=1.0, gt=0, le=1)
    bias_lr: float = Field(default=1.0, gt=0, le=10)
    clip_norm: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    ema_decay: float = Field(default=0.9998, ge=0, lt=1)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    patience: int = Field(default=0, ge=0, le=100_000)
    freeze: list[str] = Field(default_factory=list)
    seed: int = Field(default=0, ge=0, lt=2**32)
    val_every: int = Field(default=1, ge=1, le=100_000)
    save_every: int = Field(default=0, ge=0, le=100_000)
    cache: Literal["auto", "ram", "off"] = "auto"

    @field_validator("cache", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return "off" if value is False else value  # YAML reads the word so


class DataConfig(Config):
    """rect: the network's input has the image's own shape, both sides rounded up to a multiple of the stride, instead
    of a square. `auto`: where the weights are used and evaluated, but not in training. A pair as `imgsz` is never
    square.
    """

    rect: bool | Literal["auto"] = "auto"

    @property
    def rect_in_training(self) -> bool:
        """Also of the pictures that the network learns from."""
        return self.rect is True

    @property
    def rect_in_use(self) -> bool:
        """Of evaluation and prediction."""
        return self.rect is not False


class AugmentConfig(Config):
    """Probabilities and ranges; all 0 is plain letterboxing.

    mosaic, mixup, flip, flip_vertical: probabilities. scale: zoom in [1-scale, 1+scale]; translate: shift
    as a share of the side; hue (turns), saturation, brightness: half-ranges around no change.
    multi_scale: batch sides vary by this share. plain_epochs: the last epochs go without mosaic and mixup.
    """

    mosaic: float = Field(default=1.0, ge=0, le=1)
    mixup: float = Field(default=0.0, ge=0, le=1)
    flip: float = Field(default=0.5, ge=0, le=1)
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    scale: float = Field(default=0.5, ge=0, lt=1)
    translate: float = Field(default=0.1, ge=0, lt=1)
    hue: float = Field(default=0.015, ge=0, le=0.5)
    saturation: float = Field(default=0.7, ge=0, le=1)
    brightness: float = Field(default=0.4, ge=0, le=1)
    multi_scale: float = Field(default=0.0, ge=0, lt=1)
    plain_epochs: int = Field(default=10, ge=0, le=100_000)

    @classmethod
    def off(cls) -> AugmentConfig:
        """No augmentation at all."""
        return cls(mosaic=0.0, flip=0.0, scale=0.0, translate=0.0, hue=0.0, saturation=0.0, brightness=0.0)
