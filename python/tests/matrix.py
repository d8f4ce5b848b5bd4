#!/usr/bin/env python3
"""The tolerances of the oracle from both sides: PyTorch's correct results fit, wrong ones do not.

    python python/tests/matrix.py --quick                                     # a fixed sample of everything, about a minute
    python python/tests/matrix.py                                             # everything, about 20 minutes
    python python/tests/matrix.py --kinds conv2d --precisions bf16 --cases 1000 --networks      # a part

needs torch, torchvision, numpy, and the command `resnet` in release mode (installed, or RESNET). PyTorch on one core is the
implementation that is judged. A case is a layer or block with random geometry, settings and values. Its source is `case` in
this file (large means, constant channels, sums that cancel, ties, learnt logits; one in twelve has the size of real layers)
or `resnet oracle fuzz`. Each case is a function of its seed. The precisions are

    f64, f32, bf16, fp16    inputs and results of that type
    f32-plain               float32 convolutions without oneDNN
    tf32                    float32, with the operands of matrix products rounded to 10 bits, here
    autocast                float32 inputs, bfloat16 inside

1. Correct results are judged: none may be rejected. The table shows the largest share of a tolerance that a correct result
   uses, and the median over cases of the largest share in a case. `diagnose` may accuse none.
2. Each of these is made wrong by one fault at a time, as far as it changes a tensor by FACTOR of its size or more: the faults
   of `faults`, and each gradient times 1 - FACTOR. A change that is smaller than PyTorch's own rounding error in this case
   does not count, since nothing can see it. Every other fault that is accepted is listed with what rounding alone may do
   there. `diagnose` may not explain a wrong factor by a classic mistake.
3. Networks are recorded with `resnet_oracle.record` and judged isolated and end to end: untrained ones, ones that have learnt
   their images by heart, and, if files are given, the public ResNet-20 on test images of CIFAR-10. Then modules compute
   something wrong, several at a time, and each must be named, and no other.

Exit code 1 if a correct result is rejected or accused, a correct module is named, or a rate is below MUST.
"""

import argparse
import collections
import contextlib
import os
import sys
import textwrap
import time
import types

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import resnet_oracle as oracle  # noqa: E402

