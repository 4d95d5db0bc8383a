"""The short pages: the code of the questions and of the tables runs and returns what it says."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jepa_masks_jax as jm

FOLDER = Path(__file__).parents[1] / ".github"
if not FOLDER.exists():
    pytest.skip("the pages are not beside the tests", allow_module_level=True)
pytestmark = pytest.mark.usefixtures("users_promotion")

PAGES = {name: (FOLDER / f"{name}.md").read_text() for name in ("QUESTIONS", "COMING_FROM")}
TABLES = re.findall(r"^\| (.*?) \| `(.*?)` \| (.*) \|$", PAGES["COMING_FROM"], re.M)


@pytest.mark.slow
def test_blocks_print_what_their_comments_say(capsys):
    code = "".join(re.findall(r"^```python\n(.*?)^```", PAGES["QUESTIONS"], re.M | re.S))
    exec(code, {})
    comments = re.findall(r"^print\(.*\)  # (.*)$", code, re.M)
    assert len(comments) == code.count("print(") == 12
    assert capsys.readouterr().out.splitlines() == comments


@pytest.fixture(scope="module")
def names():
    """What the code of the tables may use."""
    key = jax.random.key(0)
    context = jm.presets.ijepa(key, (14, 14)).context
    seen = jm.token_indices(context, size=131, key=key)
    x, y = jnp.ones((196, 32)), jnp.ones((131, 32))
    masks = dict(context=context, target=~context)
    return dict(jm=jm, key=key, seen=seen, x=x, y=y, mask_token=jnp.zeros(32), **masks)


@pytest.mark.parametrize(("code", "returns"), [row[1:] for row in TABLES], ids=str)
def test_code_of_the_tables_returns_the_shapes_beside_it(code, returns, names):
    arrays = jax.tree.leaves(eval(code, names))
    shapes = [f"{array.dtype}{list(array.shape)}" for array in arrays]
    assert shapes == re.findall(r"`(.*?)`", returns)


def test_the_tables_have_every_line():
    assert len(TABLES) == 14


@pytest.mark.parametrize("strategy", [jm.ijepa_masks, jm.vjepa_mask])
def test_options_beside_those_of_meta_exist(strategy):
    table = PAGES["COMING_FROM"].split(f"| `{strategy.__name__}` |")[1].split("\n\n")[0]
    options = re.findall(r"^\| `\w+` \| `(\w+)`", table, re.M)
    assert len(options) >= 5
    assert set(options) <= set(inspect.signature(strategy).parameters)
    preset = jm.presets.ijepa if strategy is jm.ijepa_masks else jm.presets.vjepa_long_range
    assert set(options) == set(preset.keywords)
