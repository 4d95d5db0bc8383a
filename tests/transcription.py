"""The definitions of the masks in plain Python and NumPy: evident, slow, and for tests only.

Every function takes one mask's random words and the options of the library's function of that
name, with the same defaults. The words are those of `jax.random.bits(key, (count,), jnp.uint32)`;
each function reads them in the order that it documents. A range is drawn as a real number, and a
whole number below `n` as `word * n / 2**32` rounded down.

The library draws a range in small steps instead. It differs from the real number only where a
rounding lies within one step of it, in a few draws of a million: the tests' fixed keys meet none.
"""

import math

import numpy as np


def real(word, low, high):
    return low + (high - low) * int(word) / 2**32


def whole(word, n):
    return int(word) * n >> 32


def round_half_up(x):
    return math.floor(x + 0.5)


def clamp(size, grid):
    return [min(max(part, 1), side) for part, side in zip(size, grid, strict=True)]


def block(grid, size, corner_words, room=None):
    """A block with a word for each axis to place it: uniform over all positions inside the room."""
    mask = np.zeros(grid, bool)
    corner = [
        whole(word, side - part + 1)
        for word, side, part in zip(corner_words, room or grid, size, strict=True)
    ]
    mask[tuple(slice(start, start + part) for start, part in zip(corner, size, strict=True))] = True
    return mask


def leave_one(mask, word):
    if mask.all():
        mask.flat[whole(word, mask.size)] = False