PRECISIONS = ["f64", "f32", "f32-plain", "bf16", "fp16", "tf32", "autocast"]
TYPES = {"f64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}  # float32 otherwise
BLOCKS = ["basic_block", "bottleneck", "preact_basic_block", "preact_bottleneck"]
KINDS = ["conv2d", "batch_norm", "relu", "leaky_relu", "max_pool", "avg_pool", "global_avg_pool", "linear", "softmax_cross_entropy"]
KINDS += [*BLOCKS, "sgd"]
# Of these layers every implementation rounds the results; ReLU and max pool copy.
ROUND = [kind for kind in KINDS if kind not in ("relu", "max_pool")]
FACTOR = collections.defaultdict(lambda: 0.02, {"f64": 0.001, "f32": 0.001, "f32-plain": 0.001})
# The share of faults that must be rejected, the largest share of a tolerance that may be used, and the least median.
MUST = collections.defaultdict(lambda: 0.95, {"f64": 0.99, "f32": 0.99, "f32-plain": 0.99})
# Of a tolerance; in a block, whose rounding is simulated, more.
LARGEST, OF_BLOCKS, MEDIAN = 0.5, 0.75, 0.01


# ---- Cases -----------------------------------------------------------------------------------------------------------


def values(rng, *shape):
    """Random numbers, sometimes far from 0, of very different sizes, tiny, or those after a ReLU."""
    x = rng.standard_normal(shape)
    how = rng.integers(9)
    return [x, x, x, x * np.exp(1.5 * rng.standard_normal(shape)), x * 1e-3, x * 50, x + 100, np.abs(x), np.maximum(x, 0)][how]


def case(seed, kind):
    """Settings and inputs, in float64."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    pick = lambda low, high: int(rng.integers(low, high + 1))
    n, h, w, more = pick(1, 5), pick(1, 13), pick(1, 13), 1
    if rng.random() < 1 / 12:
        n, h, w, more = pick(4, 16), pick(8, 28), pick(8, 28), 6
    t, s = {}, {}
    if kind == "conv2d":
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        ci, co, k = groups * pick(1, 6 * more), groups * pick(1, 6 * more), (pick(1, 4), pick(1, 4))
        s = {"stride": (pick(1, 3), pick(1, 3)), "padding": (pick(0, 3), pick(0, 3)), "dilation": (pick(1, 2), pick(1, 2)), "groups": groups}
        fits = [x + 2 * s["padding"][i] - s["dilation"][i] * (k[i] - 1) - 1 >= 0 for i, x in enumerate((h, w))]
        if not all(fits) or rng.random() < 0.2:
            k, s = (3, 3), {"padding": 1, "groups": groups}
        weight = values(rng, co, ci // groups, *k)
        if rng.random() < 0.2:
            weight -= weight.mean((1, 2, 3), keepdims=True)  # a high-pass filter: its sums cancel
        t = {"input": values(rng, n, ci, h, w), "weight": weight}
        if rng.random() < 0.6:
            t["bias"] = values(rng, co)
    elif kind == "batch_norm":
        c, n = pick(1, 6 * more), max(n, 2)
        x = rng.standard_normal((n, c, h, w))
        for channel in range(c):
            how = rng.integers(6)
            x[:, channel] = [x[:, channel], x[:, channel] + 30, x[:, channel] * 0.01 + 10, 7.7, 0.0, rng.integers(0, 2, x[:, channel].shape)][how]
        s = {"mode": str(rng.choice(["train", "train", "eval"])), "eps": float(rng.choice([1e-5, 1e-3, 0.1])), "momentum": float(rng.choice([0.1, 0.9, 1.0]))}
        t = {"input": x, "weight": values(rng, c), "bias": values(rng, c), "running_mean": rng.standard_normal(c), "running_var": rng.random(c) + 0.1}
    elif kind in ("relu", "leaky_relu"):
        x = values(rng, n, pick(1, 5), h, w)
        x[rng.random(x.shape) < 0.2] = 0.0
        t = {"input": x}
        if kind == "leaky_relu":
            s = {"negative_slope": float(rng.choice([0.01, 0.2, 0.5]))}
    elif kind in ("max_pool", "avg_pool"):
        k = (pick(1, 4), pick(1, 4))
        h, w = max(h, k[0]), max(w, k[1])
        s = {"kernel_size": k, "stride": (pick(1, 3), pick(1, 3)), "padding": (pick(0, k[0] // 2), pick(0, k[1] // 2)), "ceil_mode": bool(pick(0, 1))}
        x = values(rng, n, pick(1, 5), h, w)
        if kind == "max_pool" and rng.random() < 0.3:
            x = np.round(x)  # ties
        if kind == "avg_pool":
            s["count_include_pad"] = bool(pick(0, 1))
        t = {"input": x}
    elif kind == "global_avg_pool":
        x = values(rng, n, pick(1, 9 * more), h, w)
        t = {"input": x - x.mean((2, 3), keepdims=True) if rng.random() < 0.3 else x}
    elif kind == "linear":
        t = {"input": values(rng, n, pick(1, 64 * more)), "bias": values(rng, pick(1, 20 * more))}
        t["weight"] = values(rng, len(t["bias"]), t["input"].shape[1])
    elif kind == "softmax_cross_entropy":
        classes = pick(1, 20 * more)
        x, target = rng.standard_normal((n, classes)) * rng.choice([1, 1, 10]), rng.integers(0, classes, n)
        if rng.random() < 0.4:
            x[np.arange(n), target] += 12  # learnt
        s = {"reduction": str(rng.choice(["mean", "sum", "none"])), "label_smoothing": float(rng.choice([0.0, 0.0, 0.1]))}
        if rng.random() < 0.3:
            target[0] = -100 if n > 1 else target[0]
        t = {"input": x, "target": target}
        if rng.random() < 0.3:
            t["weight"] = rng.random(classes) + 0.1
        if s["reduction"] == "none":
            t["grad_output"] = rng.standard_normal(n)
    elif kind == "sgd":
        shape = [pick(1, 6), pick(1, 6)]
        s = {"lr": 0.1, "momentum": 0.9, "weight_decay": float(rng.choice([0.0, 1e-2])), "nesterov": bool(pick(0, 1))}
        t = {name: values(rng, *shape) for name in ("param", "grad", "momentum_buffer")}
    else:
        s = {"mode": str(rng.choice(["train", "eval"])), "shortcut": str(rng.choice(["identity", "projection", "zero_pad"]))}
        n, h, w, ci, middle = max(n, 2), max(h, 4), max(w, 4), pick(2, 6 * more), pick(2, 5)
        co = ci if s["shortcut"] == "identity" else ci + pick(0, 3)
        s["stride"] = 1 if s["shortcut"] == "identity" else pick(1, 2)
        convs = [(middle, ci, 1), (middle, middle, 3), (co, middle, 1)] if "bottleneck" in kind else [(middle, ci, 3), (co, middle, 3)]
        t = {"input": rng.standard_normal((n, ci, h, w))}
        layers = [(f"conv{i}", f"bn{i}", *sizes) for i, sizes in enumerate(convs, 1)]
        if s["shortcut"] == "projection":
            layers.append(("downsample.0", None if "preact" in kind else "downsample.1", co, ci, 1))
        for conv, bn, o, c, k in layers:
            t[f"{conv}.weight"] = rng.standard_normal((o, c, k, k)) / np.sqrt(c * k * k)
            if bn:
                o = c if "preact" in kind else o
                t |= {f"{bn}.weight": rng.random(o) + 0.5, f"{bn}.bias": rng.standard_normal(o)}
                t |= {f"{bn}.running_mean": rng.standard_normal(o), f"{bn}.running_var": rng.random(o) + 0.1}
    t = {k: torch.from_numpy(np.asarray(v)) for k, v in t.items()}
    t = {k: v.float().double() if v.is_floating_point() else v for k, v in t.items()}
    if kind not in ("softmax_cross_entropy", "sgd"):
        y = answer(kind, s, t, "f64")["output"]
        t["grad_output"] = torch.from_numpy(values(rng, *y.shape)).float().double()
        if rng.random() < 0.2 and y.ndim == 4:  # as after a batch norm: dbias is a sum that cancels
            t["grad_output"] -= t["grad_output"].mean((0, 2, 3), keepdim=True)
            t["grad_output"] = t["grad_output"].float().double()
    return s, t


# ---- PyTorch's answers -----------------------------------------------------------------------------------------------


def tf32(x):
    """Rounded to the 10 bits of a TF32 number."""
    bits = x.detach().contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


class Tf32Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b, *settings):
        ctx.save_for_backward(x, w)
        ctx.settings, ctx.bias = settings, b is not None
        return F.conv2d(tf32(x), tf32(w), b, *settings)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dx = torch.nn.grad.conv2d_input(x.shape, tf32(w), tf32(dy), *ctx.settings)
        dw = torch.nn.grad.conv2d_weight(tf32(x), w.shape, tf32(dy), *ctx.settings)
        return dx, dw, dy.sum((0, 2, 3)) if ctx.bias else None, None, None, None, None


class Tf32Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        ctx.bias = b is not None
        return F.linear(tf32(x), tf32(w), b)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return tf32(dy) @ tf32(w), tf32(dy).T @ tf32(x), dy.sum(0) if ctx.bias else None


PRODUCTS = collections.defaultdict(lambda: F, {"tf32": types.SimpleNamespace(conv2d=Tf32Conv.apply, linear=Tf32Linear.apply)})


@contextlib.contextmanager
def arithmetic(precision):
    """What PyTorch uses inside."""
    with contextlib.ExitStack() as stack:
        if precision == "f32-plain":  # without oneDNN, and without NNPACK, whose Winograd has tiles of 6x6
            for backend in (torch.backends.mkldnn, torch.backends.nnpack):
                stack.enter_context(backend.flags(enabled=False))
        stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"))
        yield


def block(kind, s, conv, norm, x):
    """A residual block."""
    count, strides = (3, {s.get("stride_on", "conv2"): s["stride"]}) if "bottleneck" in kind else (2, {"conv1": s["stride"]})
    shortcut, y = x, x
    for i in range(1, count + 1):
        if "preact" in kind:
            y = F.relu(norm(f"bn{i}", y))
            shortcut = y if i == 1 and s["shortcut"] == "projection" else shortcut
        y = conv(f"conv{i}", y, strides.get(f"conv{i}", 1))
        if "preact" not in kind:
            y = norm(f"bn{i}", y)
            y = F.relu(y) if i < count else y
    if s["shortcut"] == "projection":
        shortcut = conv("downsample.0", shortcut, s["stride"])
        shortcut = shortcut if "preact" in kind else norm("downsample.1", shortcut)
    elif s["shortcut"] == "zero_pad":
        more = y.shape[1] - x.shape[1]
        shortcut = F.pad(x[:, :, :: s["stride"], :: s["stride"]], (0, 0, 0, 0, more // 2, more - more // 2))
    return y + shortcut if "preact" in kind else F.relu(y + shortcut)


def answer(kind, s, t, precision):
    """The results of a correct implementation, under the oracle's names."""
    t = {k: v.to(TYPES.get(precision, torch.float32)).clone() if v.is_floating_point() else v for k, v in t.items()}
    dy, out = t.pop("grad_output", None), {}
    if kind == "sgd":
        param = nn.Parameter(t["param"])
        param.grad = t["grad"]
        sgd = torch.optim.SGD([param], foreach=False, **s)
        if "momentum_buffer" in t:
            sgd.state[param]["momentum_buffer"] = t["momentum_buffer"]
        sgd.step()
        after = sgd.state[param].get("momentum_buffer")
        return {"param": param.detach()} | ({} if after is None else {"momentum_buffer": after})
    leaves = [k for k in t if t[k].is_floating_point() and "running" not in k and not (kind == "softmax_cross_entropy" and k == "weight")]
    for k in leaves:
        t[k].requires_grad_()
    x, products = t["input"], PRODUCTS[precision]

    def conv(name, x, stride):
        weight = t[name + ".weight"]
        return products.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, 1)

    def norm(name, x):
        mean, var, weight, bias = (t.get(f"{name}.{part}".lstrip(".")) for part in ("running_mean", "running_var", "weight", "bias"))
        momentum = s.get("momentum", 0.1)
        y = F.batch_norm(x, mean, var, weight, bias, s["mode"] == "train", 1.0 if momentum is None else float(momentum), float(s.get("eps", 1e-5)))
        if s["mode"] == "train" and mean is not None:
            out.update({f"{name}.running_mean".lstrip("."): mean, f"{name}.running_var".lstrip("."): var})
        return y

    with arithmetic(precision):
        if kind == "conv2d":
            y = products.conv2d(x, t["weight"], t.get("bias"), *(s.get(key, 1) for key in ("stride", "padding", "dilation", "groups")))
        elif kind == "batch_norm":
            y = norm("", x)
        elif kind in ("relu", "leaky_relu", "cross_entropy"):
            y = getattr(F, kind)(x, **s)
        elif kind in ("max_pool", "avg_pool"):
            y = getattr(F, kind + "2d")(x, **s)
        elif kind == "global_avg_pool":
            y = x.mean((2, 3))
        elif kind == "linear":
            y = products.linear(x, t["weight"], t.get("bias"))
        elif kind == "softmax_cross_entropy":
            y = F.cross_entropy(x, t["target"], t.get("weight"), **s)
        else:
            y = block(kind, s, conv, norm, x)
        out["output"] = y.detach().clone()
        if dy is not None or y.ndim == 0:
            y.backward(dy if dy is None else dy.to(y.dtype).reshape(y.shape))
    return out | {"grad_" + k: t[k].grad for k in leaves if t[k].grad is not None}


