#!/usr/bin/env python3
"""Writes the golden fixtures of tests/library/golden.rs: what PyTorch computes, in double precision.

    python tests/library/golden/make_fixtures.py            # about five minutes; needs torch, torchvision, numpy

Nothing here is random: every input is a formula of its tensor's name (`numbers`), which tests/library/golden/ repeats in Rust,
bit-identical. Every value is a multiple of 2^-15 with at most 16 significant bits times a power of two, so it is exact in
float32, too, products of two are exact in float64, and so is any sum of a million such products: a convolution in float64
has one right result, whatever the order of the sum, and the test requires equality.

The contents of the files:

layers.safetensors    one layer in many geometries: inputs (float32, exact), outputs and all gradients (float64).
blocks.safetensors    one residual block of each kind: outputs and gradients; inputs by formula.
networks.safetensors  CIFAR ResNet-20 and torchvision's ResNet-18: losses, logits, and of every gradient and every new
                      running statistic its norm, largest entry, four projections, sixteen entries (`summary`).

Tolerances of blocks and networks come from a model of rounding, not from the results under test: see `Noise`.
"""

import json
import os
import struct
import sys

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision

SEED = 20240
HERE = os.path.dirname(os.path.abspath(__file__))
torch.use_deterministic_algorithms(True)
torch.set_num_threads(2)
torch.set_default_dtype(torch.float64)


# ---- The formula -----------------------------------------------------------------------------------------------------

def fnv(name):
    """FNV-1a of a name, as `resnet_by_hand::rng::name_hash`."""
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def mix(z):
    """SplitMix64's output function on an array of uint64."""
    with np.errstate(over="ignore"):
        z = z + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def words(name, count):
    """`count` words of 64 pseudo-random bits that depend only on the name, the seed and the index."""
    start = mix(np.array([fnv(name) ^ SEED], dtype=np.uint64))
    with np.errstate(over="ignore"):
        return mix(start + np.arange(count, dtype=np.uint64))


def numbers(name, shape, scale=1.0, offset=0.0):
    """offset + scale * v, v uniform on the 2^16 multiples of 2^-15 in [-1, 1); scale a power of two."""
    v = (words(name, int(np.prod(shape))) >> np.uint64(48)).astype(np.float64) / 32768.0 - 1.0
    return torch.from_numpy(offset + scale * v.reshape(shape))


def classes(name, count, k):
    return torch.from_numpy((words(name, count) % np.uint64(k)).astype(np.int64))


def parameter(prefix, name, shape):
    """The value of one tensor of a state dict: every batch norm non-trivial, weights about as large as Kaiming's."""
    full = prefix + "/" + name
    if name.endswith("running_var"):
        return numbers(full, shape, 0.5, 1.0)
    if name.endswith("running_mean") or name.endswith("bias"):
        return numbers(full, shape, 0.25)
    if len(shape) == 1:
        return numbers(full, shape, 0.5, 1.0)
    # Uniform on +-2^-e has variance 4^-e / 3; the smallest e with 4^-e * fan_in <= 8 gives a gain between 2/3 and 8/3.
    fan_in, e = int(np.prod(shape[1:])), 0
    while fan_in > 8 * 4**e:
        e += 1
    return numbers(full, shape, 2.0**-e)


def fill(module, prefix):
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(parameter(prefix, name, tuple(tensor.shape)))
    return module


# ---- The file format: 8 bytes of header length, a JSON header, raw little-endian data --------------------------------

