"""Normal numbers by Philox 4×32-10, computed on the device that asks for them.

Philox (Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3") maps a key
and a counter to four words of 32 bits; Box & Muller (1958) map two of them to two normals. The
words are integer arithmetic, equal on every device. The map is in float64, of which the result
keeps 24 bits: two devices whose logarithm, sine and cosine are right to the last places of float64
give another float32 about once in 10⁸ numbers, and then its neighbour.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
"""What is added to the key from round to round."""
ROUNDS = 10
AT_ONCE = 2**20
"""Counters whose words are computed together, about 150 MB; or those of one sample."""
WORD = 2**32
MASK = WORD - 1


def words(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox 4×32-10 of counters (4, n), each from 0 to 2³² − 1 in int64: four words, likewise."""
    high, low, keys = _constants(key, counter.device)
    # Both multiplications of a round at once, of words 0 and 2; words 1 and 3 are mixed in.
    multiplied, mixed = counter[0::2], counter[1::2]
    for round_key in keys:
        # The product has 64 bits and int64 a sign: by halves of the multiplier, nothing overflows.
        above, below = multiplied * high, multiplied * low
        top = (above + (below >> 16)) >> 16
        bottom = (((above & 0xFFFF) << 16) + below) & MASK
        multiplied, mixed = top.flip(0) ^ mixed ^ round_key, bottom.flip(0)
    return torch.stack([multiplied[0], mixed[0], multiplied[1], mixed[1]])


@functools.lru_cache(maxsize=256)
def _constants(key: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The halves of the multipliers, (2, 1) each, and the key of each round, (10, 2, 1). They lie
    on the device: to copy them there each time would wait for all that it has been given.
    """
    keys = [[(k + r * w) & MASK for k, w in zip(key, WEYL, strict=True)] for r in range(ROUNDS)]
    return (
        torch.tensor([[m >> 16] for m in MULTIPLIERS], device=device),
        torch.tensor([[m & 0xFFFF] for m in MULTIPLIERS], device=device),
        torch.tensor(keys, device=device)[..., None],
    )


def box_muller(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent normals, float64, of two words: up to 6.76 in size, that of a word of 0."""
    radius = (((first.double() + 0.5) / WORD).log() * -2).sqrt()
    angle = second.double() * (2 * math.pi / WORD)
    return radius * angle.cos(), radius * angle.sin()


def normals(
    seed: int,
    stream: int,
    indices: Sequence[int],
    step: int,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """``count`` normals for each of ``indices``, (B, count) float32 on ``device``.

    The key is the seed, of 64 bits. The counter is a block of four numbers, the index's lower
    word, the step, and the index's upper bits above eight of the stream: no two share a number.
    """
    blocks = -(-count // 4)
    if isinstance(indices, range):  # nothing to copy to the device
        index = torch.arange(indices.start, indices.stop, indices.step, device=device)
    else:
        index = torch.tensor(list(indices), dtype=torch.int64).to(device, non_blocking=True)
    drawn = torch.empty(len(indices), count, dtype=torch.float32, device=device)
    rows = max(1, AT_ONCE // max(blocks, 1))
    for some, into in zip(index.split(rows), drawn.split(rows), strict=True):
        counter = torch.empty(4, len(some), blocks, dtype=torch.int64, device=device)
        counter[0] = torch.arange(blocks, device=device)
        counter[1] = some[:, None] & MASK
        counter[2] = step
        counter[3] = (some[:, None] >> 32 << 8) + stream
        a, b, c, d = words(counter.flatten(1), (seed & MASK, seed >> 32))
        four = torch.stack([*box_muller(a, b), *box_muller(c, d)], -1).float()
        into.copy_(four.reshape(len(some), 4 * blocks)[:, :count])
    return drawn
