"""The definitions of the masks in plain Python and NumPy: evident, slow, and for tests only.

With them stand the keys and the words that they are compared on.

Every function takes one mask's random words and the options of the library's function of that
name, with the same defaults. The words are those of `jax.random.bits(key, (count,), jnp.uint32)`;
each function reads them in the order that it documents. A range is drawn as a real number, and a
whole number below `n` as `word * n / 2**32` rounded down.

The library draws a range in small steps instead. It differs from the real number only where a
rounding lies within one step of it, in a few draws of a million: the tests' fixed keys meet none.
"""

import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def keys_and_words(seed, count=100, words=320):
    """Keys and the first words of each, which do not depend on how many are drawn."""
    keys = jax.random.split(jax.random.key(seed), count)
    draw = jax.jit(jax.vmap(lambda key: jax.random.bits(key, (words,), jnp.uint32)))
    return keys, np.asarray(draw(keys))


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


def block_sides(n, aspect):
    """The sides of a block of `block_mask` before they are clamped."""
    height = round_half_up(math.sqrt(n * aspect))
    return height, max(n // height, 1) if height > 0 else 1


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
        size = clamp(block_sides(n, aspect), (height, width))
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


def frame_sides(frame, n, aspect, keep_area=True):
    """The sides of a block of n tokens: of a sequence its length.

    On a frame that is not square, a side that does not fit is cut and the other takes its tokens.
    """
    if len(frame) == 1:
        return (n,)
    sides = round(math.sqrt(n * aspect)), round(math.sqrt(n / aspect))
    if keep_area and frame[0] != frame[1]:
        if sides[0] > frame[0]:
            return frame[0], round_half_up(n / frame[0])
        if sides[1] > frame[1]:
            return round_half_up(n / frame[1]), frame[1]
    return sides


def ijepa_masks(
    words,
    grid,
    num_targets=4,
    target_scale=(0.15, 0.2),
    target_aspect_ratio=(0.75, 1.5),
    context_scale=(0.85, 1.0),
    min_keep=10,
    allow_overlap=False,
    sampling="independent",
):
    """Reads target scale, target aspect, context scale, first token to add; then the corner of each
    target and of the context.

    The reference takes the target's aspect from the word of its scale.
    """
    rank, tokens = len(grid), math.prod(grid)
    reference = sampling == "reference"
    room = [side - 1 for side in grid] if reference else grid
    scale_word, aspect_word, context_word, first_word, *corner_words = words

    def block_at(i, n, aspect):
        size = clamp(frame_sides(grid, n, aspect, keep_area=not reference), room)
        return block(grid, size, corner_words[rank * i : rank * (i + 1)], room)

    n = math.floor(tokens * real(scale_word, *target_scale))
    aspect = real(scale_word if reference else aspect_word, *target_aspect_ratio)
    targets = np.array([block_at(i, n, aspect) for i in range(num_targets)])
    n = math.floor(tokens * real(context_word, *context_scale))
    context = block_at(num_targets, n, 1)
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
    """Reads frames, scale, aspect; for each block of each of four placements: first frame, corner;
    then the token to leave.

    Where every block lasts all frames there is no word for its first frame.
    """
    frames, *frame = video = grid if len(grid) == 3 else (1, *grid)
    extent = max(1, math.floor(frames * real(words[0], *temporal_scale)))
    n = math.floor(math.prod(frame) * real(words[1], *spatial_scale))
    aspect = real(words[2], *aspect_ratio)
    size = clamp((extent, *frame_sides(frame, n, aspect)), video)
    keep = max(1, math.floor(frames * max_temporal_keep))
    always_all_frames = max(1, math.floor(frames * temporal_scale[0])) == frames

    words = iter(words[3:])
    placements = []
    for _ in range(4):
        mask = np.zeros(video, bool)
        for _ in range(num_blocks):
            frame_word = 0 if always_all_frames else next(words)
            mask |= block(video, size, [frame_word, *(next(words) for _ in frame)])
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


def count_range(eligible, masked):
    """The lowest and the highest count of a ratio or a count, each one or a pair."""
    pair = masked if isinstance(masked, tuple) else (masked, masked)
    counts = [
        max(round(value * eligible), 1) if isinstance(value, float) else int(value)
        for value in pair
    ]
    return [min(count, max(eligible - 1, 0)) for count in counts]


def among(words, pool, masked):
    """Reads a word for each token of the grid, then one for the count of a ratio or a count."""
    low, high = count_range(int(pool.sum()), masked)
    count = low + whole(words[pool.size], high - low + 1)
    return random_subset(words, pool.reshape(-1), count).reshape(pool.shape)


def random_mask(words, grid, mask_ratio=None, num_masked=None):
    return among(words, np.ones(grid, bool), mask_ratio or num_masked)


def random_tube_mask(words, grid, **options):
    return np.broadcast_to(random_mask(words, grid[1:], **options), grid)


def object_mask(words, num_slots, **options):
    return random_mask(words, (num_slots,), **options)


def box_mask(words, grid, num_boxes, extent, placement="inside"):
    """Reads for each box its sides, then where it is along each axis; then the token to leave."""
    words = iter(words)
    mask = np.zeros(grid, bool)
    for _ in range(num_boxes):
        pairs = [
            (side, side) if part is None else (part, part) if isinstance(part, int) else part
            for part, side in zip(extent, grid, strict=True)
        ]
        size = clamp([low + whole(next(words), high - low + 1) for low, high in pairs], grid)
        box = []
        for part, side, asked in zip(size, grid, extent, strict=True):
            if placement == "inside" or asked is None:
                start = whole(next(words), side - part + 1)
            else:
                start = whole(next(words), side) - part // 2
            box.append(slice(max(start, 0), start + part))
        mask[tuple(box)] = True
    leave_one(mask, next(words))
    return mask


def clip_count(words, mask, minimum=0, maximum=None, among=None, exactly=None):
    """Reads a word for each token."""
    if exactly is not None:
        minimum = maximum = exactly
    count, maximum = mask.sum(), mask.size if maximum is None else maximum
    if count > maximum:
        return random_subset(words, mask.reshape(-1), maximum).reshape(mask.shape)
    pool = ~mask if among is None else among & ~mask
    added = random_subset(words, pool.reshape(-1), max(minimum - count, 0))
    return mask | added.reshape(mask.shape)


def most_spans(length, span):
    return (length - 1) // span


def span_mask(words, grid, mask_ratio, span):
    """Reads a word for each start, then one for the number of spans."""
    (length,) = grid
    num_starts = length - span + 1
    expected = mask_ratio * length / span
    count = max(math.floor(real(words[num_starts], expected, expected + 1)), 1)
    count = min(count, most_spans(length, span))
    mask = np.zeros(length, bool)
    for start in np.flatnonzero(random_subset(words, np.ones(num_starts, bool), count)):
        mask[start : start + span] = True
    return mask


def spans_apart(words, grid, mask_ratio, span):
    """Reads a word for each start, then one for the count of spans.

    The spans are laid out one after another: between them, and at the ends, are the other tokens.
    The places of spans among spans and single tokens are a random subset.
    """
    (length,) = grid
    expected = Fraction(str(mask_ratio)) * length / span
    count = math.floor(expected + Fraction(int(words[length - span + 1]), 2**32))
    count = min(max(count, 1), most_spans(length, span))
    items = length - count * span + count
    tokens = []
    for is_span in random_subset(words, np.ones(items, bool), count):
        tokens += [True] * span if is_span else [False]
    return np.array(tokens)


def most_random_spans(length, n, ends):
    """How many spans of `n` masked tokens there can be."""
    return min(n, length - n + (ends == "free"))


def laid_out(words, length, n, s, ends):
    """Reads two words for each place: of the seam before a masked token, and of a gap.

    The masked tokens are cut at `s - 1` of their inner seams. The spans stand in `s` of the gaps
    between context tokens; with T5's ends the first gap holds none and the last one does.
    """
    context, place = length - n, np.arange(length)
    seams = random_subset(words[::2], (place > 0) & (place < n), s - 1)
    if ends == "free":
        gaps = random_subset(words[1::2], place <= context, s)
    else:
        gaps = random_subset(words[1::2], (place > 0) & (place < context), s - 1)
        gaps[context] = True
    spans = iter(np.diff([0, *np.flatnonzero(seams), n]).tolist())
    tokens = []
    for gap in range(context + 1):
        if gap < length and gaps[gap]:
            tokens += [True] * next(spans)
        tokens += [False] * (gap < context)
    assert next(spans, None) is None
    return np.array(tokens)


def random_span_mask(
    words, length, *, mask_ratio=None, num_masked=None, ends="free", mean_span=3, num_spans=None
):
    """The definition; the first word, of no seam, samples the count."""
    if length == 1:
        return np.zeros(1, bool)
    if mask_ratio is not None:
        pair = np.broadcast_to(mask_ratio, 2).tolist()
        low, high = (max(round(ratio * length), 1) for ratio in pair)
    else:
        low, high = np.broadcast_to(num_masked, 2).tolist()
    low, high = (min(max(count, 1), length - 1) for count in (low, high))
    n = low + whole(words[0], high - low + 1)
    s = round(n / Fraction(str(mean_span))) if num_spans is None else num_spans
    return laid_out(words, length, n, min(max(s, 1), most_random_spans(length, n, ends)), ends)


def log_uniform(word, low, high):
    """The middle of one of 1,024 equal parts of a logarithmic range."""
    part = (whole(word, 1024) + 0.5) / 1024
    return low * (high / low) ** part


def inverse_block_mask(
    words, grid, mask_ratio=None, num_masked=None, aspect_ratio=(0.5, 2.0), roll=True
):
    """Reads aspect, top, left."""
    height, width = grid
    tokens = height * width
    visible = tokens - (num_masked or min(max(round(mask_ratio * tokens), 1), tokens - 1))
    low, high = aspect_ratio
    aspect = log_uniform(words[0], max(low, visible / width**2), min(high, height**2 / visible))
    block_height = min(math.ceil(math.sqrt(visible * aspect)), height)
    block_width = min(math.ceil(math.sqrt(visible / aspect)), width)
    top = whole(words[1], height if roll else height - block_height + 1)
    left = whole(words[2], width if roll else width - block_width + 1)
    mask = np.ones(grid, bool)
    for i in range(visible):
        row, column = divmod(i, block_width)
        mask[(top + row) % height, (left + column) % width] = False
    return mask


def try_blocks(try_words, grid, num_masked, min_block, max_block=None, aspect_ratio=(0.3, 1 / 0.3)):
    """Reads for each try: aspect, area, top, left."""
    height, width = grid
    mask, refused = np.zeros(grid, bool), 0
    for aspect_word, area_word, *corner_words in try_words:
        rest = min(num_masked - mask.sum(), max_block or height * width)
        smallest, largest = sorted((min_block, rest))
        area = smallest + whole(area_word, 16 * (largest - smallest)) / 16
        aspect = log_uniform(aspect_word, *aspect_ratio)
        size = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        refused += 1
        if size[0] < height and size[1] < width:
            new = block(grid, size, corner_words) & ~mask
            if 0 < new.sum() <= rest:
                mask, refused = mask | new, 0
        if refused == 10:
            break
    return mask


def blockwise_mask(words, grid, least, most, min_block=16, **options):
    """Reads the words of 24 tries, then one for each token and one for the count."""
    tokens = math.prod(grid)
    try_words, lots = words[:96].reshape(24, 4), words[96:]
    num_masked = least + whole(lots[tokens], most - least + 1)
    mask = try_blocks(try_words, grid, num_masked, min_block, **options)
    missing = num_masked - mask.sum()
    return mask | random_subset(lots, ~mask.reshape(-1), missing).reshape(grid)
