"""Networks that take a canonical image and its context.

Every model here is a `Classifier`: `image` uint8 [N, H, W, 3] and `context` float32 [N, F], both raw, go in;
scaling, colour statistics and the context's standardisation are buffers of the module, so the exported graph
carries them and a client never needs to know them.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import safetensors.torch
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

CONTEXT_LIMIT = 4.0
"""Standardised context is clipped here: one odd sender must not drown the picture."""
CONTEXT_UNITS = 32
GRID = 4
"""The compact network's last map is pooled to at most GRID × GRID places, not to one: where a stroke or a sleeve is
says much (digits, 12 epochs at the default rate: 68% with one place, 99% with 16)."""
EMBEDDING = 64
"""Width of the compact network's embedding."""


class BuildError(Exception):
    """A network cannot be built as asked; the message says why and what would do."""

    for_people = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Everything that is needed to build the module again, JSON-plain. Weights are kept beside it."""

    kind: Literal["sklearn", "resnet", "torchvision"]
    classes: int
    context: int
    """Width F of the context."""
    size: int
    """Side S of the canonical image, in pixels."""
    options: dict[str, Any] = field(default_factory=dict)
    """sklearn: pixels. resnet: width, blocks. torchvision: architecture, side, and pixels = "caffe" for such a one."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Classifier(nn.Module):
    """A body that sees the picture, and a head that also sees the context."""

    def __init__(self, spec: ModelSpec, body: nn.Module, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.body = body
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.context_mean: Tensor
        self.context_std: Tensor
        self.caffe = spec.options.get("pixels") == "caffe"
        """Takes blue-green-red, 0 to 255, less a fixed mean, as networks of Caffe's days do."""
        self.register_buffer("pixel_mean", torch.full((3,), 0.5))
        self.register_buffer("pixel_std", torch.full((3,), 0.25))
        self.register_buffer("context_mean", torch.zeros(spec.context))
        self.register_buffer("context_std", torch.ones(spec.context))
        if self.caffe:
            self.set_pixels(CAFFE_MEAN, CAFFE_STD)
        self.head = Head(width, spec)

    def set_pixels(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Colour statistics of the training images, as shares of 255, one a channel."""
        self.pixel_mean.copy_(torch.tensor(mean))
        self.pixel_std.copy_(torch.tensor(std).clamp_min(1e-3))

    def set_context(self, mean: NDArray[np.floating], std: NDArray[np.floating]) -> None:
        """Statistics of the training rows' context. A column that never varies gets no say."""
        self.context_mean.copy_(torch.as_tensor(mean, dtype=torch.float32))
        spread = torch.as_tensor(std, dtype=torch.float32)
        self.context_std.copy_(torch.where(spread > 1e-6, spread, torch.full_like(spread, math.inf)))

    def pixels(self, image: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] → normalised float [N, 3, H, W]; the strides are channels-last as they come."""
        scale = 1.0 / (255.0 * self.pixel_std)
        pixels = (image.float() * scale - self.pixel_mean / self.pixel_std).permute(0, 3, 1, 2)
        return pixels.flip(1) if self.caffe else pixels

    def known(self, context: Tensor) -> Tensor:
        """Raw context → standardised and clipped [N, F]."""
        return ((context - self.context_mean) / self.context_std).clamp(-CONTEXT_LIMIT, CONTEXT_LIMIT)

    def forward(self, image: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, C], and the embedding [N, E]: what the body saw, before the context joins."""
        return self.decide(self.pixels(image), self.known(context))

    def decide(self, pixels: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` on what `pixels` and `known` gave: training augments between the two."""
        embedding = self.body(pixels)
        return self.head(embedding, known), embedding

    def by_picture(self, embedding: Tensor, context: Tensor, about_picture: Tensor) -> Tensor:
        """Logits [N, C] by the picture alone: as if it came from the average sender of the training rows.

        What is known of a sender grows from day to day, and the answers with it, while no picture changes: whether the
        world did is judged by these.

        Args:
            embedding: [N, E], of `forward`.
            context: [N, F], raw.
            about_picture: float32 [F], 1 where a column is about the picture, 0 where it is about the sender.
        """
        return self.head(embedding, self.known(context) * about_picture)


class Head(nn.Module):
    """Linear on the picture's features and a few units that read the context."""

    def __init__(self, width: int, spec: ModelSpec) -> None:
        super().__init__()
        self.context = nn.Linear(spec.context, CONTEXT_UNITS)
        self.classes = nn.Linear(width + CONTEXT_UNITS, spec.classes)

    def forward(self, embedding: Tensor, known: Tensor) -> Tensor:
        return self.classes(torch.cat([embedding, functional.relu(self.context(known))], dim=1))


# --------------------------------------------------------------------------------------- the linear baseline


class SmallPicture(nn.Module):
    """The picture averaged down to `pixels` × `pixels` × 3, as one row a photo."""

    def __init__(self, pixels: int, size: int) -> None:
        super().__init__()
        self.pixels = min(pixels, size)
        # A pool with a fixed window exports as one node; sides that do not divide are padded by repetition.
        self.window = math.ceil(size / self.pixels)
        self.pad = self.window * self.pixels - size

    def forward(self, pixels: Tensor) -> Tensor:
        if self.pad:
            pixels = functional.pad(pixels, (0, self.pad, 0, self.pad), mode="replicate")
        return functional.avg_pool2d(pixels, self.window).flatten(1)


class LinearClassifier(Classifier):
    """What scikit-learn's logistic regression learned, as a module (`training/baseline.py` fills it)."""

    def __init__(self, spec: ModelSpec) -> None:
        body = SmallPicture(int(spec.options["pixels"]), spec.size)
        super().__init__(spec, body, width=1)
        self.head = LinearHead(3 * body.pixels**2, spec)  # type: ignore[assignment]


class LinearHead(nn.Module):
    def __init__(self, width: int, spec: ModelSpec) -> None:
        super().__init__()
        self.classes = nn.Linear(width + spec.context, spec.classes)

    def forward(self, embedding: Tensor, known: Tensor) -> Tensor:
        return self.classes(torch.cat([embedding, known], dim=1))


# ---------------------------------------------------------------------------------- the compact residual net


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut (He et al. 2015); halves the picture where it widens."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        # Starting as the identity trains faster (Goyal et al. 2017).
        nn.init.zeros_(self.norm2.weight)
        self.stride = stride
        self.match = nn.Conv2d(inside, outside, 1, bias=False) if inside != outside else None

    def forward(self, x: Tensor) -> Tensor:
        short = functional.avg_pool2d(x, self.stride, ceil_mode=True) if self.stride > 1 else x
        if self.match is not None:
            short = self.match(short)
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(short + self.norm2(self.conv2(y)))


class ResnetBody(nn.Module):
    def __init__(self, width: int, blocks: Sequence[int], size: int) -> None:
        super().__init__()
        # Large pictures are brought to at most 32 pixels at the door, where pixels are dear and say little.
        stride = 2 ** max(0, math.ceil(math.log2(size / 32)))
        kernel = 3 if stride == 1 else 2 * stride
        side = math.ceil(size / stride)
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, kernel, stride, (kernel - stride + 1) // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        inside = width
        for stage, count in enumerate(blocks):
            outside = width * 2**stage
            for number in range(count):
                halve = bool(stage) and not number
                layers.append(Block(inside, outside, stride=2 if halve else 1))
                inside, side = outside, math.ceil(side / 2) if halve else side
        self.layers = nn.Sequential(*layers)
        self.size = size
        self.window = math.ceil(side / GRID)
        self.grid = math.ceil(side / self.window)
        self.neck = nn.Linear(inside * self.grid**2, EMBEDDING, bias=False)
        self.norm = nn.BatchNorm1d(EMBEDDING)
        self.width = EMBEDDING

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.layers(pixels)
        if pixels.shape[-1] == self.size:
            # A pool with a fixed window exports as one node.
            seen = functional.avg_pool2d(maps, self.window, ceil_mode=True)
        else:
            # Smaller pictures, as training shows them first.
            seen = functional.adaptive_avg_pool2d(maps, self.grid)
        return functional.relu(self.norm(self.neck(seen.flatten(1))))


# ------------------------------------------------------------------------------------ torchvision, by name

LEAST_SIDE = {"alexnet": 64, "googlenet": 64, "inception_v3": 96, "squeezenet": 48, "vit": 224, "maxvit": 224}
"""Sides below which an architecture (by the start of its name) cannot work, or the one it is made for."""
PRETRAINED_SIDE = 112
"""Published weights saw 224 pixels: half of that keeps most of what they know at a quarter of the cost."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN, CAFFE_STD = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)
"""In red, green, blue, as shares of 255: of the VGG networks' own publication (Simonyan & Zisserman 2014), which take
blue first and are scaled by nothing."""
VGG_SIDE = 224
"""Below it a VGG goes without its two 4,096-wide layers: nine tenths of its weights, made for a 7 × 7 map."""


class TorchvisionBody(nn.Module):
    """An architecture without its classifier: pixels in, features out, at a side it can work with."""

    def __init__(self, architecture: str, side: int) -> None:
        super().__init__()
        self.side = side
        self.network = _network(architecture)
        if isinstance(self.network, torchvision.models.VGG) and side < VGG_SIDE:
            self.network.avgpool = nn.AdaptiveAvgPool2d(1)
            self.network.classifier = nn.Sequential(nn.Linear(512, 1))
        self.width = _cut_classifier(self.network, architecture)

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.shape[-1] != self.side:
            pixels = functional.interpolate(pixels, size=(self.side, self.side), mode="bilinear", align_corners=False)
        return self.network(pixels).flatten(1)


def torchvision_side(architecture: str, size: int, *, pretrained: bool) -> int:
    """The side at which an architecture sees a canonical image of `size` pixels."""
    least = next((side for start, side in LEAST_SIDE.items() if architecture.startswith(start)), 32)
    if least == 224:
        return least
    return max(size, least, PRETRAINED_SIDE if pretrained else 0)


def _network(architecture: str) -> nn.Module:
    try:
        builder = torchvision.models.get_model_builder(architecture)
    except ValueError:
        known = ", ".join(torchvision.models.list_models(module=torchvision.models))
        raise BuildError(f"architecture {architecture!r}: torchvision has none of this name. It has {known}") from None
    if architecture in ("googlenet", "inception_v3"):
        return builder(weights=None, aux_logits=False, init_weights=True)
    return builder(weights=None)


def _cut_classifier(network: nn.Module, architecture: str) -> int:
    """Replace the last layer by nothing; gives the width of what comes out then."""
    for name in ("fc", "classifier", "head", "heads"):
        part = getattr(network, name, None)
        if isinstance(part, nn.Linear):
            setattr(network, name, nn.Identity())
            return part.in_features
        if isinstance(part, nn.Sequential):
            found = [(key, layer) for key, layer in part.named_children() if isinstance(layer, nn.Linear | nn.Conv2d)]
            if found:
                key, last = found[-1]
                setattr(part, key, nn.Identity())
                return last.in_features if isinstance(last, nn.Linear) else last.in_channels
    raise BuildError(f"architecture {architecture!r}: is no classification network that ends in a linear layer")


def load_weights(model: Classifier, weights: str) -> None:
    """Put published weights (a name such as `IMAGENET1K_V1`, downloaded) or a safetensors file into the body.

    Raises:
        BuildError: no such weights, they cannot be fetched, or they are another architecture's.
    """
    body = model.body
    if not isinstance(body, TorchvisionBody):
        raise BuildError("weights are for torchvision architectures")
    architecture = model.spec.options["architecture"]
    state = _safetensors(Path(weights)) if weights.endswith(".safetensors") else _published(architecture, weights)
    own = body.network.state_dict()
    # The classifier was cut off, and auxiliary heads are not built: what is left over of those is not missed.
    state = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    missing = sorted(set(own) - set(state))
    if missing:
        raise BuildError(
            f"weights {weights!r}: are not {architecture}'s, {len(missing)} of {len(own)} tensors are missing or of "
            f"another shape, such as {missing[0]}"
        )
    body.network.load_state_dict(state)
    if not model.caffe:
        model.set_pixels(IMAGENET_MEAN, IMAGENET_STD)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise BuildError(f"weights {path}: no such file") from None
    except safetensors.SafetensorError as error:
        raise BuildError(f"weights {path}: not a safetensors file: {error}") from error


def _published(architecture: str, name: str) -> dict[str, Tensor]:
    known = torchvision.models.get_model_weights(architecture)
    if name not in known.__members__:
        raise BuildError(f"weights {name!r}: {architecture} has {', '.join(known.__members__) or 'none'}")
    try:
        # weights_only: the file is a pickle, of which nothing but tensors may come.
        return dict(known[name].get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (URLError, OSError, RuntimeError) as error:
        raise BuildError(
            f"weights {name!r} of {architecture}: cannot be fetched from {known[name].url} ({error}). "
            "Give a path to a .safetensors file instead, or none"
        ) from error


# ---------------------------------------------------------------------------------------------- the one door


def build(spec: ModelSpec) -> Classifier:
    """The module that `spec` describes, with fresh weights from torch's random state.

    Raises:
        BuildError: no such architecture, or a picture too small for it.
    """
    if spec.kind == "sklearn":
        return LinearClassifier(spec)
    body: ResnetBody | TorchvisionBody
    if spec.kind == "resnet":
        body = ResnetBody(int(spec.options["width"]), tuple(spec.options["blocks"]), spec.size)
    else:
        body = TorchvisionBody(spec.options["architecture"], int(spec.options["side"]))
    return Classifier(spec, body, body.width)


def pixel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation a channel, as shares of 255, of uint8 [N, H, W, 3]."""
    # By histogram: exact, and eight times as fast as numpy's own mean and deviation along a short last axis.
    counts = np.stack([np.bincount(images[..., channel].ravel(), minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    variance = (shares * np.square(values - mean[:, None])).sum(axis=1)
    return mean.tolist(), np.sqrt(variance).tolist()
