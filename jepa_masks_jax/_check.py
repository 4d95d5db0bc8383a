"""Checks of arguments: each returns a plain value, or says what is wrong with it.

An option is static, and comes back as plain Python. What may be an array, traced or not, comes back
as it is: its value cannot be checked, and the traced code clamps it.

An error shows what it got by `brief`, and so is one line of at most 400 characters.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Int = int | np.integer[Any]
"""A Python or NumPy integer."""

Real = float | Int | np.floating[Any]
"""A Python or NumPy number."""

Array = jax.Array | np.ndarray
"""A JAX or NumPy array, traced or not."""

Grid = Sequence[Int] | np.ndarray
"""The static shape of the tokens, such as `(height, width)`."""

Range = Sequence[Real] | np.ndarray
"""A pair `(min, max)`."""

IntRange = Sequence[Int] | np.ndarray
"""A pair `(min, max)` of static integers."""

Count = Int | Array
"""An integer, or an integer array of shape (), traced or not."""

CountOrRange = Count | Sequence[Int]
"""A count, or a pair `(min, max)` of integers."""

Within = Sequence[Count] | Array
"""The real sides of one sample: an integer for each axis of the grid."""

Number = TypeVar("Number", int, float)

MAX_TOKENS = 2**24
MAX_BLOCKS = 2**16
INT32_MAX = 2**31 - 1
_LONGEST = 80


def is_array(value: Any) -> bool:
    """Whether a value is an array, traced or not, or an object that JAX takes for one."""
    return isinstance(value, jax.Array | np.ndarray) or hasattr(value, "__jax_array__")


def key(key: Any) -> jax.Array:
    """Returns one typed or legacy key."""
    meaning = "key must be a JAX PRNG key, as jax.random.key(0) makes; got"
    if not is_array(key):
        got = type(key).__name__
        raise TypeError(f"{meaning} {got}; with flax.nnx pass what rngs() returns")
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed and (key.dtype != jnp.uint32 or key.shape == ()):
        raise TypeError(f"{meaning} {brief(key)}")
    if len(key.shape) != (0 if typed else 1):
        raise ValueError(
            f"key must be a single key, got an array of keys of shape {key.shape}; "
            "use jax.vmap for a batch"
        )
    return key


def brief(value: Any) -> str:
    """Returns what an error shows of a value: type and shape of an array, name of a named tuple.

    The repr of anything else is cut to one short line.
    """
    try:
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            text = f"{value.dtype}{list(value.shape)}"
        else:
            text = type(value).__name__ if hasattr(value, "_fields") else repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits.
        text = f"a long {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def refuse_foreign(name: str, value: Any) -> None:
    """Raises for an array of another library, which NumPy can read, and of no numbers."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSUMm":
        raise TypeError(f"{name} must hold numbers, got {brief(value)}")
    is_foreign = hasattr(value, "dtype") and hasattr(value, "shape") and not is_array(value)
    if is_foreign and not isinstance(value, np.generic | jax.ShapeDtypeStruct):
        raise TypeError(
            f"{name} must be an array of JAX or NumPy, got {brief(value)}; pass np.asarray({name})"
        )


_SWITCH = ", or choose among static values with jax.lax.switch"


def refuse_tracer(name: str, value: Any, instead: str = "") -> None:
    """Raises if an option is traced, and says how it stays static and what to do `instead`."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} is traced; close over it or make it static{instead}")


def integer(name: str, value: Any, low: float = 1, high: float = INT32_MAX, hint: str = "") -> int:
    """Returns an integer in `[low, high]`; an error of the range ends in the hint."""
    refuse_tracer(name, value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        advice = "; use round()" if is_real else ""
        raise TypeError(f"{name} must be an integer, got {brief(value)}{advice}")
    plain = int(value)
    if not low <= plain <= high:
        accepted = f"at least {low}" if high == INT32_MAX > plain else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {accepted}, got {brief(plain)}{hint}")
    return plain


def block_count(name: str, value: Any) -> int:
    """Returns a count of blocks."""
    return integer(name, value, 1, MAX_BLOCKS)


def side(name: str, value: Any) -> int:
    """Returns a side of a box, in tokens."""
    return integer(name, value, 1, MAX_TOKENS)


def flag(name: str, value: Any) -> bool:
    """Returns True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {brief(value)}")
    return bool(value)


