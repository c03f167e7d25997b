"""The learning engines with analytic gradients, as parameters of tests."""

import pytest

from rl.core.kernels.library import kernels_obstacle

needs_kernels = pytest.mark.skipif(
    kernels_obstacle() is not None, reason=f"no compiled kernels: {kernels_obstacle()}"
)
BY_HAND = ("numpy", pytest.param("compiled", marks=needs_kernels))
FASTEST = "numpy" if kernels_obstacle() else "compiled"
"""What `learners.engine: auto` takes where there are analytic gradients."""
