"""The host side, in NumPy: index lists and statistics of masks that have left the device."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jepa_masks_jax._checks import check_count, check_mask, is_sequence


class MaskError(ValueError):
    """A mask that cannot be trained on."""


class EmptyContextError(MaskError):
    """No token is context."""


class EmptyTargetError(MaskError):
    """No token is a target."""


class IndexOutOfBoundsError(MaskError):
    """An index points at no token."""


class DuplicateIndexError(MaskError):
    """An index stands twice, in one set or in both."""


@dataclasses.dataclass(frozen=True, eq=False)
class MaskSpec:
    """A mask as lists of token indices, on the host.

    Tokens are numbered row-major over the grid. Specs are equal if their values are.

    Attributes:
        context_indices: int32[num_context], read-only; any sequence of ints is taken.
        target_indices: int32[num_target], read-only; any sequence of ints is taken.
        total_tokens: number of tokens of the grid, from 1 to 2**31 - 1.

    Raises:
        TypeError: if the indices are not integers or `total_tokens` is not an integer.
        ValueError: if the indices are not one-dimensional or `total_tokens` is out of its range.

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

    def __post_init__(self) -> None:
        for name in ("context_indices", "target_indices"):
            object.__setattr__(self, name, _indices(name, getattr(self, name)))
        tokens = check_count("total_tokens", self.total_tokens, 1, 2**31 - 1)
        object.__setattr__(self, "total_tokens", tokens)

    def validate(self) -> None:
        """Checks that both sets hold tokens of the grid and that no token stands twice.

        A token in neither set is valid.

        Raises:
            EmptyContextError: if no token is context.
            EmptyTargetError: if no token is a target.
            IndexOutOfBoundsError: if an index is not in `[0, total_tokens)`.
            DuplicateIndexError: if an index stands twice, in one set or in both.
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
            raise DuplicateIndexError(f"index {unique[counts > 1][0]} stands more than once")

    @property
    def mask_ratio(self) -> float:
        """The fraction of all tokens that are targets."""
        return len(self.target_indices) / self.total_tokens

    def to_mask(self, grid: Sequence[int]) -> np.ndarray:
        """Returns the target as a boolean mask.

        Args:
            grid: the shape of the tokens, of any rank, with `total_tokens` in all.

        Returns:
            bool[*grid], True at the target tokens.

        Raises:
            ValueError: if the grid has another number of tokens.
            MaskError: if `validate` fails.
        """
        if not is_sequence(grid):
            raise TypeError(f"grid must be the sides of a grid, got {grid!r}")
        shape = tuple(check_count(f"grid[{i}]", side) for i, side in enumerate(grid))
        if math.prod(shape) != self.total_tokens:
            raise ValueError(f"grid must have {self.total_tokens} tokens, got {grid!r}")
        self.validate()
        mask = np.zeros(self.total_tokens, bool)
        mask[self.target_indices] = True
        return mask.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain ints and lists of ints, ready for JSON.

        Returns:
            A dict from which `MaskSpec(**fields)` makes an equal spec.
        """
        return {
            "context_indices": self.context_indices.tolist(),
            "target_indices": self.target_indices.tolist(),
            "total_tokens": self.total_tokens,
        }

    @classmethod
    def _of_views(cls, context: np.ndarray, target: np.ndarray, total_tokens: int) -> "MaskSpec":
        """Skips the checks, which take longer than a large batch's conversion."""
        spec = cls.__new__(cls)
        spec.__dict__.update(
            context_indices=context, target_indices=target, total_tokens=total_tokens
        )
        return spec

    def __reduce__(self) -> tuple[type["MaskSpec"], tuple[Any, ...]]:
        return MaskSpec, (self.context_indices, self.target_indices, self.total_tokens)

    def _values(self) -> tuple[int, bytes, bytes]:
        return self.total_tokens, self.context_indices.tobytes(), self.target_indices.tobytes()

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, MaskSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())


def to_mask_spec(mask: Any) -> MaskSpec:
    """Converts one target mask into index lists; the context is its complement.

    Args:
        mask: bool[*grid], a NumPy or JAX array of any rank from 1.

    Returns:
        MaskSpec, its indices ascending.

    Raises:
        TypeError: if `mask` is traced or not a boolean array.
        EmptyContextError: if every token is a target.
        EmptyTargetError: if no token is.

    Example:
        >>> spec = to_mask_spec(np.array([[True, False], [False, False]]))
        >>> spec.target_indices.tolist(), spec.context_indices.tolist()
        ([0], [1, 2, 3])
    """
    batch = _on_host("mask", mask)[None]
    return _convert(batch.reshape(1, -1), "the mask")[0]


