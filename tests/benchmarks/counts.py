"""Prints the context and target tokens that each preset realises on its published grids."""

import argparse

import jax
import numpy as np

import jepa_masks_jax as jm

IMAGES = [(14, 14), (16, 16), (28, 28)]
VIDEOS = [(8, 14, 14), (8, 16, 16), (8, 24, 24), (32, 16, 16), (32, 24, 24)]
RUNS = [
    *(("ijepa", grid) for grid in IMAGES),
    *(("vjepa_short_range", grid) for grid in VIDEOS),
    *(("vjepa_long_range", grid) for grid in VIDEOS),
    ("mae", (14, 14)),
    ("videomae_tube", (8, 14, 14)),
    ("cjepa", 7),
]


def draw(preset, grid, num_masks, batch=2000):
    """Draws masks, batch by batch: a dict of NumPy arrays by what the tokens are."""
    drawn = jax.jit(jax.vmap(lambda key: getattr(jm.presets, preset)(key, grid)))
    keys = jax.random.split(jax.random.key(0), num_masks)
    batches = [drawn(keys[i : i + batch]) for i in range(0, num_masks, batch)]
    if preset == "ijepa":
        targets = np.concatenate([masks.targets for masks in batches])
        context = np.concatenate([masks.context for masks in batches])
        return {"context": context, "each target": targets[:, 0]}
    target = np.concatenate(batches)
    return {"context": ~target, "target": target}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--masks", type=int, default=100_000, help="masks for each row (default 100000)"
    )
    num_masks = parser.parse_args().masks
    print(
        f"| preset | grid | tokens | min | 1 % | median | 99 % | max |  <!-- {num_masks} masks -->"
    )
    print("|---|---|---|---:|---:|---:|---:|---:|")
    for preset, grid in RUNS:
        size = "x".join(map(str, grid)) if isinstance(grid, tuple) else f"{grid} slots"
        for side, masks in draw(preset, grid, num_masks).items():
            stats = jm.mask_statistics(masks)
            counts = (stats.min, *(stats.quantiles[q] for q in (0.01, 0.5, 0.99)), stats.max)
            print(f"| `{preset}` | {size} | {side} | {' | '.join(map(str, counts))} |", flush=True)


if __name__ == "__main__":
    main()