class File:
    def __init__(self, name):
        self.path = os.path.join(HERE, name)
        self.tensors = {}
        self.metadata = {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "seed": str(SEED),
            "made_by": "tests/library/golden/make_fixtures.py",
        }

    def case(self, name, parameters):
        """Parameters as `key=value` words; a value is a comma-separated list of numbers."""
        def text(value):
            return ",".join(str(v) for v in value) if isinstance(value, (tuple, list)) else str(value)
        self.metadata["case:" + name] = " ".join(f"{k}={text(v)}" for k, v in parameters.items())

    def put(self, name, tensor, dtype="F64"):
        a = tensor.detach().numpy() if isinstance(tensor, torch.Tensor) else np.asarray(tensor)
        kinds = {"F64": "<f8", "F32": "<f4", "I64": "<i8"}
        b = np.array(a, dtype=kinds[dtype], order="C")  # keeps the shape () of a scalar
        assert np.array_equal(b.astype(a.dtype), a, equal_nan=b.dtype.kind == "f"), f"{name} is not exact in {dtype}"
        assert name not in self.tensors
        self.tensors[name] = (dtype, b)

    def write(self):
        header, data = {"__metadata__": dict(sorted(self.metadata.items()))}, []
        offset = 0
        # Widest type first: the format requires every tensor to be aligned.
        for name, (dtype, b) in sorted(self.tensors.items(), key=lambda item: (item[1][1].itemsize != 8, item[0])):
            raw = b.tobytes()
            header[name] = {"dtype": dtype, "shape": list(b.shape), "data_offsets": [offset, offset + len(raw)]}
            offset += len(raw)
            data.append(raw)
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(self.path, "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text + b"".join(data))
        print(f"{os.path.basename(self.path)}: {len(self.tensors)} tensors, {os.path.getsize(self.path)} bytes")


# ---- One layer -------------------------------------------------------------------------------------------------------

def leaf(tensor):
    return tensor.clone().requires_grad_(True)


def layers():
    f = File("layers.safetensors")

    def record(case, inputs, y, dy):
        """Inputs in float32 (they are exact there), y and the gradient of sum(dy * y) by every input in float64."""
        tensors = {k: v for k, v in inputs.items() if v is not None}
        trained = {k: v for k, v in tensors.items() if v.requires_grad}
        grads = torch.autograd.grad(y, list(trained.values()), dy)
        for name, tensor in tensors.items():
            f.put(f"{case}/{name}", tensor, "F32")
        f.put(f"{case}/dy", dy, "F32")
        f.put(f"{case}/y", y)
        for name, grad in zip(trained, grads):
            f.put(f"{case}/d{name}", grad)

    conv = {  # x (N, C, H, W), C_out, kernel, stride, padding, dilation, groups, bias
        "plain": ((2, 3, 7, 6), 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, True),
        "stride2_leftover": ((2, 4, 8, 7), 5, (3, 3), (2, 2), (1, 1), (1, 1), 1, False),
        "uneven": ((2, 3, 9, 7), 5, (3, 2), (2, 3), (2, 1), (1, 1), 1, True),
        "dilated": ((2, 2, 9, 11), 3, (3, 3), (1, 2), (2, 3), (2, 3), 1, True),
        "groups": ((2, 6, 5, 7), 4, (3, 3), (2, 1), (1, 0), (1, 2), 2, True),
        "depthwise": ((2, 5, 6, 7), 5, (3, 3), (1, 1), (1, 1), (1, 1), 5, False),
        "depthwise_multiplier": ((2, 3, 6, 5), 6, (3, 5), (1, 1), (1, 2), (1, 1), 3, True),
        "even_kernel": ((2, 3, 6, 7), 4, (2, 4), (1, 1), (1, 2), (1, 1), 1, False),
        "one_by_one": ((3, 5, 4, 6), 7, (1, 1), (1, 1), (0, 0), (1, 1), 1, True),
        "one_by_one_stride2": ((2, 6, 7, 5), 4, (1, 1), (2, 2), (0, 0), (1, 1), 1, False),
        "one_by_one_padded_groups": ((2, 6, 4, 3), 9, (1, 1), (2, 1), (1, 2), (1, 1), 3, True),
        "stem": ((2, 3, 13, 12), 4, (7, 7), (2, 2), (3, 3), (1, 1), 1, False),
        "wholly_in_padding": ((1, 2, 3, 2), 3, (2, 2), (1, 1), (3, 2), (1, 1), 1, True),
        "one_pixel": ((1, 2, 1, 1), 3, (3, 3), (1, 1), (1, 1), (1, 1), 1, True),
        "sixteen_channels": ((1, 16, 9, 10), 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, False),
    }
    for name, (x, c_out, kernel, stride, padding, dilation, groups, bias) in conv.items():
        case = "conv2d/" + name
        f.case(case, dict(stride=stride, padding=padding, dilation=dilation, groups=groups))
        x = leaf(numbers(case + "/x", x))
        weight = leaf(numbers(case + "/weight", (c_out, x.shape[1] // groups, *kernel), 0.5))
        bias = leaf(numbers(case + "/bias", (c_out,))) if bias else None
        y = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
        record(case, dict(x=x, weight=weight, bias=bias), y, numbers(case + "/dy", tuple(y.shape)))

    norm = {  # x (N, C, H, W), eps, momentum, scale and offset of x
        "plain": ((3, 4, 5, 2), 1e-5, 0.1, 1.0, 0.0),
        "far_mean": ((2, 3, 4, 5), 1e-5, 0.1, 0.25, 64.0),
        "two_values": ((2, 3, 1, 1), 1e-3, 0.3, 1.0, 0.0),
        "more_than_a_leaf": ((3, 1, 11, 17), 1e-5, 0.1, 2.0, 0.5),
        "tiny_variance": ((2, 2, 4, 3), 1e-5, 0.1, 2.0**-10, 0.0),
    }
    for name, (x, eps, momentum, scale, offset) in norm.items():
        for mode in ("train", "eval") if name in ("plain", "far_mean") else ("train",):
            case = f"batch_norm/{name}_{mode}"
            f.case(case, dict(eps=eps, momentum=momentum, train=int(mode == "train")))
            c = x[1]
            inputs = dict(
                x=leaf(numbers(case + "/x", x, scale, offset)),
                gamma=leaf(numbers(case + "/gamma", (c,), 2.0, 0.5)),
                beta=leaf(numbers(case + "/beta", (c,))),
                running_mean=numbers(case + "/running_mean", (c,)),
                running_var=numbers(case + "/running_var", (c,), 0.5, 1.0),
            )
            mean, var = inputs["running_mean"].clone(), inputs["running_var"].clone()
            y = F.batch_norm(inputs["x"], mean, var, inputs["gamma"], inputs["beta"], mode == "train", momentum, eps)
            record(case, inputs, y, numbers(case + "/dy", x))
            f.put(case + "/new_running_mean", mean)
            f.put(case + "/new_running_var", var)

    inf, nan = float("inf"), float("nan")
    special = torch.tensor([[[[0.0, -0.0, inf, -inf], [nan, 1.0, -1.0, 2.0**-100]]]])
    special_dy = torch.tensor([[[[3.0, 5.0, 2.0, 7.0], [4.0, inf, inf, 6.0]]]])
    for slope in (0.0, 0.01, 0.125):
        for name, x, dy in (("numbers", None, None), ("special", special, special_dy)):
            case = f"relu/{name}_{slope}"
            f.case(case, dict(slope=slope))
            x = numbers(case + "/x", (2, 3, 5, 4)) if x is None else x
            dy = numbers(case + "/dy", tuple(x.shape)) if dy is None else dy
            x = leaf(x)
            record(case, dict(x=x), F.relu(x) if slope == 0 else F.leaky_relu(x, slope), dy)

    max_pool = {  # x, kernel, stride, padding, dilation, ceil_mode, how x is made
        "stem": ((2, 3, 9, 8), (3, 3), (2, 2), (1, 1), (1, 1), False, "numbers"),
        "system1": ((2, 3, 5, 6), (3, 3), (1, 1), (1, 1), (1, 1), False, "numbers"),
        "uneven": ((2, 3, 7, 9), (2, 3), (3, 2), (1, 0), (1, 1), False, "numbers"),
        "dilated": ((2, 2, 9, 8), (3, 2), (2, 1), (1, 1), (2, 3), False, "numbers"),
        "dilated_ceil": ((2, 2, 10, 9), (3, 3), (3, 2), (1, 1), (2, 1), True, "numbers"),
        "ceil": ((2, 3, 8, 7), (3, 2), (2, 3), (0, 1), (1, 1), True, "numbers"),
        "ceil_dropped": ((2, 2, 6, 6), (2, 2), (7, 4), (1, 1), (1, 1), True, "numbers"),
        "ties": ((2, 3, 8, 9), (3, 3), (2, 2), (1, 1), (1, 1), False, "ties"),
        "nan": ((2, 3, 7, 8), (3, 3), (2, 1), (1, 1), (1, 1), False, "nan"),
        "minus_infinity": ((1, 2, 5, 6), (2, 2), (1, 2), (1, 1), (1, 1), True, "minus_infinity"),
    }
    for name, (shape, kernel, stride, padding, dilation, ceil, kind) in max_pool.items():
        case = "max_pool/" + name
        f.case(case, dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=int(ceil)))
        x = numbers(case + "/x", shape)
        if kind == "ties":
            x = torch.round(2 * x)
        if kind == "nan":
            x[numbers(case + "/where", shape) > 0.75] = nan
        if kind == "minus_infinity":
            x[numbers(case + "/where", shape) > -0.5] = -inf
        x = leaf(x)
        y = F.max_pool2d(x, kernel, stride, padding, dilation, ceil)
        record(case, dict(x=x), y, numbers(case + "/dy", tuple(y.shape)))

    avg_pool = {  # x, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override
        "plain": ((2, 3, 7, 6), (2, 3), (2, 1), (0, 0), False, True, 0),
        "padded": ((2, 3, 7, 6), (3, 3), (2, 2), (1, 1), False, True, 0),
        "padding_not_counted": ((2, 3, 7, 6), (3, 3), (2, 2), (1, 1), False, False, 0),
        "ceil": ((2, 2, 8, 9), (3, 4), (2, 3), (1, 2), True, True, 0),
        "ceil_not_counted": ((2, 2, 8, 9), (3, 4), (2, 3), (1, 2), True, False, 0),
        "ceil_dropped": ((2, 2, 6, 6), (2, 2), (7, 4), (1, 1), True, True, 0),
        "divisor": ((2, 3, 6, 5), (3, 2), (1, 2), (1, 1), False, True, 5),
        "divisor_ceil": ((2, 3, 6, 5), (3, 2), (2, 2), (1, 1), True, False, 7),
    }
    for name, (shape, kernel, stride, padding, ceil, include, divisor) in avg_pool.items():
        case = "avg_pool/" + name
        f.case(case, dict(kernel=kernel, stride=stride, padding=padding, ceil_mode=int(ceil),
                          count_include_pad=int(include), divisor_override=divisor))
        x = leaf(numbers(case + "/x", shape))
        y = F.avg_pool2d(x, kernel, stride, padding, ceil, include, divisor or None)
        record(case, dict(x=x), y, numbers(case + "/dy", tuple(y.shape)))
    for name, shape in (("plain", (2, 5, 4, 3)), ("one_pixel", (3, 4, 1, 1)), ("eight", (2, 3, 8, 8))):
        case = "global_avg_pool/" + name
        f.case(case, {})
        x = leaf(numbers(case + "/x", shape))
        y = torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)
        record(case, dict(x=x), y, numbers(case + "/dy", tuple(y.shape)))

    for name, (n, f_in, f_out) in (("plain", (4, 7, 5)), ("one", (1, 1, 1)), ("head", (3, 64, 10))):
        case = "linear/" + name
        f.case(case, {})
        x, weight = leaf(numbers(case + "/x", (n, f_in))), leaf(numbers(case + "/weight", (f_out, f_in), 0.25))
        bias = leaf(numbers(case + "/bias", (f_out,)))
        record(case, dict(x=x, weight=weight, bias=bias), F.linear(x, weight, bias), numbers(case + "/dy", (n, f_out)))

    loss = {  # n, k, smoothing, scale and offset of the logits
        "plain": (5, 7, 0.0, 4.0, 0.0),
        "smooth": (4, 10, 0.125, 4.0, 0.0),
        "wholly_smooth": (3, 4, 1.0, 2.0, 0.0),
        "near_thousand": (4, 5, 0.0, 4.0, 1000.0),
        "near_minus_thousand": (4, 5, 0.25, 4.0, -1000.0),
        "plus_minus_thousand": (6, 5, 0.0, 1024.0, 0.0),
        "plus_minus_thousand_smooth": (6, 5, 0.125, 1024.0, 0.0),
        "two_classes": (3, 2, 0.0, 1.0, 0.0),
        "one_class": (3, 1, 0.0, 1.0, 0.0),
    }
    for name, (n, k, smoothing, scale, offset) in loss.items():
        for reduction in ("mean", "sum"):
            case = f"softmax_cross_entropy/{name}_{reduction}"
            f.case(case, dict(label_smoothing=smoothing, mean=int(reduction == "mean")))
            z, t = leaf(numbers(case + "/logits", (n, k), scale, offset)), classes(case + "/targets", n, k)
            y = F.cross_entropy(z, t, reduction=reduction, label_smoothing=smoothing)
            (dz,) = torch.autograd.grad(y, z)
            f.put(case + "/logits", z, "F32")
            f.put(case + "/targets", t, "I64")
            f.put(case + "/y", y)
            f.put(case + "/dlogits", dz)
    f.write()


# ---- Networks, with torchvision's names ------------------------------------------------------------------------------

def conv3x3(c_in, c_out, stride=1):
    return nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)


def conv1x1(c_in, c_out, stride=1):
    return nn.Conv2d(c_in, c_out, 1, stride, bias=False)


class ZeroPad(nn.Module):
    """Shortcut A: every second pixel, zero channels half before and half after, as the public CIFAR checkpoints."""

    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.before, self.stride = (c_out - c_in) // 2, stride
        self.after = c_out - c_in - self.before

    def forward(self, x):
        return F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.before, self.after))