def given(t, precision):
    """The inputs as numbers that this precision has."""
    dtype = TYPES.get(precision, torch.float32)
    return {k: v.to(dtype).double() if v.is_floating_point() else v for k, v in t.items()}


def stated(kind, precision):
    """How the results were computed, as a user states it."""
    if precision == "fp16" and kind in ("conv2d", *BLOCKS):
        return "fp16,sums=same"  # without float16 instructions PyTorch adds the gradients of a convolution in float16
    if precision == "autocast":
        # A pattern says nothing of the inputs, which are float32. Of these layers autocast computes some in bfloat16.
        return {"**": "bf16"} if kind in ("conv2d", "linear", *BLOCKS) else None
    return precision.removesuffix("-plain")


# ---- Faults of layers ------------------------------------------------------------------------------------------------


def faults(kind, s, t, theirs, precision):
    """Wrong results: what is wrong, and the tensors that are."""
    again = lambda **other: answer(kind, s, t | other, precision)
    gradients = {k: x for k, x in theirs.items() if k.startswith("grad_")}
    for k, x in gradients.items():
        yield f"{k} times {1 - FACTOR[precision]}", {k: x * (1 - FACTOR[precision])}
    weight = next((k for k in ("weight", "conv1.weight") if "grad_" + k in theirs), None)
    for k in (k for k in ("grad_input", f"grad_{weight}") if k in theirs):
        x = theirs[k]
        changed = {"zeros": x * 0, "times 0.9": x * 0.9, "times 1.1": x * 1.1, "times 0.5": x * 0.5, "negated": -x}
        if k == "grad_input":
            changed["of another image"] = x.roll(1, 0)
        if x.ndim == 4:
            changed["without its last row"] = x * (torch.arange(x.shape[2]) < x.shape[2] - 1)[:, None]
        yield from ((f"{k} {what}", {k: x}) for what, x in changed.items())
    if weight:
        yield "grad_weight of another image", {"grad_" + weight: again(input=t["input"].roll(1, 0))["grad_" + weight]}
    if "bias" in t:
        yield "bias forgotten", {"output": again(bias=t["bias"] * 0)["output"]}
        yield "grad_bias of zeros", {"grad_bias": theirs["grad_bias"] * 0}
    if kind in ("conv2d", "linear"):
        w = t["weight"]
        others = {"transposed": w.flatten().reshape(*reversed(w.shape)).T} if kind == "linear" else {}
        if kind == "conv2d":
            tap = torch.zeros(w.shape[2:], dtype=torch.bool)
            tap[0, 0] = True
            others["without a tap"] = w.masked_fill(tap, 0)
            yield "grad_weight without a tap", {"grad_weight": theirs["grad_weight"].masked_fill(tap, 0)}
            if w.shape[2] == w.shape[3]:
                others["transposed"] = w.transpose(2, 3)
            if w.shape[0] == w.shape[1]:
                others["input and output exchanged"] = w.transpose(0, 1)
        for what, other in others.items():
            for k in ("output", "grad_input"):
                yield f"{k} of the weight {what}", {k: again(weight=other.contiguous())[k]}
    if kind == "batch_norm" and s["mode"] == "train" and "weight" in t:
        x, dy, gamma, beta = (t[k].double() if t[k].ndim == 4 else t[k].double()[:, None, None] for k in ("input", "grad_output", "weight", "bias"))
        mean = lambda x: x.mean((0, 2, 3), keepdim=True)
        rstd = (mean((x - mean(x)) ** 2) + float(s["eps"])).rsqrt()
        x_hat, slope, dtype = (x - mean(x)) * rstd, gamma * rstd, theirs["grad_input"].dtype
        yield "grad_input without the mean's term", {"grad_input": (slope * (dy - x_hat * mean(dy * x_hat))).to(dtype)}
        yield "grad_input without the variance's term", {"grad_input": (slope * (dy - mean(dy))).to(dtype)}
        yield "grad_input of evaluation", {"grad_input": (slope * dy).to(dtype)}
        yield "gamma forgotten", {"output": (x_hat + beta).to(dtype)}
        yield "half of the mean", {"output": ((x - mean(x) / 2) * slope + beta).to(dtype)}
    if kind in BLOCKS and s["shortcut"] == "identity":
        y = theirs["output"].double() - t["input"]
        yield "shortcut forgotten", {"output": (y if "preact" in kind else F.relu(y)).to(theirs["output"].dtype)}
    if kind == "sgd":
        for other in [{"weight_decay": 0.0}, {"nesterov": False}, {"momentum": 0.5, "nesterov": False}]:
            changed = answer(kind, s | other, t, precision)
            yield f"with {other}", {k: changed[k] for k in theirs if k in changed}


