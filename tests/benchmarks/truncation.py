"""Shows where context lies after batch-minimum truncation, and after clip_count to that size."""

import argparse

import jax
import numpy as np
from matplotlib.figure import Figure

import jepa_masks_jax as jm

GRID, BATCH = (16, 16), 128


def draw(key):
    """Draws a context, the union of its targets, and a key to clip it with."""
    mask_key, clip_key = jax.random.split(key)
    context, targets = jm.presets.ijepa(mask_key, GRID)
    return context, targets.any(0), clip_key


def truncate(contexts):
    """Keeps the first tokens of each mask, as many as the shortest mask of the batch has."""
    flat = contexts.reshape(len(contexts), -1)
    return (flat & (flat.cumsum(1) <= flat.sum(1).min())).reshape(contexts.shape)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=100, help="batches of 128 (default 100)")
    parser.add_argument("--out", default="truncation.png", help="the picture (default %(default)s)")
    args = parser.parse_args()

    keys = jax.random.split(jax.random.key(0), args.batches * BATCH)
    context, target, clip_keys = jax.jit(jax.vmap(draw))(keys)
    batches = np.asarray(context).reshape(args.batches, BATCH, *GRID)
    truncated = np.concatenate([truncate(batch) for batch in batches])
    size = round(truncated.sum((1, 2)).mean())

    def clip(key, context, target):
        return jm.clip_count(key, context, minimum=size, maximum=size, among=~target)

    clipped = jax.jit(jax.vmap(clip))(clip_keys, context, target)
    maps = {
        "cut to the shortest\nof the batch": jm.mask_statistics(truncated).coverage,
        f"clip_count\nto {size} tokens": jm.mask_statistics(clipped).coverage,
    }
    figure = Figure(figsize=(6.5, 3.2), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(maps))
    for ax, (title, coverage) in zip(axes, maps.items(), strict=True):
        shown = ax.imshow(
            coverage, cmap="cividis", vmin=0, vmax=max(m.max() for m in maps.values())
        )
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    figure.colorbar(shown, ax=axes, label="chance of being context")
    figure.savefig(args.out)

    print("chance of being context, by row of a 16x16 grid")
    print(" row  truncated  clip_count")
    truncated_rows, clipped_rows = (coverage.mean(1) for coverage in maps.values())
    for row, (a, b) in enumerate(zip(truncated_rows, clipped_rows, strict=True)):
        print(f"{row:4} {a:10.2f} {b:11.2f}")
    print(f"Wrote {args.out}")


if __name__ == "__main__":
    main()