def shortcut(kind, c_in, c_out, stride, norm=True):
    if kind == "identity":
        return nn.Identity()
    if kind == "a":
        return ZeroPad(c_in, c_out, stride)
    return nn.Sequential(conv1x1(c_in, c_out, stride), *([nn.BatchNorm2d(c_out)] if norm else []))


class Basic(nn.Module):
    """Two 3x3 convolutions (He et al. 2015, figure 5 left)."""

    def __init__(self, c_in, c_out, stride, kind):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(c_in, c_out, stride), nn.BatchNorm2d(c_out)
        self.conv2, self.bn2 = conv3x3(c_out, c_out), nn.BatchNorm2d(c_out)
        self.downsample = shortcut(kind, c_in, c_out, stride)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class CifarResNet(nn.Module):
    """Depth 6n + 2 with option A (He et al. 2015, section 4.2)."""

    def __init__(self, n, classes=10):
        super().__init__()
        self.conv1, self.bn1 = conv3x3(3, 16), nn.BatchNorm2d(16)
        c_in = 16
        for stage, c in ((1, 16), (2, 32), (3, 64)):
            blocks = []
            for i in range(n):
                stride = 2 if stage > 1 and i == 0 else 1
                blocks.append(Basic(c_in, c, stride, "identity" if c == c_in else "a"))
                c_in = c
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, classes)

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))