def size(x):
    return torch.linalg.vector_norm(x.double()).item()


# ---- Judging layers --------------------------------------------------------------------------------------------------


class Tally:
    """What is counted in a row of a table."""

    def __init__(self):
        self.shares, self.rejected, self.accused, self.hidden = [], [], [], 0
        self.tried, self.accepted = collections.Counter(), collections.defaultdict(list)

    def rate(self, sort):
        return f"{self.tried[sort] - len(self.accepted[sort])} of {self.tried[sort]}"


def described(tensor):
    """The worst element of a tensor and its whole, for a reader who looks for the reason."""
    raw = tensor.raw
    whole = ", ".join(f"{key} {raw[key]['found']:.9g} (allowed {raw[key]['tolerance']:.2g})" for key in ("factor", "mean") if raw[key])
    worst = f"{list(tensor.worst_index)} of {list(tensor.shape)}: ours {tensor.ours:.9g}, theirs {tensor.theirs:.9g}, tolerance {tensor.tolerance:.3g}"
    return f"{tensor.name} {tensor.outcome}, share {tensor.share:.3f}, {worst}; {whole}"


def reason(report, changed):
    """What rounding alone may do to the tensors that a fault has changed: why it is accepted."""
    of = lambda tensor: f"{tensor.name}: {int(np.prod(tensor.shape))} elements, rms {tensor.raw['rms']:.2g}, tolerance {tensor.raw['tolerance'] or np.inf:.2g}"
    return "; ".join(of(report[name]) + f", share {report[name].share:.2f}" for name in changed)


