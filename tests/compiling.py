"""Compiles quickly what a test runs once or twice: without optimisation, in a third of the time.

The masks must not depend on it. What users get, with every optimisation, is drawn in
`test_reproducibility.py`, and by every eager call in the tests.
"""

import functools

import jax

QUICKLY = {"xla_backend_optimization_level": 0}
if jax.__version_info__ < (0, 11):  # later ones have no other way to make loops
    QUICKLY["xla_cpu_use_fusion_emitters"] = False

quick = functools.partial(jax.jit, compiler_options=QUICKLY)