_RENAMED = {"paper": "independent", "centred": "centered"}


def choice(name: str, value: Any, *choices: str) -> str:
    """Returns one of the words; an old word is refused with the new one in the message."""
    if isinstance(value, str) and value in choices:
        return value
    new = _RENAMED.get(value) if isinstance(value, str) else None
    now = f"; {value!r} is now {new!r}" if new in choices else ""
    raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {brief(value)}{now}")


def real(name: str, value: Any, instead: str = _SWITCH) -> float:
    """Returns a finite real number."""
    refuse_tracer(name, value, instead)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        advice = "; use float()" if getattr(value, "shape", None) == () else ""
        raise TypeError(f"{name} must be a number, got {brief(value)}{advice}")
    try:
        plain = float(value)
    except OverflowError:  # 10**400
        plain = math.inf
    if not math.isfinite(plain):
        raise ValueError(f"{name} must be finite, got {brief(value)}")
    return plain


def positive(name: str, value: Any) -> float:
    """Returns a number above 0."""
    plain = real(name, value)
    if plain <= 0:
        raise ValueError(f"{name} must be above 0, got {brief(value)}")
    return plain


def fraction(name: str, value: Any, instead: str = _SWITCH, hint: str = "") -> float:
    """Returns a number in `(0, 1)`; an error of the range ends in the hint."""
    plain = real(name, value, instead)
    if not 0 < plain < 1:
        raise ValueError(f"{name} must be in (0, 1), got {brief(value)}{hint}")
    return plain


def scale(name: str, value: Any) -> float:
    """Returns a number in `(0, 1]`."""
    plain = real(name, value)
    if not 0 < plain <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {brief(value)}")
    return plain


