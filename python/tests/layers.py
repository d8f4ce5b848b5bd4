"""Layers in every precision, for the tests: correct results of PyTorch, and how they were computed."""

import contextlib

import torch
import torch.nn.functional as F

TYPES = {"f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ["f64", "f32", "bf16", "fp16", "tf32", "autocast"]


def tf32(x):
    """Rounded to the 10 bits of a TF32 number."""
    bits = x.detach().contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class Tf32Conv(torch.autograd.Function):
    """A convolution as a matrix unit for TF32 computes it."""

    @staticmethod
    def forward(ctx, x, w, stride, padding):
        ctx.save_for_backward(x, w)
        ctx.settings = stride, padding
        return F.conv2d(tf32(x), tf32(w), None, stride, padding)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, tf32(w), tf32(dy), *ctx.settings)
        dw = torch.nn.grad.conv2d_weight(tf32(x), w.shape, tf32(dy), *ctx.settings)
        return dx, dw, None, None


def conv2d(precision, stride=(2, 1), padding=1, seed=0):
    """Inputs and results of a convolution, and the arithmetic to state."""
    make = torch.Generator().manual_seed(seed)
    dtype = TYPES.get(precision, torch.float32)
    x, w = (torch.randn(*shape, generator=make).to(dtype).requires_grad_() for shape in [(2, 3, 9, 7), (4, 3, 3, 3)])
    context = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else contextlib.nullcontext()
    with context:
        y = Tf32Conv.apply(x, w, stride, padding) if precision == "tf32" else F.conv2d(x, w, None, stride, padding)
    dy = torch.randn(*y.shape, generator=make).to(y.dtype)
    y.backward(dy)
    # Without float16 instructions PyTorch adds the gradients of a convolution in float16.
    stated = {"fp16": "fp16,sums=same", "tf32": "tf32", "autocast": None}.get(precision, precision)
    return {"input": x, "weight": w, "grad_output": dy}, {"output": y, "grad_input": x.grad, "grad_weight": w.grad}, stated
