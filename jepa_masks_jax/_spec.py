"""Masks as index lists on the host, in NumPy, outside jit."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from jepa_masks_jax import _check
from jepa_masks_jax._check import Array, Grid, Int


class MaskError(ValueError):
    """Raised if a mask cannot be used for training."""


class EmptyContextError(MaskError):
    """Raised if no token is context."""


class EmptyTargetError(MaskError):
    """Raised if no token is a target."""


class IndexOutOfBoundsError(MaskError):
    """Raised if an index is outside the grid."""


class DuplicateIndexError(MaskError):
    """Raised if an index appears more than once, in one list or in both."""


@dataclasses.dataclass(frozen=True, eq=False)
class MaskSpec:
    """The index lists of one mask on the host: its context and its target.

    An index is the place of a token in row-major order. Specs are equal if their values are. A spec
    need not hold a mask that can be used for training: `validate` checks that.

    Attributes:
        context_indices: int32[num_context], read-only. Any sequence of ints is accepted.
        target_indices: int32[num_target], read-only. Any sequence of ints is accepted.
        total_tokens: count of tokens of the grid, from 1 to 2**31 - 1.

    Raises:
        TypeError: if the indices or `total_tokens` are not integers.
        ValueError: if the indices are not one-dimensional or not in int32, or if `total_tokens` is
            out of its range.

    Example:
        >>> spec = MaskSpec([0, 1, 3], [2], 4)
        >>> spec.mask_ratio
        0.25
        >>> spec.to_mask((2, 2)).tolist()
        [[False, False], [True, False]]
    """

    context_indices: np.ndarray
    target_indices: np.ndarray
    total_tokens: int

    def __init__(
        self,
        context_indices: Sequence[Int] | Array,
        target_indices: Sequence[Int] | Array,
        total_tokens: Int,
    ) -> None:
        # A frozen class refuses to set its attributes.
        self.__dict__.update(
            context_indices=_indices("context_indices", context_indices),
            target_indices=_indices("target_indices", target_indices),
            total_tokens=_check.integer("total_tokens", total_tokens, 1, 2**31 - 1),
        )

    def validate(self) -> None:
        """Checks that both lists hold tokens of the grid, and that no token appears twice.

        A token in neither list is valid.

        Raises:
            EmptyContextError: if no token is context.
            EmptyTargetError: if no token is a target.
            IndexOutOfBoundsError: if an index is not in `[0, total_tokens)`.
            DuplicateIndexError: if an index appears more than once, in one list or in both.
        """
        if not self.context_indices.size:
            raise EmptyContextError("the mask has no context token")
        if not self.target_indices.size:
            raise EmptyTargetError("the mask has no target token")
        indices = np.concatenate([self.context_indices, self.target_indices])
        outside = (indices < 0) | (indices >= self.total_tokens)
        if outside.any():
            raise IndexOutOfBoundsError(
                f"index {indices[outside][0]} is not in [0, {self.total_tokens})"
            )
        unique, counts = np.unique(indices, return_counts=True)
        if len(unique) < len(indices):
            raise DuplicateIndexError(f"index {unique[counts > 1][0]} appears more than once")

    @property
    def mask_ratio(self) -> float:
        """The fraction of all tokens that are targets."""
        return len(self.target_indices) / self.total_tokens

    def to_mask(self, grid: Grid) -> np.ndarray:
        """Returns the target as a boolean mask, the inverse of `to_mask_spec`.

        Args:
            grid: the sides of a grid of `total_tokens` tokens, of any rank.

        Returns:
            bool[*grid], True at the target tokens.

        Raises:
            TypeError: if `grid` is not the sides of a grid.
            ValueError: if the grid does not have `total_tokens` tokens.
            MaskError: if `validate` fails.
        """
        if not _check.is_sequence(grid):
            raise TypeError(f"grid must be the sides of a grid, got {_check.brief(grid)}")
        shape = tuple(_check.integer(f"grid[{i}]", side) for i, side in enumerate(grid))
        if math.prod(shape) != self.total_tokens:
            raise ValueError(f"grid must have {self.total_tokens} tokens, got {_check.brief(grid)}")
        self.validate()
        mask = np.zeros(self.total_tokens, bool)
        mask[self.target_indices] = True
        return mask.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as ints and lists of ints, ready for JSON.

        Returns:
            A dict `fields`, from which `MaskSpec(**fields)` makes an equal spec.
        """
        return {name: np.asarray(field).tolist() for name, field in vars(self).items()}

    @classmethod
    def _of_views(cls, context: np.ndarray, target: np.ndarray, total_tokens: int) -> "MaskSpec":
        """Skips the checks, which would take longer than converting a large batch."""
        spec = cls.__new__(cls)
        spec.__dict__.update(
            context_indices=context, target_indices=target, total_tokens=total_tokens
        )
        return spec

    def __reduce__(self) -> tuple[type["MaskSpec"], tuple[Any, ...]]:
        return MaskSpec, tuple(vars(self).values())

    def _values(self) -> tuple[int, bytes, bytes]:
        return self.total_tokens, self.context_indices.tobytes(), self.target_indices.tobytes()

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, MaskSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())