def block_mask(
    words, grid, num_targets=4, target_scale=(0.15, 0.2), target_aspect_ratio=(0.75, 1.5)
):
    """Reads for each block: scale, aspect, top, left; then the token to leave."""
    words = iter(words)
    height, width = grid[-2:]
    mask = np.zeros((height, width), bool)
    for _ in range(num_targets):
        scale = real(next(words), *target_scale)
        aspect = real(next(words), *target_aspect_ratio)
        n = round_half_up(height * width * scale / num_targets)
        block_height = round_half_up(math.sqrt(n * aspect))
        block_width = max(n // block_height, 1) if block_height > 0 else 1
        size = clamp((block_height, block_width), (height, width))
        mask |= block((height, width), size, (next(words), next(words)))
    leave_one(mask, next(words))
    return np.broadcast_to(mask, grid)


def spatiotemporal_mask(
    words, grid, num_targets=2, temporal_extent=(2, 4), spatial_scale=(0.1, 0.2)
):
    """Reads for each tube: frames, scale, first frame, top, left; then the token to leave."""
    words = iter(words)
    video = (1, *grid)[-3:]
    shortest, longest = temporal_extent
    mask = np.zeros(video, bool)
    for _ in range(num_targets):
        extent = shortest + whole(next(words), longest - shortest + 1)
        n = round_half_up(video[1] * video[2] * real(next(words), *spatial_scale))
        side = round_half_up(math.sqrt(n))
        size = clamp((extent, side, side), video)
        mask |= block(video, size, (next(words), next(words), next(words)))
    leave_one(mask, next(words))
    return mask.reshape(grid)


def multi_block_mask(words, grid, mask_ratio=0.5, num_blocks=4):
    """Reads for each block: top, left; then the token to leave."""
    words = iter(words)
    height, width = grid[-2:]
    per_block = max(round_half_up(height * width * mask_ratio) // num_blocks, 1)
    side = round_half_up(math.sqrt(per_block))
    mask = np.zeros((height, width), bool)
    for _ in range(num_blocks):
        size = clamp((side, side), (height, width))
        mask |= block((height, width), size, (next(words), next(words)))
    leave_one(mask, next(words))
    return np.broadcast_to(mask, grid)


def ijepa_masks(
    words,
    grid,
    num_targets=4,
    target_scale=(0.15, 0.2),
    target_aspect_ratio=(0.75, 1.5),
    context_scale=(0.85, 1.0),
    min_keep=10,
    allow_overlap=False,
    sampling="paper",
):
    """Reads target scale, target aspect, context scale, first token to add; then top and left of
    each target and of the context.

    The reference takes the target's aspect from the word of its scale.
    """
    height, width = grid
    reference = sampling == "reference"
    room = (height - 1, width - 1) if reference else grid
    scale_word, aspect_word, context_word, first_word, *corner_words = words

    n = math.floor(height * width * real(scale_word, *target_scale))
    aspect = real(scale_word if reference else aspect_word, *target_aspect_ratio)
    size = clamp((round(math.sqrt(n * aspect)), round(math.sqrt(n / aspect))), room)
    targets = np.array(
        [block(grid, size, corner_words[2 * i : 2 * i + 2], room) for i in range(num_targets)]
    )

    n = math.floor(height * width * real(context_word, *context_scale))
    size = clamp((round(math.sqrt(n)), round(math.sqrt(n))), room)
    context = block(grid, size, corner_words[2 * num_targets : 2 * num_targets + 2], room)
    if not allow_overlap:
        hidden = targets.any(0)
        context &= ~hidden
        free = np.flatnonzero(~context & ~hidden)
        first = whole(first_word, len(free))
        for i in range(min_keep - context.sum()):
            context.flat[free[(first + i) % len(free)]] = True
    return context, targets


def vjepa_mask(
    words,
    grid,
    num_blocks=8,
    spatial_scale=(0.15, 0.15),
    temporal_scale=(1.0, 1.0),
    aspect_ratio=(0.75, 1.5),
    max_temporal_keep=1.0,
):
    """Reads frames, scale, aspect; for each block of each of four placements: first frame, top,
    left; then the token to leave.

    Where every block lasts all frames there is no word for its first frame.
    """
    frames, height, width = video = (1, *grid)[-3:]
    extent = max(1, math.floor(frames * real(words[0], *temporal_scale)))
    n = math.floor(height * width * real(words[1], *spatial_scale))
    aspect = real(words[2], *aspect_ratio)
    spatial_size = (round(math.sqrt(n * aspect)), round(math.sqrt(n / aspect)))
    size = clamp((extent, *spatial_size), video)
    keep = max(1, math.floor(frames * max_temporal_keep))
    always_all_frames = max(1, math.floor(frames * temporal_scale[0])) == frames

    words = iter(words[3:])
    placements = []
    for _ in range(4):
        mask = np.zeros(video, bool)
        for _ in range(num_blocks):
            frame_word = 0 if always_all_frames else next(words)
            mask |= block(video, size, (frame_word, next(words), next(words)))
        placements.append(mask[:keep])
    mask = np.ones(video, bool)
    mask[:keep] = next((kept for kept in placements if not kept.all()), placements[0])
    leave_one(mask[:keep], next(words))
    return mask.reshape(grid)


def random_subset(words, pool, count):
    """The tokens of the pool with the lowest 31-bit words, equal words in row-major order."""
    lowest_first = sorted(np.flatnonzero(pool).tolist(), key=lambda i: (int(words[i]) >> 1, i))
    picked = np.zeros(pool.size, bool)
    picked[lowest_first[:count]] = True
    return picked


def random_mask(words, grid, least, most):
    """Reads a word for each token, then one for the count, of `least` to `most`."""
    tokens = math.prod(grid)
    count = least + whole(words[tokens], most - least + 1)
    return random_subset(words, np.ones(tokens, bool), count).reshape(grid)


def clip_count(words, mask, minimum=0, maximum=None, among=None):
    """Reads a word for each token."""
    count, maximum = mask.sum(), mask.size if maximum is None else maximum
    if count > maximum:
        return random_subset(words, mask.reshape(-1), maximum).reshape(mask.shape)
    pool = ~mask if among is None else among & ~mask
    added = random_subset(words, pool.reshape(-1), max(minimum - count, 0))
    return mask | added.reshape(mask.shape)
