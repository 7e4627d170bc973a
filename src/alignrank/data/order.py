"""Which images come when: shuffled for training, in batches of like shape where canvases have the images' shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from alignrank.data.samples import Array
from alignrank.input_size import Size

Order = Callable[[np.random.Generator], Array]


@dataclass(frozen=True, slots=True)
class Share:
    """What one process sees of a training: every `ranks`-th picture from the `rank`-th on; from `epoch` on, without its
    first `skip` pictures of that epoch, where a training goes on.
    """

    rank: int = 0
    ranks: int = 1
    epoch: int = 0
    skip: int = 0


ALL = Share()


def shuffled(count: int) -> Order:
    """All of `count` indices in any order."""
    return lambda rng: rng.permutation(count)


def shuffled_by_shape(canvases: Sequence[Size], batch: int, draw: Order | None = None) -> Order:
    """Indices in an order whose batches hold pictures of like shape, as far as there are such; batches in any order.

    What does not fill a batch comes last, of any shape. draw: the numbers that are ordered, by their rest to the number
    of canvases; all of `canvases` once where it is not given.
    """
    draw = draw or shuffled(len(canvases))
    count = len(canvases)
    ratio = np.array([height / width for height, width in canvases])
    area = np.array([height * width for height, width in canvases])

    def order(rng: np.random.Generator) -> Array:
        drawn = draw(rng)
        whole = len(drawn) - len(drawn) % batch
        full = drawn[:whole]
        full = full[np.lexsort((area[full % count], ratio[full % count]))].reshape(-1, batch)
        return np.concatenate([full[rng.permutation(len(full))].flatten(), drawn[whole:]])

    return order


def batches_by_shape(canvases: Sequence[Size], batch: int) -> list[list[int]]:
    """Batches of indices, in each of which all canvases are equal: nothing is padded, so what a network says of an
    image does not depend on its neighbours.
    """
    of_shape: dict[Size, list[int]] = {}
    for index, canvas in enumerate(canvases):
        of_shape.setdefault(canvas, []).append(index)
    return [indices[i : i + batch] for indices in of_shape.values() for i in range(0, len(indices), batch)]


class EpochSampler(Sampler[tuple[int, int]]):
    """(epoch, index) pairs in an order that depends on (seed, epoch); each of `ranks` processes gets its share.

    The share is the same for all (the order wraps around), and consecutive pairs go to different ranks, so
    that the processes' batches together are the batch that one process would see. order: draws the indices of an
    epoch.
    """

    def __init__(self, order: Order, count: int, *, seed: int, share: Share = ALL) -> None:
        self.order, self.count, self.seed, self.share = order, count, seed, share
        self.epoch = share.epoch

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at each epoch's begin."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.count // self.share.ranks)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank, ranks = self.share.rank, self.share.ranks
        order = np.resize(self.order(np.random.default_rng([self.seed, self.epoch])), len(self) * ranks)
        seen = self.share.skip if self.epoch == self.share.epoch else 0
        return iter([(self.epoch, int(index)) for index in order[rank::ranks][seen:]])