def to_mask_specs(masks: Any) -> list[MaskSpec]:
    """Converts a batch of target masks into index lists.

    The lists of one batch are views of one array.

    Args:
        masks: bool[batch, *grid], a NumPy or JAX array with exactly one batch axis.

    Returns:
        One MaskSpec for each mask, its indices ascending.

    Raises:
        TypeError: if `masks` is traced or not a boolean array.
        ValueError: if there is no mask, or no grid behind the batch axis.
        EmptyContextError: if every token of a mask is a target; the message says which mask.
        EmptyTargetError: if no token of a mask is.

    Example:
        >>> specs = to_mask_specs(np.eye(2, dtype=bool))
        >>> [spec.target_indices.tolist() for spec in specs]
        [[0], [1]]
    """
    return _convert(_flat_batch(masks), "mask {} of the batch")


class MaskStatistics(NamedTuple):
    """How many tokens the masks of a batch hold, and where."""

    min: int
    mean: float
    max: int
    quantiles: dict[float, int]
    """the count below or at which each of these fractions of the masks lies"""
    coverage: np.ndarray
    """float64[*grid], the fraction of the masks in which each token is set"""


def mask_statistics(masks: Any) -> MaskStatistics:
    """Counts the True tokens of a batch of masks.

    Args:
        masks: bool[batch, *grid], a NumPy or JAX array with exactly one batch axis and at least one
            mask.

    Returns:
        MaskStatistics: `min`, `mean` and `max` of the counts, their `quantiles` at 1, 5, 25, 50,
        75, 95 and 99 % (keys 0.01 to 0.99), and the per-token `coverage` float64[*grid].

    Raises:
        TypeError: if `masks` is traced or not a boolean array.
        ValueError: if there is no mask, or no grid behind the batch axis.

    Example:
        >>> stats = mask_statistics(np.array([[True, False], [True, True]]))
        >>> stats.min, stats.mean, stats.max, stats.coverage.tolist()
        (1, 1.5, 2, [1.0, 0.5])
    """
    flat = _flat_batch(masks)
    counts = flat.sum(axis=1)
    fractions = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    quantiles = np.quantile(counts, fractions, method="inverted_cdf")
    return MaskStatistics(
        int(counts.min()),
        float(counts.mean()),
        int(counts.max()),
        {fraction: int(count) for fraction, count in zip(fractions, quantiles, strict=True)},
        flat.mean(axis=0).reshape(masks.shape[1:]),
    )


def _on_host(name: str, mask: Any) -> np.ndarray:
    if isinstance(mask, jax.core.Tracer):
        raise TypeError(
            f"{name} is traced: call this on what the jitted function returns; for index lists of "
            "static length inside it, use token_indices"
        )
    return np.asarray(check_mask(name, mask))


def _flat_batch(masks: Any) -> np.ndarray:
    batch = _on_host("masks", masks)
    if batch.ndim < 2:
        raise ValueError(f"masks must have shape (batch, *grid), got {batch.shape}")
    return batch.reshape(len(batch), -1)


def _convert(targets: np.ndarray, name: str) -> list[MaskSpec]:
    """Converts bool[batch, tokens]; errors call a mask by `name`, formatted with its number."""
    num_targets = targets.sum(axis=1)
    tokens = targets.shape[1]
    for error, side, count in (
        (EmptyContextError, "context", tokens),
        (EmptyTargetError, "target", 0),
    ):
        if (num_targets == count).any():
            raise error(f"{name.format(np.argmax(num_targets == count))} has no {side} token")
    contexts = _index_lists(~targets, tokens - num_targets)
    return [
        MaskSpec._of_views(context, target, tokens)
        for context, target in zip(contexts, _index_lists(targets, num_targets), strict=True)
    ]


def _index_lists(masks: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Splits the token numbers of all masks, found at once, into read-only views."""
    tokens = (np.flatnonzero(masks) % masks.shape[1]).astype(np.int32)
    tokens.flags.writeable = False
    stops = np.cumsum(counts).tolist()
    return [tokens[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]


def _indices(name: str, values: Any) -> np.ndarray:
    """Copies into a read-only int32[n] array."""
    if isinstance(values, jax.core.Tracer):
        raise TypeError(f"{name} must be concrete, got a traced array")
    try:
        indices = np.array(values)
    except ValueError as error:
        raise ValueError(f"{name} must be a list of integers, got {values!r}") from error
    if indices.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {indices.shape}")
    if indices.size and not np.issubdtype(indices.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {values!r}")
    indices = np.clip(indices, -(2**31), 2**31 - 1).astype(np.int32)
    indices.flags.writeable = False
    return indices
