"""Prints what Meta's collators lose, since they cut the masks of a batch to the shortest of them.

The collators are transcribed in NumPy, with the settings of the released models:
`src/masks/multiblock.py` of github.com/facebookresearch/ijepa and `src/masks/multiblock3d.py` of
github.com/facebookresearch/jepa. Both draw one size of blocks for a batch.
"""

import argparse
import math

import jax
import numpy as np

import jepa_masks_jax as jm


def sides_of(count, aspect_ratio):
    """Height and width of a block of about so many tokens."""
    return round(math.sqrt(count * aspect_ratio)), round(math.sqrt(count / aspect_ratio))


def ijepa_contexts(rng, grid, batch):
    """Contexts of I-JEPA's collator; its blocks stay off the last row and column."""
    tokens, shortest = math.prod(grid), 10  # min_keep

    def size(scale, aspect_ratio):
        share = rng.random()  # one number for both
        count, ratio = (low + share * (high - low) for low, high in (scale, aspect_ratio))
        sides = sides_of(int(tokens * count), ratio)
        return [min(side, length - 1) for side, length in zip(sides, grid, strict=True)]

    def block(sides):
        mask = np.zeros(grid, bool)
        top, left = (rng.integers(n - side) for n, side in zip(grid, sides, strict=True))
        mask[top : top + sides[0], left : left + sides[1]] = True
        return mask

    target_sides, context_sides = size((0.15, 0.2), (0.75, 1.5)), size((0.85, 1.0), (1.0, 1.0))
    contexts = []
    while len(contexts) < batch:
        targets = np.any([block(target_sides) for _ in range(4)], axis=0)
        context = block(context_sides) & ~targets
        if context.sum() > shortest:
            contexts.append(context)
    return np.stack(contexts)


def vjepa_contexts(rng, grid, batch, num_blocks, scale):
    """Contexts of V-JEPA's collator: the same in all frames."""
    height, width = grid[1:]
    rows, columns = sides_of(int(height * width * scale), rng.uniform(0.75, 1.5))
    rows, columns = min(rows, height), min(columns, width)
    contexts = []
    while len(contexts) < batch:
        context = np.ones((height, width), bool)
        for _ in range(num_blocks):
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            context[top : top + rows, left : left + columns] = False
        if context.any():
            contexts.append(np.broadcast_to(context, grid))
    return np.stack(contexts)


def cut(batches):
    """The median of the lengths to which batches are cut, and the fraction of tokens lost."""
    counts = [batch.reshape(len(batch), -1).sum(1) for batch in batches]
    lengths = [of_batch.min() for of_batch in counts]
    kept = sum(length * len(of_batch) for length, of_batch in zip(lengths, counts, strict=True))
    return int(np.median(lengths)), 1 - kept / sum(of_batch.sum() for of_batch in counts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=400, help="batches (default %(default)s)")
    number, rng = parser.parse_args().batches, np.random.default_rng(0)
    image, video = (14, 14), (8, 14, 14)

    def ours(draw, batch):
        keys = jax.random.split(jax.random.key(0), (number, batch))
        return map(np.asarray, jax.lax.map(jax.vmap(draw), keys))

    def theirs(collate, *options):
        return (collate(rng, *options) for _ in range(number))

    def short(key):
        return ~jm.presets.vjepa_short_range(key, video)

    def long(key):
        return ~jm.presets.vjepa_long_range(key, video)

    runs = {
        "I-JEPA 14x14, batch 128": (
            theirs(ijepa_contexts, image, 128),
            ours(lambda key: jm.presets.ijepa(key, image).context, 128),
        ),
        "I-JEPA 16x16, batch 128": (
            theirs(ijepa_contexts, (16, 16), 128),
            ours(lambda key: jm.presets.ijepa(key, (16, 16)).context, 128),
        ),
        "V-JEPA short range, batch 24": (
            theirs(vjepa_contexts, video, 24, 8, 0.15),
            ours(short, 24),
        ),
        "V-JEPA long range, batch 24": (theirs(vjepa_contexts, video, 24, 2, 0.7), ours(long, 24)),
    }
    print(f"| {number} batches | Meta's collator: length | dropped | this library's masks, cut the same way: length | dropped |")  # fmt: skip # noqa: E501
    print("|---|---:|---:|---:|---:|")
    for name, batches in runs.items():
        cells = " | ".join("{} | {:.1%}".format(*cut(of_one)) for of_one in batches)
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