# ---- How far rounding may change a result ----------------------------------------------------------------------------

class Perturb(torch.autograd.Function):
    """The identity, plus noise of relative size `forward` on the value and `backward` on its gradient."""

    @staticmethod
    def forward(ctx, x, forward, backward, generator):
        ctx.backward_noise, ctx.generator = backward, generator
        return noisy(x, forward, generator)

    @staticmethod
    def backward(ctx, dy):
        return noisy(dy, ctx.backward_noise, ctx.generator), None, None, None


def noisy(x, size, generator):
    rms = x.square().mean().sqrt()
    return x + size * rms * torch.randn(x.shape, generator=generator)


class Noise:
    """A model of rounding: the error of every layer is a random walk.

    A sum of K terms rounds K times; the error after i terms is about u times the partial sum, which grows like sqrt(i),
    so together u * sqrt(sum i) = u * K / sqrt(2) in units of one term, or u * sqrt(K / 2) in units of the sum itself,
    sqrt(K). So every conv and linear output gets Gaussian noise of u * sqrt(K) times its root mean square, K = taps;
    its input gradient the same with K = C_out * kh * kw, its weight gradient with K = number of output pixels of the
    batch; batch norm (two sums, in pieces of at most 256 values) 16 u; everything else is exact or one rounding and
    negligible. Over several seeds, the largest deviation from the run without noise shows how far an implementation
    in arithmetic with unit roundoff u may be from the exact result. An implementation may be off by a
    stated small multiple of that (the model gives the order of magnitude, not the constant); a mistake is off by orders
    of magnitude.

    While no ReLU flips the deviation is proportional to u. It is measured at one u that is far above the rounding of
    this script's own float64 and far below where kinks are crossed, and scaled to the u of the arithmetic. In float32 a
    whole network may cross kinks: of half a million ReLUs one flips now and then, and one flip changes a gradient of a batch of
    four by about 1e-2, where rounding alone changes it by 1e-5. So the test compares float32 gradients with the ReLUs
    fixed at the choices of the float64 pass.
    """

    def __init__(self, module, u, seed):
        self.generator = torch.Generator().manual_seed(seed)
        self.u, self.module, self.hooks, self.pixels = u, module, [], {}
        for name, m in module.named_modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                self.hooks.append(m.register_forward_hook(lambda m, x, y, name=name: self.after_sum(name, m, x[0], y)))
            elif isinstance(m, nn.BatchNorm2d):
                self.hooks.append(m.register_forward_hook(lambda m, x, y: self.perturb(y, 16, 16)))

    def perturb(self, y, forward, backward):
        return Perturb.apply(y, self.u * forward, self.u * backward, self.generator)

    def after_sum(self, name, m, x, y):
        self.pixels[name] = y.numel() // m.weight.shape[0]
        # The noise of this layer's dx is added at its y: same relative size, and it saves a second hook.
        taps_back = m.weight[0, 0].numel() * m.weight.shape[0]
        return self.perturb(y, m.weight[0].numel() ** 0.5, taps_back ** 0.5)

    def parameter_gradients(self):
        for name, m in self.module.named_modules():
            for kind, p in m.named_parameters(recurse=False):
                terms = self.pixels.get(name, 256)
                p.grad = noisy(p.grad, self.u * terms**0.5, self.generator)

    def remove(self):
        for hook in self.hooks:
            hook.remove()


