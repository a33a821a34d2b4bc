"""AlexNet's two towers as two workers: a worked example of model parallelism (Krizhevsky et al. 2012, section 3.2).

    torchrun --nproc-per-node 2 -m sevenloops.train.towers --data fashion-mnist     # a tower in each process
    python -m sevenloops.train.towers --data fashion-mnist                          # both in one: the same numbers

Each worker holds half of the output channels of every layer, and both see the same pictures. The second, fourth and fifth
convolution read the channels of their own tower only; the third convolution and the fully connected layers read both. So
the workers talk where those layers begin, and at the scores: five times in a forward pass, and five times backwards. The
normalisation sees the channels of its own tower, as each of the paper's GPUs did.

A layer's weights in tower t are the t-th half of its rows in the whole network, so `build("alexnet_two_towers")`, whose
convolutions have two groups, has both towers' weights, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

from .errors import TrainingError

__all__ = ["TOWERS", "Dropout", "Exchange", "OneProcess", "Tower", "Worker"]

TOWERS = 2
#: Output channels of the five convolutions, and of the hidden fully connected layers, of both towers together.
WIDTHS, HIDDEN = (96, 256, 384, 384, 256), 4096


class Dropout(nn.Module):
    """Dropout by a generator of its own, so that a tower draws the same numbers wherever it runs."""

    def __init__(self, p: float, seed: int) -> None:
        super().__init__()
        self.p = p
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: Any) -> Any:
        """Zero a share p of the values, and scale the others by 1 / (1 - p), in training."""
        if not self.training:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= self.p
        return x * kept / (1 - self.p)


class Tower(nn.Module):
    """One tower in five stages; before each but the first, the channels of both towers are put side by side.

    Its layers are called as in `build("alexnet_two_towers")`. `side` is that of the pictures, at least 67.
    """

    def __init__(
        self, tower: int, side: int, channels: int, classes: int, *, widths: Sequence[int] = WIDTHS, hidden: int = HIDDEN,
        dropout: float = 0.5, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if any(n % TOWERS for n in (*widths, hidden, classes)):
            raise TrainingError(f"channels, hidden units and classes must be even: {(*widths, hidden, classes)}")
        if side < 67:
            raise TrainingError(f"AlexNet's pools leave nothing of pictures below 67 x 67, got {side}")
        one, two, three, four, five = (width // TOWERS for width in widths)
        pooled = side
        for kernel, stride, padding in ((11, 4, 0), (3, 2, 0), (3, 2, 0), (3, 2, 0)):
            pooled = (pooled + 2 * padding - kernel) // stride + 1
        self.conv1 = nn.Conv2d(channels, one, 11, 4)
        self.conv2 = nn.Conv2d(one, two, 5, padding=2)
        self.conv3 = nn.Conv2d(TOWERS * two, three, 3, padding=1)
        self.conv4 = nn.Conv2d(three, four, 3, padding=1)
        self.conv5 = nn.Conv2d(four, five, 3, padding=1)
        self.fc6 = nn.Linear(TOWERS * five * pooled**2, hidden // TOWERS)
        self.fc7 = nn.Linear(hidden, hidden // TOWERS)
        self.fc8 = nn.Linear(hidden, classes // TOWERS)
        relu, pool, norm = nn.ReLU(), nn.MaxPool2d(3, 2), nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
        drops = [Dropout(dropout, 10 * seed + TOWERS * at + tower) for at in range(2)]
        self.stages = (
            nn.Sequential(self.conv1, relu, norm, pool, self.conv2, relu, norm, pool),
            nn.Sequential(self.conv3, relu, self.conv4, relu, self.conv5, relu, pool),
            nn.Sequential(nn.Flatten(), self.fc6, relu, drops[0]),
            nn.Sequential(self.fc7, relu, drops[1]),
            self.fc8,
        )
        self.drops = nn.ModuleList(drops)
        self.tower = tower

    def load_whole(self, state: Mapping[str, Any]) -> Tower:
        """Take this tower's half of the whole network's weights: `conv1.weight` to `fc8.bias`."""
        own = {name: torch.as_tensor(state[name]).chunk(TOWERS)[self.tower] for name in self.state_dict()}
        self.load_state_dict(own)
        return self


class OneProcess(nn.Module):
    """Both towers in one process: what the two workers compute together."""

    def __init__(self, towers: Sequence[Tower]) -> None:
        super().__init__()
        self.towers = nn.ModuleList(towers)

    def forward(self, x: Any) -> Any:
        """Pictures (n, channels, side, side) to scores (n, classes)."""
        for stages in zip(*(tower.stages for tower in self.towers)):
            x = torch.cat([stage(x) for stage in stages], 1)
        return x


class Worker(nn.Module):
    """One tower in a process of its own; `talked` counts the bytes that it sent in forward passes, by stage."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        self.talked = [0] * len(tower.stages)

    def forward(self, x: Any) -> Any:
        """Pictures (n, channels, side, side), the same in both workers, to scores (n, classes), the same in both."""
        for at, stage in enumerate(self.tower.stages):
            own = stage(x)
            self.talked[at] += own.nbytes
            x = Exchange.apply(own, self.tower.tower, at == len(self.tower.stages) - 1)
        return x


