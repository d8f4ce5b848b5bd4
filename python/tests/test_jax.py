"""JAX, whose arrays NumPy understands, bfloat16 among them."""

import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed: its arrays are NOT tested")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

import resnet_oracle as oracle  # noqa: E402


def conv(x, w):
    return lax.conv_general_dilated(x, w, (2, 1), [(1, 1), (1, 1)], dimension_numbers=("NCHW", "OIHW", "NCHW"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_convolution(dtype):
    keys = jax.random.split(jax.random.PRNGKey(0), 3)
    x, w, dy = (jax.random.normal(k, s, dtype) for k, s in zip(keys, [(2, 3, 9, 7), (4, 3, 3, 3), (2, 4, 5, 7)]))
    y, pull = jax.vjp(conv, x, w)
    dx, dw = pull(dy)
    inputs, theirs = {"input": x, "weight": w, "grad_output": dy}, {"output": y, "grad_input": dx, "grad_weight": dw}
    report = oracle.check("conv2d", inputs, theirs, stride=(2, 1), padding=1)
    assert report["output"].raw["dtypes"][1] == dtype and len(report.tensors) == 3
    with pytest.raises(AssertionError, match="grad_weight"):
        oracle.check("conv2d", inputs, {**theirs, "grad_weight": jnp.flip(dw, 3)}, stride=(2, 1), padding=1)