def to_mask_spec(mask: Any) -> MaskSpec:
    """Converts one target into index lists on the host. The context is its complement.

    Args:
        mask: bool[*grid], a NumPy or JAX array of any rank from 1. If a sample is smaller than the
            grid, crop it to the real part first: the complement holds padding.

    Returns:
        MaskSpec, with ascending indices.

    Raises:
        TypeError: if `mask` is traced or not a boolean array.
        ValueError: if `mask` has no axis or an empty one.
        EmptyContextError: if every token is a target.
        EmptyTargetError: if no token is a target.

    Example:
        >>> spec = to_mask_spec(np.array([[True, False], [False, False]]))
        >>> spec.target_indices.tolist(), spec.context_indices.tolist()
        ([0], [1, 2, 3])

        A sample of 1x2 real tokens in a grid of 2x2:

        >>> to_mask_spec(np.array([[True, False], [False, False]])[:1, :2]).context_indices.tolist()
        [1]
    """
    return _convert(_check.host_mask("mask", mask).reshape(1, -1), "the mask")[0]


def to_mask_specs(masks: Any) -> list[MaskSpec]:
    """Converts a batch of targets into index lists on the host.

    Args:
        masks: bool[batch, *grid], a NumPy or JAX array with one batch axis. Crop samples that are
            smaller than the grid one by one, with `to_mask_spec`.

    Returns:
        One MaskSpec for each mask, with ascending indices.

    Raises:
        TypeError: if `masks` is traced or not a boolean array.
        ValueError: if there is no mask, or no grid behind the batch axis.
        EmptyContextError: if every token of a mask is a target; the message says which mask.
        EmptyTargetError: if no token of a mask is a target; the message says which mask.

    Example:
        >>> specs = to_mask_specs(np.eye(2, dtype=bool))
        >>> [spec.target_indices.tolist() for spec in specs]
        [[0], [1]]
    """
    batch = _check.host_mask("masks", masks, batch=True)
    return _convert(batch.reshape(len(batch), -1), "mask {} of the batch")


def _convert(targets: np.ndarray, name: str) -> list[MaskSpec]:
    """Converts bool[batch, tokens]; errors call a mask by `name`, formatted with its number."""
    num_targets, tokens = targets.sum(axis=1), targets.shape[1]
    empty = (EmptyContextError, "context", tokens), (EmptyTargetError, "target", 0)
    for error, side, count in empty:
        if (num_targets == count).any():
            raise error(f"{name.format(np.argmax(num_targets == count))} has no {side} token")
    contexts = _index_lists(~targets, tokens - num_targets)
    return [
        MaskSpec._of_views(context, target, tokens)
        for context, target in zip(contexts, _index_lists(targets, num_targets), strict=True)
    ]


def _index_lists(masks: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Lists the True tokens of each mask, as read-only views of one array."""
    tokens = (np.flatnonzero(masks) % masks.shape[1]).astype(np.int32)
    tokens.flags.writeable = False
    stops = np.cumsum(counts).tolist()
    return [tokens[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _indices(name: str, values: Any) -> np.ndarray:
    """Copies into a read-only int32[n] array."""
    try:
        array = _integers(values)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a list of integers, got {_check.brief(values)}") from error
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    outside = (array < -(2**31)) | (array >= 2**31)
    if outside.any():
        raise ValueError(
            f"{name} must be in [-2**31, 2**31), got {_check.brief(int(array[outside][0]))}"
        )
    indices = array.astype(np.int32)
    indices.flags.writeable = False
    return indices


def _integers(values: Any) -> np.ndarray:
    """Reads integers of any size and shape, or raises a TypeError or ValueError."""
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError("a masked array may lack values")
    # A list is read as objects: NumPy would make [True, 2] integers and [2**63, -1] floats.
    array = np.asarray(values) if hasattr(values, "dtype") else np.array(values, object)
    if array.dtype.kind in ("iu" if array.size else "iuf"):  # np.array([]) is float64
        return array
    # NumPy 2.0 would count its own booleans as 0 and 1, with a warning.
    if array.dtype != object or {bool, np.bool_} & set(map(type, array.flat)):
        raise TypeError("not all are integers")
    return np.array(list(map(operator.index, array.flat)), object).reshape(array.shape)
