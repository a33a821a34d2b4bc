"""How networks are trained: a table of the recipes that they were published with, every number of which can be changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..models import find
from .errors import TrainingError

__all__ = ["RECIPES", "Recipe", "recipe_for"]

SCHEDULES = ("steps", "cosine", "constant")
INITS = ("he", "alexnet")
SCALES = ("deviation", "pixels")


@dataclass(frozen=True)
class Recipe:
    """One way to train: stochastic gradient descent with momentum on augmented pictures.

    Attributes:
        epochs: how often every picture is seen.
        batch: pictures in a step, in each process.
        lr: the learning rate at the start. momentum, weight_decay: as in PyTorch's SGD.
        schedule: "steps" divides the rate by 10 at each of `milestones`, which are shares of the epochs; "cosine" lets it
            fall to zero; "constant".
        warmup: epochs in which the rate grows from a tenth.
        resize: pictures are scaled to this shorter side first; None leaves them as they are.
        crop: the side of the network's input, cut at a random place; None: that of the pictures.
        pad: black pixels around the picture before it is cut.
        flip: half of the pictures are mirrored.
        colour: the deviation of a_i in the colour noise sum a_i p_i, with the principal axes p_i of the colours, each as
            long as the deviation along it; one draw for each picture (Krizhevsky et al. 2012, section 4.1).
        ten_crops: test on corners, middle and their mirrored forms, and average the ten probabilities.
        init: "he" (arXiv 1502.01852), or "alexnet": N(0, 0.01) and some biases 1 (section 5).
        scale: pixels less their mean, over their "deviation", or as they are, "pixels".
    """

    epochs: int
    batch: int
    lr: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "steps"
    milestones: tuple[float, ...] = (0.5, 0.75)
    warmup: float = 0.0
    resize: int | None = None
    crop: int | None = None
    pad: int = 0
    flip: bool = False
    colour: float = 0.0
    ten_crops: bool = False
    init: str = "he"
    scale: str = "deviation"

    def __post_init__(self) -> None:
        for name, known in (("schedule", SCHEDULES), ("init", INITS), ("scale", SCALES)):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        for name in ("epochs", "batch", "resize", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise TrainingError(f"{name} must be at least 1, got {value}")
        for name in ("lr", "momentum", "weight_decay", "warmup", "pad", "colour"):
            if not getattr(self, name) >= 0:
                raise TrainingError(f"{name} must not be negative, got {getattr(self, name)}")
        if not all(0 < share <= 1 for share in self.milestones):
            raise TrainingError(f"milestones are shares of the epochs, above 0 and at most 1; got {self.milestones}")

    @property
    def random(self) -> bool:
        """Whether anything is done to the pictures that depends on chance."""
        return bool(self.resize or self.crop or self.pad or self.flip or self.colour)

    def changed(self, **values: Any) -> Recipe:
        """Another recipe; values of None change nothing."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"milestones": list(self.milestones)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """From `to_dict`. Raises `TrainingError` for other fields."""
        if set(values) != {field.name for field in fields(cls)}:
            raise TrainingError(f"not a recipe of this version: it has {', '.join(sorted(values))}")
        return cls(**values | {"milestones": tuple(values["milestones"])})


#: Krizhevsky et al. (2012), sections 4 and 5; the rate was divided three times within 90 epochs, when it no longer helped.
ALEXNET = Recipe(
    epochs=90, batch=128, lr=0.01, milestones=(1 / 3, 2 / 3, 8 / 9), resize=256, crop=224, flip=True, colour=0.1,
    ten_crops=True, init="alexnet", scale="pixels",
)  # fmt: skip
#: alvinwan/shiftresnet-cifar; milestones are epochs 81 and 122 of 164. ResNets for CIFAR are trained alike there.
CIFAR = Recipe(epochs=164, batch=128, lr=0.1, milestones=(81 / 164, 122 / 164), pad=4, flip=True)
#: No recipe of 1998: plain SGD with momentum, on digits as they are.
LENET = Recipe(epochs=12, batch=64, lr=0.02, schedule="cosine")
#: AlexNet's augmentation, scaled to small pictures: 28 of 32 is 224 of 256. N(0, 0.01) is meant for layers that sum up some
#: thousand products; in layers of a quarter of the width it would let the signal vanish.
ALEXNET_SLIM = ALEXNET.changed(epochs=15, lr=0.02, resize=32, crop=28, schedule="cosine", init="he", scale="deviation")
#: ResNets and what came after them, for ImageNet (arXiv 1512.03385, section 3.4).
IMAGENET = Recipe(
    epochs=90, batch=256, lr=0.1, weight_decay=1e-4, milestones=(1 / 3, 2 / 3), resize=256, crop=224, flip=True, colour=0.1
)

#: Beginnings of names in the zoo, the longest that fits counts.
RECIPES: dict[str, Recipe] = {
    "": IMAGENET,
    "lenet5": LENET,
    "alexnet": ALEXNET,
    "alexnet_slim": ALEXNET_SLIM,
    "alexnet_one_tower": ALEXNET.changed(crop=227),
    "alexnet_two_towers": ALEXNET.changed(crop=227),
    "vgg": ALEXNET.changed(init="he", scale="deviation", ten_crops=False),
    "resnet20": CIFAR,
    "resnet56": CIFAR,
    "resnet110": CIFAR,
    "shiftresnet": CIFAR,
}


def recipe_for(model: str) -> Recipe:
    """The recipe of a network of the zoo. Raises `GraphError` for an unknown one."""
    name = find(model).name
    return RECIPES[max((key for key in RECIPES if name.startswith(key)), key=len)]