U32 = 2.0**-24
# Rounding in float64, 2^20 times larger.
U64_MAGNIFIED, MAGNIFICATION = 2.0**-33, 2.0**20


# ---- Blocks ----------------------------------------------------------------------------------------------------------

class Block(nn.Module):
    """One residual block of any kind, in the order of torchvision's state dict.

    stride_at: which convolution has the stride (a bottleneck's 1 is v1.5, as torchvision; 0 is v1, the paper's).
    """

    def __init__(self, c_in, convs, kind, stride, stride_at, pre_activation, groups):
        super().__init__()
        self.count, self.pre_activation, self.kind = len(convs), pre_activation, kind
        c, c_out = c_in, convs[-1][0]
        for i, (out, k) in enumerate(convs):
            conv = nn.Conv2d(c, out, k, stride if i == stride_at else 1, k // 2, bias=False,
                             groups=groups if k == 3 else 1)
            layers = [(f"conv{i + 1}", conv), (f"bn{i + 1}", nn.BatchNorm2d(c if pre_activation else out))]
            for name, layer in reversed(layers) if pre_activation else layers:
                self.add_module(name, layer)
            c = out
        if kind != "absent":
            # A pre-activation block has a batch norm before its first weight, so its projection has none.
            self.downsample = shortcut(kind, c_in, c_out, stride, norm=not pre_activation)

    def layer(self, kind, i):
        return getattr(self, f"{kind}{i + 1}")

    def forward(self, x):
        if self.pre_activation:  # He et al. 2016; a projection reads the activated h1
            h1 = h = relu(self.bn1(x))
            for i in range(self.count):
                h = self.layer("conv", i)(h if i == 0 else relu(self.layer("bn", i)(h)))
            return h + self.downsample(h1 if self.kind == "projection" else x)
        h = x
        for i in range(self.count):
            h = self.layer("bn", i)(self.layer("conv", i)(h))
            h = relu(h) if i + 1 < self.count else h
        return relu(h if self.kind == "absent" else h + self.downsample(x))


