"""Settings of the whole suite."""

import os
from importlib.metadata import version
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("suite")

# Most of a test is compilation, which is three times as fast without optimization. The masks must
# not depend on it: test_reproducibility.py draws them with the default flags, as users do.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if tuple(map(int, version("jax").split(".")[:2])) < (0, 11):  # later ones need it for loops
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

# Many files draw the same masks: what one has compiled, the others and the next run read.
_CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax  # noqa: E402 (reads the settings above)

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module", autouse=True)
def strict_promotion():
    """JAX promotes no types or ranks by itself: what holds under that holds for every user."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(scope="module")
def users_promotion():
    """For the tests of a file that run the code of a page: JAX promotes as it does by default."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def pytest_collection_modifyitems(items):
    """The longest files first: at the end one of them would keep one worker busy alone."""
    longest = ["notebooks", "readme", "command", "devices", "tokens", "rows", "random_span", "top"]
    order = {f"test_{name}.py": place for place, name in enumerate(longest)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