def diagnosed(tally, text, kind, t, theirs, how):
    """Whether the results are right, and the mistakes that explain them."""
    try:
        found = oracle.diagnose(kind, t, theirs, **how)
        return found.right, [mistake.name for mistake in found.mistakes]
    except oracle.OracleError as error:
        tally.accused.append(f"{text}: {error}")
        return True, []


def judge(tally, text, kind, s, t, theirs, precision, with_faults, with_diagnosis):
    """A correct case, and the same with faults."""
    how = dict(computed_in=stated(kind, precision), **s)
    report = oracle.check(kind, t, theirs, raises=False, **how)
    tally.shares.append(report.worst.share)
    for tensor in report.tensors:
        if not tensor.passed or tensor.share > LARGEST:
            print(f"{'' if tensor.passed else 'REJECTED '}{kind} {precision} {text}\n    {described(tensor)}", flush=True)
    if not report:
        tally.rejected.append(text)
    # Only the plain loss can be diagnosed.
    with_diagnosis &= kind != "softmax_cross_entropy" or s["reduction"] != "none" and "weight" not in t and (t["target"] >= 0).all().item()
    if with_diagnosis and report and diagnosed(tally, text, kind, t, theirs, how) != (True, []):
        tally.accused.append(text)
    if not with_faults:
        return
    exact, least = answer(kind, s, t, "f64"), 0.99 * FACTOR[precision]
    for what, wrong in faults(kind, s, t, theirs, precision):
        if not any(size(x.double() - theirs[k].double()) > least * size(theirs[k]) for k, x in wrong.items()):
            continue
        rounding = max(size(x.double() - theirs[k].double()) / max(size(exact[k] - theirs[k].double()), 1e-30) for k, x in wrong.items())
        if rounding < 1:
            tally.hidden += 1
            continue
        sort = "factor" if f"times {1 - FACTOR[precision]}" in what else "fault"
        tally.tried[sort] += 1
        report = oracle.check(kind, t, theirs | wrong, raises=False, **how)
        if report:
            tally.accepted[sort].append(f"{kind} {precision} {text}: {what}; {reason(report, wrong)}, {rounding:.2g} times PyTorch's rounding")
        elif with_diagnosis and sort == "factor":
            _, named = diagnosed(tally, f"{text}: {what}", kind, t, theirs | wrong, how)
            if named:
                tally.accused.append(f"{text}: {what} is explained by {', '.join(named)}")


def too_large(tensors):
    """Whether something is beyond the range of float16."""
    return any(not (x.abs() < 6e4).all() for x in tensors if x.is_floating_point())


