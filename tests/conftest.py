"""Settings of the whole suite."""

import os
from pathlib import Path

import hypothesis

hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("suite")

# Many files draw the same masks: what one has compiled, the others and the next run read.
_CACHE = Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
