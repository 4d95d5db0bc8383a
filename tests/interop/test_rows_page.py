"""The guide to rows in Flax and Equinox: with the layers of either, its steps train and its test
passes."""

import ast
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jepa_masks_jax as jm

PAGE = Path(__file__).parents[2] / ".github" / "ROWS.md"
if not PAGE.exists():
    pytest.skip("the page is not beside the tests", allow_module_level=True)
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
KEY = jax.random.key(0)
pytestmark = pytest.mark.usefixtures("users_promotion")


@pytest.fixture(params=["flax", "equinox"])
def page(request):
    """The functions of the page, the layers of a library, and settings of small grids."""
    pytest.importorskip(request.param)
    (of_library,) = (block for block in BLOCKS if f" {request.param}" in block)
    code = "".join(block for block in BLOCKS if not re.search("flax|equinox", block))
    defined = [
        statement
        for statement in ast.parse(code).body
        if isinstance(statement, ast.Import | ast.FunctionDef)
    ]
    known = {"params": {"positions": jnp.zeros((36, 32)), "mask_token": jnp.ones(32)}}
    exec(compile(ast.Module(defined, []), PAGE.name, "exec"), known)
    exec(of_library, known)
    clip = lambda key: ~jm.vjepa_mask(key, (1, 6, 6), spatial_scale=(0.3, 0.3))  # noqa: E731
    known.update(PER_ROW=2, POOL=8, BATCH=4, sizes=(72, 72), clip_sizes=[72, 72])
    known.update(draw_ijepa=lambda key: jm.ijepa_masks(key, (6, 6), num_targets=2))
    return known | {"ranges": (clip, clip)}


def test_samples_of_a_row_stay_apart(page):
    context, targets = jax.vmap(page["draw_ijepa"])(jax.random.split(KEY, 3))
    patches, goal = jax.random.normal(KEY, (2, 3, 36, 32))
    page["check_rows"](page["loss_of_each_image"], patches, goal, context, targets)


@pytest.mark.parametrize("name", ["ijepa_loss", "vjepa_loss"])
def test_both_steps_train(page, name):
    page["ijepa_loss"] = page[name]  # "in place of ijepa_loss in the step"
    params = page["params"]
    teacher = jax.tree.map(jnp.copy, params)
    patches, losses = jax.random.normal(KEY, (4, 36, 32)), []
    for _ in range(4):
        params, teacher, loss = page["train_step"](params, teacher, patches, KEY, 0)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