relu_inputs = []


def relu(x):
    relu_inputs.append(x.detach().abs().min().item())
    return F.relu(x)


def blocks():
    f = File("blocks.safetensors")
    basic = lambda c: [(c, 3), (c, 3)]
    bottleneck = lambda width, c: [(width, 1), (width, 3), (c, 1)]
    cases = {  # c_in, channels of the stage, convs, shortcut, stride, where, pre-activation, groups, width per group
        "basic_identity": (6, 6, basic(6), "identity", 1, 0, False, 1, 64),
        "basic_a": (4, 8, basic(8), "a", 2, 0, False, 1, 64),
        "basic_a_odd_channels": (3, 6, basic(6), "a", 2, 0, False, 1, 64),
        "basic_projection": (4, 6, basic(6), "projection", 2, 0, False, 1, 64),
        "basic_projection_same_shape": (5, 5, basic(5), "projection", 1, 0, False, 1, 64),
        "basic_plain": (4, 6, basic(6), "absent", 2, 0, False, 1, 64),
        "bottleneck_identity": (8, 2, bottleneck(2, 8), "identity", 1, 1, False, 1, 64),
        "bottleneck_v15": (6, 3, bottleneck(3, 12), "projection", 2, 1, False, 1, 64),
        "bottleneck_v1": (6, 3, bottleneck(3, 12), "projection", 2, 0, False, 1, 64),
        "bottleneck_a": (6, 3, bottleneck(3, 12), "a", 2, 1, False, 1, 64),
        "bottleneck_groups": (5, 2, bottleneck(4, 8), "projection", 2, 1, False, 2, 64),
        "pre_basic_identity": (6, 6, basic(6), "identity", 1, 0, True, 1, 64),
        "pre_basic_a": (4, 8, basic(8), "a", 2, 0, True, 1, 64),
        "pre_basic_projection": (4, 6, basic(6), "projection", 2, 0, True, 1, 64),
        "pre_bottleneck_identity": (8, 2, bottleneck(2, 8), "identity", 1, 1, True, 1, 64),
        "pre_bottleneck_projection": (6, 3, bottleneck(3, 12), "projection", 2, 1, True, 1, 64),
    }
    for name, (c_in, channels, convs, kind, stride, stride_at, pre, groups, per_group) in cases.items():
        in_eval_too = name in ("basic_a", "basic_projection", "bottleneck_v15", "pre_basic_projection")
        for mode in ("train", "eval") if in_eval_too else ("train",):
            case = f"block/{name}_{mode}"
            # Increased until no ReLU input is so close to its kink that rounding in float32 could cross it.
            for salt in range(100):
                prefix = f"{case}/{salt}"
                x_shape = (2, c_in, 5, 4)
                build = lambda: fill(Block(c_in, convs, kind, stride, stride_at, pre, groups), prefix)
                x0 = numbers(prefix + "/x", x_shape, 2.0)

                def run(model, noise=None):
                    model.train(mode == "train")
                    model.zero_grad()
                    x = leaf(x0)
                    y = model(x)
                    y.backward(numbers(prefix + "/dy", tuple(y.shape)))
                    if noise:
                        noise.parameter_gradients()
                    result = {"y": y.detach().clone(), "dx": x.grad}
                    result.update({"grad/" + k: p.grad.clone() for k, p in model.named_parameters()})
                    if mode == "train":
                        result.update({"stat/" + k: b.clone() for k, b in model.named_buffers()
                                       if not k.endswith("num_batches_tracked")})
                    return result

                relu_inputs.clear()
                result = run(build())
                if min(relu_inputs) >= 2e-4:
                    break
            f.case(case, dict(x=x_shape, channels=channels, stride=stride, bottleneck=int(len(convs) == 3),
                              v1=int(stride_at == 0), pre_activation=int(pre), groups=groups, width_per_group=per_group,
                              option=dict(identity=1, a=0, projection=2 if name.endswith("same_shape") else 1,
                                          absent=3)[kind],
                              train=int(mode == "train"), salt=salt))
            f.metadata["names:" + case] = " ".join(
                k for k in build().state_dict() if not k.endswith("num_batches_tracked"))
            rounded = {}
            for u in (U32, U64_MAGNIFIED):
                rounded[u] = []
                for seed in range(8):
                    model = build()
                    rounded[u].append(run(model, Noise(model, u, seed)))
            # The worst tensor of the block: largest error over largest entry, in float32 and in float64.
            worst = lambda u: max(deviation([r[key] for r in rounded[u]], v)[1] for key, v in result.items())
            f.put(case + "/rounding", torch.tensor([worst(U32), worst(U64_MAGNIFIED) / MAGNIFICATION]))
            for key, reference in result.items():
                f.put(f"{case}/{key}", reference)
    f.write()


