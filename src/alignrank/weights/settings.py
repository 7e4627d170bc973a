"""What a recipe says beside its architecture: how to train, how pictures are augmented, how they are shaped.

It stands below the data, which it configures: weights carry a recipe, and are used without any data set.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from alignrank.config import Config
from alignrank.input_size import Fit, Sides, plain_size, problem_of


def _size(imgsz: Any) -> Any:
    imgsz = plain_size(imgsz)
    imgsz = list(imgsz) if isinstance(imgsz, tuple) else imgsz
    problem = problem_of(imgsz)
    if problem is not None:
        raise ValueError(problem)
    return imgsz


class TrainConfig(Config):
    """How to train."""

    epochs: int = Field(default=100, ge=1, le=100_000)
    """Passes over the training images."""
    batch: Annotated[int, Field(ge=1, le=65_536)] | Literal["auto"] = 16
    """Images per step and process; `auto`: as many as the GPU's memory holds."""
    imgsz: Annotated[int | list[int], BeforeValidator(_size)] = 640
    """Longer side of the input, px, or [shorter, longer] (see `input_size`)."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with momentum."""
    lr: float = Field(default=0.0015, gt=0, le=10, allow_inf_nan=False)
    """Peak learning rate."""
    final_lr: float = Field(default=0.01, ge=0, le=1)
    """Learning rate at the end, in parts of `lr`."""
    schedule: Literal["linear", "cosine", "constant", "step"] = "linear"
    """How it falls; `step`: to a tenth after each of `milestones`."""
    milestones: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)
    """Epochs, of the schedule `step`."""
    warmup_epochs: float = Field(default=3.0, ge=0, allow_inf_nan=False)
    """In which the rate rises from 0."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD; AdamW's first beta."""
    weight_decay: float = Field(default=0.0005, ge=0, le=1)
    """Of weights; norms and biases do not decay."""
    backbone_lr: float = Field(default=1.0, gt=0, le=1)
    """Rate of a timm backbone, in parts of `lr`."""
    bias_lr: float = Field(default=1.0, gt=0, le=10)
    """Rate of biases other than norms', in parts of `lr`."""
    clip_norm: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    """Largest norm of the gradient; 0: as it comes."""
    accumulate: int = Field(default=1, ge=1, le=65_536)
    """Batches of one step."""
    ema_decay: float = Field(default=0.9998, ge=0, lt=1)
    """Of the moving average of the weights, which is evaluated and saved; 0: the weights themselves."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the device computes in it, else fp16 on a GPU, else fp32."""
    patience: int = Field(default=0, ge=0, le=100_000)
    """Epochs without a better AP after which the training ends; 0: never."""
    freeze: list[str] = Field(default_factory=list)
    """Modules that do not learn, such as `backbone`."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything random."""
    val_every: int = Field(default=1, ge=1, le=100_000)
    """Epochs from one evaluation to the next."""
    save_every: int = Field(default=0, ge=0, le=100_000)
    """Keep the averaged weights of each so many epochs, too, as epoch_NNNN.safetensors; 0: not."""
    cache: Literal["auto", "ram", "off"] = "auto"
    """Decoded images in memory: where they fit (`auto`), in any case (`ram`), or not."""
    loggers: list[Literal["csv", "tensorboard", "mlflow", "wandb"]] | Literal["auto"] = "auto"
    """Where figures go: some of csv, tensorboard, mlflow, wandb; `auto`: csv, and tensorboard if it is installed."""

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
    """The input has the image's own shape, not a square; `auto`: in use and evaluation, not in training."""
    place: Literal["middle", "corner"] = "middle"
    """Where the image lies on its canvas; `corner`: the upper left, which masks of the padding need."""
    fit: Sides = "nearest"
    """How sides become whole pixels, see `input_size.Fit`; `stretch`: each with its own factor, to fill the canvas."""
    antialias: bool = True
    """Resized with a filter as wide as the reduction, to whole numbers; else between four pixels, to floats."""
    repeat_threshold: float = Field(default=0.0, ge=0, le=1, allow_inf_nan=False)
    """Images with a class that fewer than this share of the images shows come more often in training; 0: not."""

    @property
    def rect_in_training(self) -> bool:
        """Also of the pictures that the network learns from."""
        return self.rect is True

    @property
    def rect_in_use(self) -> bool:
        """Of evaluation and prediction."""
        return self.rect is not False

    @property
    def fitting(self) -> Fit:
        """Of all pictures, in training and in use."""
        return Fit(self.fit, self.antialias, self.place == "corner")


class AugmentConfig(Config):
    """Probabilities and ranges; all 0 is plain letterboxing."""

    mosaic: float = Field(default=1.0, ge=0, le=1)
    """Probability that four images become one."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    """Probability that two images are mixed."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring left to right."""
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring top to bottom."""
    scale: float = Field(default=0.5, ge=0, lt=1)
    """Zoom in [1 - scale, 1 + scale]."""
    translate: float = Field(default=0.1, ge=0, lt=1)
    """Shift, at most this share of the side."""
    hue: float = Field(default=0.015, ge=0, le=0.5)
    """Largest turn of the colour circle, of 1."""
    saturation: float = Field(default=0.7, ge=0, le=1)
    """Largest change, in parts."""
    brightness: float = Field(default=0.4, ge=0, le=1)
    """Largest change, in parts."""
    multi_scale: float = Field(default=0.0, ge=0, lt=1)
    """Sides of batches vary by this share."""
    plain_epochs: int = Field(default=10, ge=0, le=100_000)
    """The last epochs, which go without mosaic and mixup."""
    shortest: float = Field(default=1.0, gt=0, le=1)
    """Pictures as small as this share of `imgsz`, by steps of 32 px."""
    crop: float = Field(default=0.0, ge=0, le=1)
    """Probability of a cut at random, resized before and after, as DETR trains."""

    @model_validator(mode="after")
    def _no_canvas(self) -> Self:
        for field in ("mosaic", "mixup", "scale", "translate"):
            if self.rescales and getattr(self, field) != 0:
                raise ValueError(f"{field}: must be 0 beside shortest and crop, got {getattr(self, field)}")
        return self

    @property
    def rescales(self) -> bool:
        """Pictures have random sizes of their own, and lie on no canvas."""
        return self.shortest < 1 or self.crop > 0

    @classmethod
    def off(cls) -> AugmentConfig:
        """No augmentation at all."""
        return cls(mosaic=0.0, flip=0.0, scale=0.0, translate=0.0, hue=0.0, saturation=0.0, brightness=0.0)
