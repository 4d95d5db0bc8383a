"""What other people's libraries need."""

import os

import pytest

os.environ["KERAS_BACKEND"] = "jax"  # Read when keras is imported.


@pytest.fixture(autouse=True, scope="module")
def their_promotion(users_promotion):
    """Libraries may rely on JAX's defaults."""