def run_kind(args, kind, precision):
    """The cases of a kind in one precision."""
    tally, count = Tally(), 0

    def one(text, s, t):
        nonlocal count
        t = given(t, precision)
        theirs = answer(kind, s, t, precision)
        if precision == "autocast" and "grad_output" in t:
            t["grad_output"] = t["grad_output"].to(theirs["output"].dtype).double()  # as `answer` has done
        if precision == "fp16" and too_large([*t.values(), *theirs.values()]):
            return None
        judge(tally, text, kind, s, t, theirs, precision, count % args.every == 0, count % args.every == 0)
        count += 1
        return theirs

    for seed in range(args.first, args.first + args.cases):
        one(f"seed {seed}", *case(seed, kind))

    def implementation(inputs, settings):
        settings = {k: v if k in ("mode", "reduction", "shortcut", "stride_on") or not isinstance(v, str) else float(v) for k, v in settings.items()}
        before = len(tally.rejected)
        theirs = one(f"fuzz {settings}", settings, {k: torch.from_numpy(x) for k, x in inputs.items()})
        del tally.rejected[before:]  # they are counted below, with the text that repeats them
        if theirs is None:
            raise oracle.Unsupported("beyond the range of float16")
        return theirs

    if args.fuzz:
        found = oracle.fuzz(kind, implementation, seeds=args.fuzz, first=args.first, computed_in=stated(kind, precision), raises=False)
        tally.rejected += found.wrong
        if found.first:
            print(f"REJECTED {kind} {precision} fuzz: {found.wrong}\n{textwrap.indent(found.text, '    ')}", flush=True)
    return tally


def run_kinds(args, verdict):
    print(f"{'kind':22} {'precision':9} {'cases':>6} {'rejected':>8} {'largest':>8} {'median':>7} {'factors rejected':>18} {'faults rejected':>17} {'accused':>8}")
    sums = collections.defaultdict(Tally)
    for kind in args.kinds:
        for precision in args.precisions:
            if precision == "f32-plain" and kind not in ("conv2d", *BLOCKS):
                continue
            tally, total = run_kind(args, kind, precision), sums["blocks" if kind in BLOCKS else "layers", precision]
            # Where nothing was rounded, nothing is used.
            median, largest = np.median([share for share in tally.shares if share > 0] or [0.0]), max(tally.shares)
            row = f"{len(tally.shares):6} {len(tally.rejected):8} {largest:8.3f} {median:7.3f}"
            print(f"{kind:22} {precision:9} {row} {tally.rate('factor'):>18} {tally.rate('fault'):>17} {len(tally.accused):8}", flush=True)
            for text in tally.accused:
                print(f"ACCUSED {kind} {precision} {text}")
            verdict(not tally.rejected, f"{kind} {precision}: {len(tally.rejected)} correct results are rejected")
            verdict(not tally.accused, f"{kind} {precision}: {len(tally.accused)} results are accused of a mistake that is not theirs")
            verdict(largest <= (LARGEST if kind not in BLOCKS else OF_BLOCKS), f"{kind} {precision}: a correct result uses {largest:.3f} of a tolerance")
            verdict(kind not in ROUND or largest == 0 or median >= MEDIAN, f"{kind} {precision}: the median share is only {median:.4f}")
            total.tried += tally.tried
            total.hidden += tally.hidden
            for sort in ("factor", "fault"):
                total.accepted[sort] += tally.accepted[sort]
    for (what, precision), total in sums.items():
        judged(total, f"{what} in {precision}", precision, args, verdict)


def judged(total, what, precision, args, verdict):
    """The rates of a precision, and what was accepted."""
    if total.hidden:
        print(f"{what}: {total.hidden} changes are smaller than what rounding did to PyTorch's result, and do not count")
    for sort in ("factor", "fault"):
        if total.tried[sort]:
            print(f"{what}: {total.rate(sort)} {sort}s are rejected")
            for text in total.accepted[sort] if args.survivors else []:
                print(f"    accepted: {text}")
    tried, accepted = sum(total.tried.values()), sum(map(len, total.accepted.values()))
    if tried:
        # Between the input and the result of a block rounding travels, as in a network end to end: there is no must.
        rate = 1 - accepted / tried
        print(f"{what}: {tried - accepted} of {tried} wrong results are rejected, {100 * rate:.1f} %")
        verdict(what.startswith("blocks") or rate >= MUST[precision], f"{what}: only {100 * rate:.1f} % are rejected")


# ---- Networks --------------------------------------------------------------------------------------------------------