class Exchange(torch.autograd.Function):
    """The channels of both workers side by side: `apply(own, tower, same)`.

    Backwards, a worker gets the gradient of its own channels, summed over what both made of them. With `same` both make the
    same of the result, as of the scores, whose loss each computes in full; then there is nothing to add up.
    """

    @staticmethod
    def forward(ctx: Any, own: Any, tower: int, same: bool) -> Any:
        """Gather."""
        ctx.tower, ctx.same = tower, same
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(TOWERS)]
        distributed.all_gather(parts, own)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None]:
        """Add up, and keep one's own."""
        gradient = gradient.contiguous()
        if not ctx.same:
            gradient = gradient.clone()
            distributed.all_reduce(gradient)
        return gradient.chunk(TOWERS, 1)[ctx.tower].contiguous(), None, None


def main() -> None:
    """Some steps on a data set; the loss of each tenth, and what the workers sent each other."""
    import argparse

    from .batches import training
    from .datasets import load_data
    from .pictures import colours
    from .recipes import recipe_for
    from .team import joined

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=67, help="of the pictures; the paper: 227")
    parser.add_argument("--width", type=float, default=0.25, help="of all layers, 1 is the paper's")
    args = parser.parse_args()
    widths = [2 * round(args.width * width / 2) for width in WIDTHS]
    hidden = 2 * round(args.width * HIDDEN / 2)
    recipe = recipe_for("alexnet_two_towers").changed(
        batch=args.batch, crop=args.side, resize=round(args.side * 256 / 227), scale="deviation"
    )
    with joined() as team:
        if team.world not in (1, TOWERS):
            raise TrainingError(f"there are {TOWERS} towers: start {TOWERS} processes or one, not {team.world}")
        data = load_data(args.data).resized(recipe.resize or args.side)
        shape = (args.side, data.channels, len(data.classes))
        torch.manual_seed(0)
        whole = [Tower(tower, *shape, widths=widths, hidden=hidden) for tower in range(TOWERS)]
        for weights in nn.ModuleList(whole).parameters():  # He's deviations; biases 0
            nn.init.kaiming_normal_(weights) if weights.dim() > 1 else nn.init.zeros_(weights)
        model: Any = Worker(whole[team.rank]) if team.world == TOWERS else OneProcess(whole)
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.lr, momentum=recipe.momentum)
        # Both workers see the same pictures: neither takes a share of the batch.
        epochs = training(data.train, recipe, colours(data.train), args.side, seed=0, workers=0)
        done = 0
        while done < args.steps:
            for images, labels in epochs.batches(done // epochs.steps):
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels)
                loss.backward()
                optimizer.step()
                done += 1
                if team.leads and (done % 10 == 0 or done == args.steps):
                    print(f"step {done}: loss {float(loss.detach()):.5f}")
                if done == args.steps:
                    break
        if team.leads and team.world == TOWERS:
            names = ("conv3", "fc6", "fc7", "fc8", "loss")
            for name, n_bytes in zip(names, model.talked):
                print(f"sent for {name}: {n_bytes // done:,} bytes in a forward pass")


if __name__ == "__main__":
    main()
