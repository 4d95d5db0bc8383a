"""Checks of static options: each returns the plain Python value or says what is wrong with it."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Grid = Sequence[int]
"""The static shape of the tokens, such as `(height, width)`."""

Range = Sequence[float]
"""A pair `(min, max)`."""

MAX_TOKENS = 2**24
MAX_BLOCKS = 2**16


def key(key: Any) -> jax.Array:
    """Returns one typed or legacy key."""
    is_array = isinstance(key, jax.Array | np.ndarray)
    dtype, shape = (key.dtype, key.shape) if is_array else (np.dtype(object), ())
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and (dtype != jnp.uint32 or shape == ()):
        advice = "" if is_array else "; with flax.nnx pass what rngs() returns"
        raise TypeError(
            "key must be a JAX PRNG key, as jax.random.key(0) makes; got "
            f"{brief(key) if is_array else type(key).__name__}{advice}"
        )
    if len(shape) != (0 if typed else 1):
        raise ValueError(
            f"key must be a single key, got an array of keys of shape {shape}; "
            "use jax.vmap for a batch"
        )
    return key


def brief(value: Any) -> str:
    """Returns an array's type and shape, which say more in an error than its numbers."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    return repr(value) if not hasattr(value, "_fields") else type(value).__name__


_SWITCH = ", or choose among static values with jax.lax.switch"


def refuse_tracer(name: str, value: Any, instead: str = "") -> None:
    """Raises if an option is traced, and says how it stays static and what to do `instead`."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} is traced; close over it or make it static{instead}")


def whole(name: str, value: Any, low: float = 1, high: int | None = None) -> int:
    """Returns a whole number in `[low, high]`."""
    refuse_tracer(name, value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        advice = "; use round()" if isinstance(value, Real) and not isinstance(value, bool) else ""
        raise TypeError(f"{name} must be an integer, got {value!r}{advice}")
    integer = int(value)
    if integer < low or (high is not None and integer > high):
        accepted = f"at least {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {accepted}, got {integer}")
    return integer


def block_count(name: str, value: Any) -> int:
    """Returns a count of blocks."""
    return whole(name, value, 1, MAX_BLOCKS)


def flag(name: str, value: Any) -> bool:
    """Returns True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, choices: tuple[str, ...], renamed: dict[str, str]) -> str:
    """Returns one of the words; an old word is refused with the new one in the message."""
    if isinstance(value, str) and value in choices:
        return value
    now = (
        f"; {value!r} is now {renamed[value]!r}"
        if isinstance(value, str) and value in renamed
        else ""
    )
    raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {value!r}{now}")


def real(name: str, value: Any, instead: str = _SWITCH) -> float:
    """Returns a finite real number."""
    refuse_tracer(name, value, instead)
    if isinstance(value, bool) or not isinstance(value, Real):
        advice = "; use float()" if getattr(value, "shape", None) == () else ""
        raise TypeError(f"{name} must be a number, got {value!r}{advice}")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise ValueError(f"{name} must be finite, got {value}")
    return float(value)


def fraction(name: str, value: Any, *, one: bool = False, instead: str = _SWITCH) -> float:
    """Returns a number in `(0, 1)`, or in `(0, 1]` if `one` is allowed."""
    part = real(name, value, instead)
    if not (0 < part < 1 or (one and part == 1)):
        raise ValueError(f"{name} must be in {'(0, 1]' if one else '(0, 1)'}, got {value}")
    return part


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple or the like."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def sequence(name: str, value: Any, lengths: tuple[int, ...], meaning: str) -> tuple[Any, ...]:
    """Returns a tuple of one of the given lengths."""
    refuse_tracer(name, value)
    if not is_sequence(value):
        raise TypeError(f"{name} must be {meaning}, got {value!r}")
    if len(value) not in lengths:
        raise ValueError(f"{name} must be {meaning}, got {value!r}")
    return tuple(value)


def real_range(name: str, value: Any, high: float | None = 1.0) -> tuple[float, float]:
    """Returns a pair of numbers with `0 < min <= max`, and `max <= high` where it is given."""
    pair = sequence(name, value, (2,), "a pair (min, max)")
    low, top = (real(f"{name}[{i}]", item) for i, item in enumerate(pair))
    if not 0 < low <= top or (high is not None and top > high):
        bound = "" if high is None else f" <= {high:g}"
        raise ValueError(f"{name} must satisfy 0 < min <= max{bound}, got {value!r}")
    return low, top


def count_range(name: str, value: Any, high: int | None = None) -> tuple[int, int]:
    """Returns an inclusive pair of whole numbers with `1 <= min <= max`."""
    pair = sequence(name, value, (2,), "a pair (min, max)")
    low, top = (whole(f"{name}[{i}]", item, 1, high) for i, item in enumerate(pair))
    if low > top:
        raise ValueError(f"{name} must satisfy 1 <= min <= max, got {value!r}")
    return low, top


_GRIDS = {
    1: "(length,)",
    2: "(height, width)",
    3: "(frames, height, width)",
    4: "four sides",
}


def grid(
    grid: Any, ranks: tuple[int, ...] = (2, 3), *, whole_frames: bool = False
) -> tuple[int, ...]:
    """Returns the grid as a tuple, if it has one of the ranks and at least two tokens.

    With `whole_frames`, for a mask that all frames share, each frame must have two.
    """
    refuse_tracer("grid", grid)
    if isinstance(grid, jax.Array):
        raise TypeError(f"grid must be a tuple of Python ints, got {grid!r}")
    sides = sequence("grid", grid, ranks, "a tuple " + " or ".join(_GRIDS[rank] for rank in ranks))
    sides = tuple(whole(f"grid[{i}]", side) for i, side in enumerate(sides))
    if not 2 <= math.prod(sides) <= MAX_TOKENS:
        raise ValueError(f"grid must have from 2 to {MAX_TOKENS} tokens, got {grid!r}")
    if whole_frames and math.prod(sides[-2:]) < 2:
        raise ValueError(f"grid must have at least two tokens in a frame, got {grid!r}")
    return sides


def mask(name: str, mask: Any) -> jax.Array:
    """Returns a boolean array, traced or not, of rank one or more."""
    dtype, shape = getattr(mask, "dtype", None), getattr(mask, "shape", None)
    if dtype != np.bool_:
        advice = "; take one of its fields" if hasattr(mask, "_fields") else ""
        advice = "; use .astype(bool)" if dtype is not None else advice
        raise TypeError(
            f"{name} must be a boolean array, got {dtype or type(mask).__name__}{advice}"
        )
    if not shape or 0 in shape:
        raise ValueError(f"{name} must have axes, none of length 0, got shape {shape}")
    return mask


def among(among: Any, grid: tuple[int, ...]) -> jax.Array | None:
    """Returns a boolean array of the grid's shape, traced or not, or None."""
    if among is not None and mask("among", among).shape != grid:
        raise ValueError(f"among must have the shape of the tokens {grid}, got {among.shape}")
    return among


def host_mask(name: str, value: Any, *, batch: bool = False) -> np.ndarray:
    """Returns a boolean array in NumPy, not copied if it is on the host; a `batch` has a grid."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(
            f"{name} is traced: call this on what the jitted function returns; for index lists of "
            "static length inside it, use token_indices"
        )
    array = np.asarray(mask(name, value))
    if batch and array.ndim < 2:
        raise ValueError(f"{name} must have shape (batch, *grid), got {array.shape}")
    return array
