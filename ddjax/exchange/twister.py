"""The order in which PyTorch's ``RandomSampler`` draws images from a seed: published soft labels do not store it.

A file of soft labels holds its batch's labels but not which images they belong to; its readers draw the same order
again from the same seed (42). So the order is part of the format, and is computed here: Matsumoto and Nishimura's
MT19937 (ACM TOMACS 8, 1998), seeded as in their 2002 initialisation, and a Fisher-Yates shuffle that takes
``r[i], r[i + z]`` with ``z = draw mod (n - i)``. An epoch draws a second permutation, of which nothing is used.
"""

from collections.abc import Iterator

import numpy as np

SIZE, SHIFT = 624, 397
UPPER, LOWER, TWIST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)


def words(seed: int) -> Iterator[np.ndarray]:
    """The generator's 32-bit numbers from ``seed`` on, 624 at a time."""
    state, last = np.empty(SIZE, np.uint32), seed & 0xFFFFFFFF
    for i in range(SIZE):
        state[i] = last
        last = (1812433253 * (last ^ (last >> 30)) + i + 1) & 0xFFFFFFFF
    spans = [(0, SIZE - SHIFT), (SIZE - SHIFT, 2 * (SIZE - SHIFT)), (2 * (SIZE - SHIFT), SIZE - 1), (SIZE - 1, SIZE)]
    while True:
        for start, stop in spans:  # within a span nothing depends on what the span makes
            place = np.arange(start, stop)
            y = (state[place] & UPPER) | (state[(place + 1) % SIZE] & LOWER)
            state[place] = state[(place + SHIFT) % SIZE] ^ (y >> np.uint32(1)) ^ ((y & np.uint32(1)) * TWIST)
        y = state ^ (state >> np.uint32(11))
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        yield y ^ (y >> np.uint32(18))


def epochs(seed: int, images: int, count: int) -> np.ndarray:
    """The order of ``images`` images in each of ``count`` epochs, int32 ``[count, images]``."""
    stream, held, at = words(seed), np.empty(0, np.uint32), 0

    def take(n: int) -> np.ndarray:
        nonlocal held, at
        parts, wanted = [held[at : at + n]], n - len(held[at : at + n])
        at += n - wanted
        while wanted > 0:
            held, at = next(stream), min(SIZE, wanted)
            parts.append(held[:at])
            wanted -= at
        return np.concatenate(parts)

    made = np.empty((count, images), np.int32)
    left = np.arange(images, 1, -1, dtype=np.uint32)
    for epoch in range(count):
        order = list(range(images))
        for i, z in enumerate((take(images - 1) % left).tolist()):
            order[i], order[i + z] = order[i + z], order[i]
        made[epoch] = order
        take(images - 1)
    return made