# ---- Whole networks --------------------------------------------------------------------------------------------------

PROJECTIONS, ENTRIES = 4, 16


def summary(name, g):
    """norm, largest absolute entry, 4 projections on vectors of +-1, 16 entries.

    If a wrong gradient differs by d, a projection differs by about |d|: all four small together means d is small.
    """
    g = g.detach().numpy().reshape(-1)
    signs = words("signs/" + name, g.size)
    projections = [np.sum(np.where((signs >> np.uint64(j)) & np.uint64(1), -g, g)) for j in range(PROJECTIONS)]
    entries = g[(words("entries/" + name, ENTRIES) % np.uint64(g.size)).astype(np.int64)]
    return np.concatenate([[np.linalg.norm(g), np.abs(g).max()], projections, entries])


def deviation(runs, reference):
    """The largest deviation of the runs from the reference, relative: in norm, and of the largest entry."""
    ratio = lambda norm: max((norm(run - reference) / norm(reference)).item() for run in runs)
    return [ratio(lambda v: torch.linalg.vector_norm(v)), ratio(lambda v: v.abs().max())]


def pass_once(model, x, t, noise=None):
    """One training step without the update, and before it the logits in evaluation mode."""
    result = {}
    model.eval()
    with torch.no_grad():
        result["eval_logits"] = model(x).clone()
    model.train()
    model.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits, t)
    loss.backward()
    if noise:
        noise.parameter_gradients()
    result["logits"], result["loss"] = logits.detach().clone(), loss.detach().clone()
    for name, p in model.named_parameters():
        result["grad/" + name] = p.grad.clone()
    for name, b in model.named_buffers():
        if not name.endswith("num_batches_tracked"):
            result["stat/" + name] = b.clone()
    return result