def is_sequence(value: Any) -> bool:
    """Whether a value is a list, a tuple or the like."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def sequence(name: str, value: Any, lengths: tuple[int, ...], meaning: str) -> tuple[Any, ...]:
    """Returns a tuple of one of the given lengths."""
    refuse_tracer(name, value)
    if not is_sequence(value):
        raise TypeError(f"{name} must be {meaning}, got {brief(value)}")
    if len(value) not in lengths:
        raise ValueError(f"{name} must be {meaning}, got {brief(value)}")
    return tuple(value)


def pair(name: str, value: Any, check: Callable[[str, Any], Number]) -> tuple[Number, Number]:
    """Returns a pair with `min <= max`, whose ends pass the check of one."""
    ends = sequence(name, value, (2,), "a pair (min, max)")
    low, high = (check(f"{name}[{i}]", end) for i, end in enumerate(ends))
    if low > high:
        raise ValueError(f"{name} must satisfy min <= max, got {brief(value)}")
    return low, high


def one_or_pair(
    name: str, value: Any, check: Callable[[str, Any], Number]
) -> tuple[Number, Number]:
    """Returns a pair, of one number twice if it is no pair."""
    return pair(name, value, check) if is_sequence(value) else (check(name, value),) * 2


def refuse_unless_default(name: str, value: Any, default: Any, where: str) -> None:
    """Refuses an option where it has no meaning, unless it is the default."""
    if value != default:
        raise ValueError(f"{name} has no meaning {where} and must be {default}, got {brief(value)}")


def count(name: str, value: Any, low: float = 1, high: float = INT32_MAX) -> Any:
    """Returns an int in `[low, high]`, or an integer array of shape () for `clamp`."""
    refuse_foreign(name, value)
    if not is_array(value):
        return integer(name, value, low, high)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        raise TypeError(f"{name} must be an integer, got {value.dtype}; use .astype(int)")
    if value.shape:
        raise ValueError(
            f"{name} must be one integer, got shape {value.shape}; use jax.vmap for a batch"
        )
    return in_int32(value)


def in_int32(value: Any) -> Any:
    """Clamps an integer of the host into `[-1, 2**31 - 1]`: JAX may drop its high bits."""
    if not isinstance(value, int | np.ndarray):
        return value
    integers = np.asarray(value, object)  # NumPy cannot clip an int4.
    # NumPy makes a scalar of an array of shape (), and a scalar would be static.
    return np.asarray(np.clip(integers, -1, INT32_MAX), np.int32)


def clamp(value: Any, low: Any, high: Any) -> jax.Array:
    """Clamps an integer, traced or not, into `[low, high]`, within 0 and 2**31 - 1: int32[]."""
    array = jnp.asarray(value)
    held = jnp.iinfo(array.dtype)  # type: ignore[no-untyped-call]
    narrow = jnp.clip(array, max(held.min, -1), min(held.max, INT32_MAX)).astype(jnp.int32)
    return jnp.clip(narrow, low, high)


def exactly_one(**options: Any) -> None:
    """Refuses both or neither of two options."""
    (first, one), (second, other) = options.items()
    if (one is None) == (other is None):
        raise TypeError(
            f"exactly one of {first} and {second} must be given, got {brief(one)} and "
            f"{brief(other)}; if a preset or partial bound one, pass {first}=None or {second}=None"
        )


_GRIDS = {1: "(length,)", 2: "(height, width)", 3: "(frames, height, width)", 4: "four sides"}


def grid(grid: Any, ranks: tuple[int, ...], *, whole_frames: bool = False) -> tuple[int, ...]:
    """Returns the grid as a tuple, if it has one of the ranks and at least two tokens.

    With `whole_frames`, for a mask that all frames share, each frame must have two.
    """
    refuse_tracer("grid", grid)
    if isinstance(grid, jax.Array):
        raise TypeError(f"grid must be a tuple of Python ints, got {brief(grid)}")
    sides = sequence("grid", grid, ranks, "a tuple " + " or ".join(_GRIDS[rank] for rank in ranks))
    sides = tuple(integer(f"grid[{i}]", side) for i, side in enumerate(sides))
    if not 2 <= math.prod(sides) <= MAX_TOKENS:
        raise ValueError(f"grid must have from 2 to {MAX_TOKENS} tokens, got {brief(grid)}")
    if whole_frames and math.prod(sides[-2:]) < 2:
        raise ValueError(f"grid must have at least two tokens in a frame, got {brief(grid)}")
    return sides


def within(within: Any, grid: tuple[int, ...]) -> Any:
    """Returns the real sides as an integer array or a tuple of such arrays, or None."""
    if within is None:
        return None
    form = ", ".join(["int"] * len(grid)) + "," * (len(grid) == 1)
    meaning = f"within must be ({form}), the real sides in the grid {grid}"
    refuse_foreign("within", within)
    if isinstance(within, tuple | list):
        sides = tuple(
            in_int32(count(f"within[{i}]", side, -math.inf, math.inf))
            for i, side in enumerate(within)
        )
        # Sides of the host share the program of an array. JAX's own may be traced.
        on_host = sides and all(isinstance(side, np.ndarray) for side in sides)
        within, shape = np.array(sides) if on_host else sides, (len(sides),)
    elif is_array(within) and jnp.issubdtype(within.dtype, jnp.integer):
        within, shape = in_int32(within), within.shape
    else:
        raise TypeError(f"{meaning}, got {brief(within)}")
    if shape != (len(grid),):
        advice = "; use jax.vmap for a batch" if len(shape) > 1 else ""
        raise ValueError(f"{meaning}, got shape {shape}{advice}")
    return within


def mask(name: str, mask: Any) -> jax.Array:
    """Returns a boolean array, traced or not, of rank one or more."""
    refuse_foreign(name, mask)
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
