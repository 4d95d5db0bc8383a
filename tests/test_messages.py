"""Every error is one line of at most 400 characters, whatever an option got."""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_bad_input import INDICES, KEY, MASK, SIZES, STRATEGIES, VALID, VALID_SIZES, answer

import jepa_masks_jax as jm
from jepa_masks_jax.__main__ import main


class Tensor:
    """An array as other libraries have them: named by dtype and shape, printed in many lines."""

    dtype, shape = "other.bool", (50, 80)

    def __repr__(self):
        return "\n".join(["tensor"] * 50)


LONG = [
    np.arange(4000.0).reshape(50, 80),
    np.arange(4000).reshape(50, 80),
    np.zeros((50, 80), bool),
    jnp.ones((50, 80)),
    np.arange(500.0),
    list(range(500)),
    [np.arange(500.0)] * 2,
    tuple(np.ones((50, 2))),
    {"a": list(range(500))},
    "a word " * 600,
    "long\nlines\n" * 400,
    10**400,
    -(10**4400),
    Tensor(),
    [Tensor()] * 2,
    INDICES,
]
FUNCTIONS = {
    **{function: VALID[function] for function in STRATEGIES},
    **{function: {name: VALID_SIZES[name] for name in of} for function, of in SIZES.items()},
    jm.random_mask: {"grid": (4, 4), "num_masked": 3, "cell": (2, 2)},
    jm.box_mask: {"grid": (4, 4), "num_boxes": 2, "extent": (2, 2)},
    jm.ijepa_counts: {"grid": (14, 14)},
    jm.inside: {"grid": (4, 4), "within": (2, 2)},
    jm.clip_count: {"mask": MASK, "minimum": 5},
    jm.token_indices: {"mask": MASK, "size": 3},
    jm.top_mask: {"scores": np.ones((4, 4), np.float32), "num_masked": 3},
    jm.squared_distance: {"mask": MASK},
    jm.take_tokens: {"tokens": np.ones((16, 2)), "indices": INDICES},
    jm.put_tokens: {"tokens": np.ones((3, 2)), "indices": INDICES},
    jm.balanced_order: {"counts": np.arange(4), "per_row": 2},
    jm.in_rows: {"masks": np.ones((4, 3), bool), "per_row": 2},
    jm.attention_mask: {"queries": INDICES, "keys": INDICES},
    jm.list_size: {"draw": lambda key: MASK, "per_row": 2, "group": 4},
    jm.to_mask_spec: {"mask": MASK},
    jm.to_mask_specs: {"masks": MASK},
    jm.mask_statistics: {"masks": MASK},
    jm.MaskSpec: {"context_indices": [0], "target_indices": [1], "total_tokens": 4},
}


def options(function):
    names = inspect.signature(function).parameters
    return {"key": KEY, **FUNCTIONS[function]} if "key" in names else FUNCTIONS[function]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_an_error_is_one_short_line(function):
    refused = 0
    for name in inspect.signature(function).parameters:
        for value in LONG:
            error = answer(functools.partial(function, **{**options(function), name: value}))
            if error is None:
                continue
            refused += 1
            assert isinstance(error, TypeError | ValueError), (name, type(value))
            assert "\n" not in str(error), (name, type(value))
            assert len(str(error)) <= 400, (name, type(value))
            named = rf"\b{name.rstrip('s')}|exactly one of"
            assert re.search(named, str(error)), error
    assert refused >= 5


@pytest.mark.parametrize("value", ["x" * 4000, "a=" + "x" * 4000, "num_targets=" + "[1]," * 999])
def test_an_error_of_the_command_is_one_short_line(value, capsys):
    with pytest.raises(SystemExit):
        main(["ijepa_masks", "--out", "a.json", "--set", value])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert len(error) <= 400


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda array: jm.token_indices(array, size=2), "mask"),
        (jm.squared_distance, "mask"),
        (jm.mask_statistics, "masks"),
        (lambda array: jm.random_mask(KEY, (4, 4), mask_ratio=0.5, among=array), "among"),
        (lambda array: jm.random_mask(KEY, (4, 4), num_masked=array), "num_masked"),
        (lambda array: jm.clip_count(KEY, MASK, exactly=array), "exactly"),
        (lambda array: jm.inside((4, 4), array), "within"),
        (lambda array: jm.top_mask(array, num_masked=1), "scores"),
        (lambda array: jm.balanced_order(KEY, array, per_row=2), "counts"),
        (lambda array: jm.take_tokens(array, INDICES), "tokens"),
    ],
)
def test_an_array_of_another_library_is_told_of_numpy(call, name):
    with pytest.raises(TypeError, match=rf"{name} .*other\.bool\[50, 80\].*np\.asarray\({name}\)"):
        call(Tensor())


def test_a_count_of_none_or_all_tokens_is_told_of_clip_count():
    for options in [
        {"num_masked": 0},
        {"num_masked": (0, 3)},
        {"num_masked": 12},
        {"mask_ratio": 0},
        {"mask_ratio": (0.0, 0.5)},
        {"mask_ratio": 1.0},
    ]:
        with pytest.raises(ValueError, match=r"must be in .*clip_count\(key"):
            jm.random_mask(KEY, (3, 4), **options)
    none = jm.clip_count(KEY, jnp.zeros((3, 4), bool), exactly=0)
    assert not jax.device_get(none).any()
