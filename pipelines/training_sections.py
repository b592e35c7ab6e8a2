"""The parts of a recipe that say what is trained, how, and for how long."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipelines.sections import Section


class CandidateBase(Section):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    seed: int = 7
    drift_weight: float = Field(default=1.0, ge=1, le=100)
    """How many times as much as another a row counts that was captured since the drift that asked for the training. A
    network sees it so many times as often. Where no drift asked, all rows count alike."""


class SklearnCandidate(CandidateBase):
    """Logistic regression on a small picture and the context: the baseline before there is a champion."""

    kind: Literal["sklearn"]
    pixels: int = Field(default=8, ge=2, le=64)
    """Side of the averaged picture that it sees."""
    c: float = Field(default=0.1, gt=0)
    """Inverse of the regularisation."""


class NetworkCandidate(CandidateBase):
    """What both network kinds share."""

    seeds: int = Field(default=1, ge=1, le=20)
    """How often it is fitted, each time from another seed. The judge takes the middle one and asks what all of them
    gain on the average: a lucky seed is not promoted."""
    epochs: int = Field(default=12, ge=1, le=10_000)
    batch: int = Field(default=64, ge=2, le=65_536)
    lr: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    flip: bool = False
    """Mirror training photos at random; not for digits."""
    shift: float = Field(default=0.08, ge=0, le=0.5)
    """Random shift, as a share of the side."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many epochs without a better validation loss; 0: never."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 where the chip multiplies it natively."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay a step of averaged weights, which are then what is validated and kept; 0: no average."""
    compile: bool = False
    """torch.compile: fewer, larger operations, for a minute of compiling at the start."""


class ResnetCandidate(NetworkCandidate):
    """A compact residual network with a context head, from scratch."""

    kind: Literal["resnet"]
    width: int = Field(default=16, ge=4, le=256)
    blocks: tuple[int, ...] = (1, 1, 1)
    """Residual blocks a stage; each stage after the first halves the picture and doubles the width."""
    progressive: float = Field(default=1.0, gt=0.2, le=1)
    """Side of the pictures at the beginning, as a share of `image.size`; it grows to the whole with the training."""


class TorchvisionCandidate(NetworkCandidate):
    """Any torchvision classification architecture by name."""

    kind: Literal["torchvision"]
    architecture: str
    """A name that `torchvision.models.get_model` knows, such as `resnet18`."""
    weights: str = ""
    """Published weights such as `IMAGENET1K_V1` (downloaded), a path to safetensors, or empty for none."""
    pixels: Literal["torchvision", "caffe"] = "torchvision"
    """What the network is told of a pixel: red, green, blue, scaled to the training images' (or the weights') mean and
    spread; or, for weights that came from Caffe, blue, green, red from 0 to 255 less a fixed mean."""


Candidate = Annotated[SklearnCandidate | ResnetCandidate | TorchvisionCandidate, Field(discriminator="kind")]


class Budget(Section):
    """What one training may take."""

    train_minutes: float = Field(default=30, gt=0)
    """Of each candidate. The learning rate's way is fitted to it where the epochs would take longer."""
    gpu_hours: float = Field(default=0.0, ge=0)
    """The same in hours of a GPU; 0: no such limit. On a CPU it is none."""
    money: float = Field(default=0.0, ge=0)
    """The same in `currency`, at `price_per_hour`; 0: no such limit. The limit that is reached first counts."""
    price_per_hour: float = Field(default=0.0, ge=0)
    """What an hour of training costs; 0: nobody counts it."""
    currency: str = "EUR"

    @model_validator(mode="after")
    def _priced(self) -> "Budget":
        if self.money and not self.price_per_hour:
            raise ValueError(f"money={self.money:g}: needs price_per_hour, what an hour costs")
        return self


class Input(Section):
    """How photos come to the network."""

    pipeline: Literal["auto", "memory", "decode", "shards"] = "auto"
    """`memory`: all canonical pictures in memory. `shards`: from disk, memory-mapped. `decode`: photos as they came,
    decoded when they are wanted. `auto` measures the first two for a moment and takes the faster there is room for."""
    workers: int = Field(default=0, ge=0, le=1024)
    """Threads that decode; 0: one for each core."""
