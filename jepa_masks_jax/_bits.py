"""Random bits as whole numbers, and rows of tokens as packed words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def random_words(key: jax.Array, count: int) -> jax.Array:
    """Draws uint32[count]; XLA compiles and runs rows of 16 words faster than shorter ones."""
    return jax.random.bits(key, (max(count, 16),), jnp.uint32)[:count]


def below(bits: jax.Array, n: Any) -> jax.Array:
    """Turns uint32 bits into int32 numbers uniform in `[0, n)`: the high word of `bits * n`."""
    n = jnp.asarray(n).astype(jnp.uint32)
    bits_high, bits_low, n_high, n_low = bits >> 16, bits & 0xFFFF, n >> 16, n & 0xFFFF
    middle = bits_high * n_low + (bits_low * n_low >> 16)
    carry = (bits_low * n_high + (middle & 0xFFFF)) >> 16
    return (bits_high * n_high + (middle >> 16) + carry).astype(jnp.int32)


def lanes(width: int) -> tuple[int, int]:
    """Returns the words in a row and the tokens in a word: any width, words evenly filled."""
    words = -(-width // 32)
    return words, -(-width // words)


def first_tokens(stop: Any, width: int) -> jax.Array:
    """Packs the row in which the tokens before `stop` are set: uint32[words]."""
    words, per_word = lanes(width)
    in_word = jnp.clip(stop - per_word * np.arange(words, dtype=np.int32), 0, per_word)
    return (jnp.uint32(1) << in_word.astype(jnp.uint32)) - 1


def pack(rows: jax.Array) -> jax.Array:
    """Packs bool[..., width] into uint32[..., words]."""
    words, per_word = lanes(rows.shape[-1])
    padding = [(0, 0)] * (rows.ndim - 1) + [(0, words * per_word - rows.shape[-1])]
    bits = jnp.pad(rows, padding).reshape(*rows.shape[:-1], words, per_word).astype(jnp.uint32)
    shift = lax.broadcasted_iota(jnp.uint32, bits.shape, bits.ndim - 1)
    return jnp.sum(bits << shift, axis=-1, dtype=jnp.uint32)


def unpack(words: jax.Array, width: int) -> jax.Array:
    """Unpacks uint32[..., words] into bool[..., width]."""
    num_words, per_word = lanes(width)
    shift = lax.broadcasted_iota(jnp.uint32, (*words.shape, per_word), words.ndim)
    bits = (words[..., None] >> shift) & 1 != 0
    return bits.reshape(*words.shape[:-1], num_words * per_word)[..., :width]


def popcount(words: jax.Array) -> jax.Array:
    """Counts the set bits of each word: int32[...]."""
    return lax.population_count(words).astype(jnp.int32)


def count_set(words: jax.Array) -> jax.Array:
    """Counts the set bits of all words: int32[]."""
    return jnp.sum(popcount(words), dtype=jnp.int32)


def count_before(words: jax.Array) -> jax.Array:
    """For each word, counts the set bits of those before it: uint32[words] to int32[words]."""
    counts = popcount(words)
    return jnp.cumsum(counts, dtype=jnp.int32) - counts


def count_up_to(words: jax.Array, width: int) -> jax.Array:
    """For each token of a packed row, counts the set ones up to it and itself: int32[width]."""
    _, per_word = lanes(width)
    up_to = (np.uint32(2) << np.arange(per_word, dtype=np.uint32)) - np.uint32(1)
    in_word = popcount(words[:, None] & up_to[None])
    return (count_before(words)[:, None] + in_word).reshape(-1)[:width]


def select(word: jax.Array, rank: jax.Array) -> jax.Array:
    """Returns where the set bit is that has `rank` set ones below it; 31 if there is none."""
    position = jnp.zeros_like(rank)
    for step in (16, 8, 4, 2, 1):
        below_step = (jnp.uint32(1) << (position + step).astype(jnp.uint32)) - 1
        lower = popcount(word & below_step)
        position = jnp.where(lower <= rank, position + step, position)
    return position


def first_set(words: jax.Array, count: jax.Array) -> jax.Array:
    """Keeps the first `count` set bits, in row-major order."""
    flat = words.reshape(-1)
    kept = count - count_before(flat)
    sizes = popcount(flat)
    cut = (kept > 0) & (kept < sizes)  # the one word of which a part is kept, if there is one
    cut_word = jnp.sum(jnp.where(cut, flat, jnp.uint32(0)), dtype=jnp.uint32)
    position = select(cut_word, jnp.sum(jnp.where(cut, kept, 0), dtype=jnp.int32))
    lower = (jnp.uint32(1) << position.astype(jnp.uint32)) - 1
    mask = jnp.where(cut, lower, jnp.where(kept > 0, ~jnp.uint32(0), jnp.uint32(0)))
    return words & mask.reshape(words.shape)