class Shortcut(nn.Module):
    """Option A: every other pixel, and channels of zeros."""

    def __init__(self, more):
        super().__init__()
        self.more = more

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more // 2, self.more // 2))


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
        self.shortcut = nn.Sequential() if c_in == c_out else Shortcut(c_out - c_in)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet20(nn.Module):
    """The network for CIFAR, in the names of public code."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1, c_in = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), 16
        for stage, c_out in enumerate((16, 32, 64), 1):
            blocks = [Block(c_in if i == 0 else c_out, c_out, 2 if i == 0 and stage > 1 else 1) for i in range(3)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            c_in = c_out
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.linear(x.mean((2, 3)))


def network(name, state, images):
    """A network in float32, its images and their classes; `state` is untrained, learnt, or the path of a checkpoint."""
    import torchvision

    torch.manual_seed(0)
    model = (ResNet20 if name == "resnet20" else getattr(torchvision.models, name))(num_classes=10)
    x, target = torch.randn(images, 3, 32, 32), torch.arange(images) % 10
    if state == "untrained":
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
    elif state == "learnt":
        sgd = torch.optim.SGD(model.parameters(), 0.05, 0.9)
        for _ in range(25):
            sgd.zero_grad()
            F.cross_entropy(model(x), target).backward()
            sgd.step()
        sgd.zero_grad()
    else:
        weights = torch.load(state[0], map_location="cpu", weights_only=True)["state_dict"]
        model.load_state_dict({k.removeprefix("module."): v for k, v in weights.items()})
        rows = np.fromfile(state[1], np.uint8, images * 3073).reshape(images, 3073)
        mean, std = (np.array(v).reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        x = torch.from_numpy((rows[:, 1:].reshape(-1, 3, 32, 32) / 255 - mean) / std).float()
        target = torch.from_numpy(rows[:, 0].astype(np.int64))
    return model, x, target


class Backward(torch.autograd.Function):
    """The identity, with a gradient that is changed."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx, dy):
        return ctx.change(dy), None


def wrong_values(precision):
    """Ways to change a tensor."""
    factor = 1 - FACTOR[precision]
    last = lambda x, axis: x * (torch.arange(x.shape[axis]) < x.shape[axis] - 1).reshape([-1] + [1] * (x.ndim - 1 - axis))
    return {
        f"times {factor}": lambda x: x * factor,
        "times 0.9": lambda x: x * 0.9,
        "of zeros": lambda x: x * 0,
        "without the last channel": lambda x: last(x, 1 if x.ndim > 1 else 0),
        "negated": lambda x: -x,
    }


def wrong_modules(model, precision, count):
    """Random faults in modules: the name of the module, what is wrong, and a function that makes it wrong until it is closed."""
    rng, changes = np.random.default_rng(0), list(wrong_values(precision).items())
    modules = {name: m for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.ReLU))}
    names = list(modules)
    for place in rng.permutation(np.resize(np.arange(len(names)), count)):
        name = names[place]
        module = modules[name]
        part = rng.choice(["output", "grad_input", *("grad_" + k for k, _ in module.named_parameters())])
        # Every other fault is a factor, the smallest of the changes.
        what, change = changes[0 if rng.random() < 0.5 else rng.integers(len(changes))]
        yield name, f"{part} {what}", part, lambda module=module, part=part, change=change: made(module, part, change)


@contextlib.contextmanager
def made(module, part, change):
    """A module that computes something wrong."""
    right, hook = module.forward, None
    if part == "output":
        module.forward = lambda x: (lambda y: y + (change(y) - y).detach())(right(x))
    elif part == "grad_input":
        module.forward = lambda x: right(Backward.apply(x, change).clone())  # which may be overwritten in place
    else:
        hook = getattr(module, part.removeprefix("grad_")).register_hook(change)
    try:
        yield
    finally:
        module.__dict__.pop("forward", None)  # that of the class is the right one
        if hook:
            hook.remove()


def recording(model, x, target, precision):
    model.zero_grad()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with oracle.record(model) as dump, arithmetic(precision):
        logits = model(x)
        F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), target).backward()
    model.load_state_dict(state)  # the running statistics
    return dump


