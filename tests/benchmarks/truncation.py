"""Shows where context lies as sampled, cut to the shortest of the batch, and clipped at random."""

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


def plot(maps):
    """Plots the chance of being context for each token, with that of the top and bottom rows."""
    figure = Figure(figsize=(7.5, 2.7), dpi=200, layout="constrained")
    axes = figure.subplots(1, len(maps))
    for ax, (title, chance) in zip(axes, maps.items(), strict=True):
        shown = ax.imshow(chance, cmap="cividis", vmin=0, vmax=max(m.max() for m in maps.values()))
        ax.set_title(title, fontsize=11)
        ax.set(xticks=[], yticks=[0, len(chance) - 1])
        ax.set_yticklabels(
            [f"{100 * row.mean():.0f} %" for row in (chance[0], chance[-1])], fontsize=10
        )
    figure.colorbar(shown, ax=axes, label="chance of being context")
    return figure


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
        "as sampled": jm.mask_statistics(batches.reshape(-1, *GRID)).coverage,
        "cut to the shortest\nof its batch": jm.mask_statistics(truncated).coverage,
        f"{size} random tokens\nof each": jm.mask_statistics(clipped).coverage,
    }
    plot(maps).savefig(args.out)

    print("chance of being context, by row of a 16x16 grid")
    print(" row  sampled  truncated  clip_count")
    for row, chances in enumerate(zip(*(map.mean(1) for map in maps.values()), strict=True)):
        print("{:4} {:8.2f} {:10.2f} {:11.2f}".format(row, *chances))
    print(f"Wrote {args.out}")


if __name__ == "__main__":
    main()