def train(model, x, t, steps, lr, noise=None):
    """The loss before each step and after the last."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    model.train()
    losses = []
    for step in range(steps + 1):
        optimiser.zero_grad()
        loss = F.cross_entropy(model(x), t)
        losses.append(loss.item())
        if step < steps:
            loss.backward()
            if noise:
                noise.parameter_gradients()
            optimiser.step()
    return torch.tensor(losses)


def networks():
    f = File("networks.safetensors")
    cases = {
        "resnet20": (lambda: CifarResNet(3), (4, 3, 32, 32), 10, 0.1),
        "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), (3, 3, 64, 64), 10, 0.01),
    }
    for case, (build, shape, steps, lr) in cases.items():
        x, t = numbers(case + "/x", shape, 2.0), classes(case + "/targets", shape[0], 10)

        def noisy_runs(run, u, repeats):
            runs = []
            for seed in range(repeats):
                model = fill(build(), case)
                noise = Noise(model, u, seed)
                runs.append(run(model, noise))
                noise.remove()
            return runs

        model = fill(build(), case)
        names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
        count = sum(p.numel() for p in model.parameters())
        f.case(case, dict(x=shape, steps=steps, lr=lr, momentum=0.9, weight_decay=1e-4, parameters=count))
        f.metadata["names:" + case] = " ".join(names)
        f.put(f"{case}/targets", t, "I64")

        once = pass_once(model, x, t)
        run = lambda model, noise: pass_once(model, x, t, noise)
        rounded = noisy_runs(run, U64_MAGNIFIED, 4)
        worst = (0, 0, "")
        for key, reference in once.items():
            name = f"{case}/{key}"
            # In units of u: of the norm, of the largest entry. Without kinks in between it holds for every u.
            d = [d / U64_MAGNIFIED for d in deviation([r[key] for r in rounded], reference)]
            worst = max(worst, (*d, key))
            if reference.numel() <= 64:
                f.put(name, reference)
                f.put(name + "/rounding", torch.tensor(d))
            else:
                f.put(name, np.concatenate([summary(name, reference), d]))

        run = lambda model, noise: train(model, x, t, steps, lr, noise)
        losses = run(fill(build(), case), None)
        d64 = (torch.stack(noisy_runs(run, U64_MAGNIFIED, 3)) - losses).abs().amax(0) / MAGNIFICATION
        d32 = (torch.stack(noisy_runs(run, U32, 2)) - losses).abs().amax(0)
        f.put(f"{case}/losses", losses)
        # Per step, the largest absolute deviation in float64, and in float32, where ReLUs flip.
        f.put(f"{case}/losses/rounding", torch.stack([d64, d32]))
        print(case, "parameters", count)
        for k, row in enumerate(zip(losses.tolist(), d64.tolist(), d32.tolist())):
            print("  step %2d  loss %.12f  rounding float64 %.1e  float32 %.1e" % (k, *row))
        print("  most sensitive in one pass: %s, %.0f u of its norm, %.0f u of its largest entry" % (worst[2], *worst[:2]))
    f.write()


if __name__ == "__main__":
    print("torch", torch.__version__, "torchvision", torchvision.__version__, "numpy", np.__version__, "seed", SEED)
    parts = {"layers": layers, "blocks": blocks, "networks": networks}
    for name in sys.argv[1:] or parts:
        parts[name]()