def run_network(args, verdict, name, state, images, precision, mode, total):
    """A network in one precision."""
    start, label = time.time(), state if isinstance(state, str) else "public"
    model, x, target = network(name, state, images)
    dtype = TYPES.get(precision, torch.float32)
    model, x = model.to(dtype).train(mode == "train"), x.to(dtype)
    dump = recording(model, x, target, precision)
    text = f"{name} {label} {mode} {precision} {images} images"
    alone = oracle.compare(dump, raises=False)
    found = oracle.compare(dump, model=name, raises=False, end_to_end=not args.isolated)
    reports = {f"{module}: ": report for module, report in alone.modules.items()} | {"isolated: ": found.isolated, "end to end: ": found.end_to_end}
    for place, report in reports.items():
        for tensor in [] if report is None else report.tensors:
            if not tensor.passed or tensor.share > LARGEST:
                print(f"{'' if tensor.passed else 'REJECTED '}{text} {place}{described(tensor)}")
    for unknown in [] if found.end_to_end is None else found.end_to_end.unknown:
        print(f"UNKNOWN {text}: {unknown}")
    verdict(alone.passed and found.passed, f"{text}: correct results are rejected")
    if alone.passed:
        verdict(bool(oracle.diagnose(dump)), f"{text}: correct results are accused")
    named, pending = 0, list(wrong_modules(model, precision, args.bugs))
    # Several modules at a time, each of them once; one that is not named is tried again alone, since others may hide it.
    batches = []
    while pending:
        batches.append(list({fault[0]: fault for fault in pending[:5]}.values()))
        pending = [fault for fault in pending if fault not in batches[-1]]
    for now in batches:
        with contextlib.ExitStack() as stack:
            for *_, make in now:
                stack.enter_context(make())
            wrong = oracle.compare(recording(model, x, target, precision), raises=False)
        blamed = {call.split("#")[0] for call in wrong.wrong}  # a second call of a module is named relu#2
        for fault in now:
            module, what, part, _ = fault
            if len(now) > 1 and module not in blamed:
                batches.append([fault])
                continue
            sort = "factor" if f"times {1 - FACTOR[precision]}" in what else "fault"
            total.tried[sort] += 1
            named += module in blamed
            if module not in blamed:
                total.accepted[sort].append(f"{text}: {module} {what}; {reason(wrong.modules[module], [part])}")
        for module in blamed - {fault[0] for fault in now}:
            verdict(False, f"{text}: {module} is named, and wrong are {[fault[:2] for fault in now]}")
    share = lambda report: f"{max(v.share for v in report.tensors):.2f} of {len(report.tensors)}" if report is not None else "-"
    print(f"{name:9} {label:9} {mode:5} {precision:9} {images:6} {share(found.isolated):>13} {share(found.end_to_end):>13} {named:4} of {args.bugs:2} {time.time() - start:6.0f} s", flush=True)


def run_networks(args, verdict):
    print(f"\n{'network':9} {'state':9} {'mode':5} {'precision':9} {'images':>6} {'isolated':>13} {'end to end':>13} {'named':>10} {'time':>8}")
    runs = [(name, state, args.images, "train") for name in args.networks for state in ("untrained", "learnt")[args.quick :]]
    images = next((os.path.join(folder, "test_batch.bin") for folder in (args.cifar10, os.path.join(args.cifar10, "cifar-10-batches-bin")) if os.path.isfile(os.path.join(folder, "test_batch.bin"))), None) if args.cifar10 else None
    if "resnet20" in args.networks:
        if args.checkpoints and images:
            state = os.path.join(args.checkpoints, "resnet20-12fca82f.th"), images
            runs += [("resnet20", state, count, mode) for count, mode in [(args.images, "train"), (args.images, "eval"), (args.many, "train")] if count]
        else:
            print("!! SKIPPED: the trained ResNet-20 is NOT judged. Give --checkpoints and --cifar10, or RESNET_CHECKPOINTS and RESNET_CIFAR10")
    if args.many:
        runs.append((args.networks[0], "untrained", args.many, "train"))
    totals = collections.defaultdict(Tally)
    for name, state, count, mode in runs:
        for precision in ("f32", "autocast") if args.quick else ("f64", "f32", "autocast", "bf16"):
            if precision in args.precisions:
                run_network(args, verdict, name, state, count, precision, mode, totals[precision])
    for precision, total in totals.items():
        judged(total, f"networks in {precision}", precision, args, verdict)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=100, help="cases of every kind and precision, of this file")
    parser.add_argument("--fuzz", type=int, default=100, help="the same, of `resnet oracle fuzz`")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--every", type=int, default=5, help="of every how many cases wrong results are tried, and the diagnosis")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--precisions", nargs="*", default=PRECISIONS, choices=PRECISIONS)
    parser.add_argument("--networks", nargs="*", default=["resnet20", "resnet18", "resnet50"])
    parser.add_argument("--images", type=int, default=8, help="images of each network")
    parser.add_argument("--many", type=int, default=64, help="images of one more run of the first network; 0 for none")
    parser.add_argument("--bugs", type=int, default=30, help="wrong modules of each network")
    parser.add_argument("--isolated", action="store_true", help="judge networks isolated only")
    parser.add_argument("--checkpoints", default=os.environ.get("RESNET_CHECKPOINTS"), help="the folder of resnet20-12fca82f.th")
    parser.add_argument("--cifar10", default=os.environ.get("RESNET_CIFAR10"), help="the folder of CIFAR-10, binary version")
    parser.add_argument("--quick", action="store_true", help="a sample of about a minute")
    parser.add_argument("--no-survivors", dest="survivors", action="store_false", help="do not list the faults that are accepted")
    args = parser.parse_args()
    if args.quick:
        args.cases, args.fuzz, args.every, args.networks, args.many, args.bugs = 4, 6, 5, args.networks[:1], 0, 5
    torch.set_num_threads(1)
    broken = []
    verdict = lambda right, text: right or broken.append(text) or print(f"BROKEN {text}", flush=True)
    if args.kinds:
        run_kinds(args, verdict)
    if args.networks:
        run_networks(args, verdict)
    print("\n".join(["", f"{len(broken)} musts are broken", *broken]) if broken else "\neverything is as it must be")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
