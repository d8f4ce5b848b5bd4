#!/usr/bin/env python3
"""Writes the fixtures of tests/library/formats.rs: files as PyTorch, NumPy and safetensors write them.

    python tests/library/formats/make_fixtures.py           # a second; needs torch, numpy, safetensors

Nothing here is random: element i of a tensor is `number(i)`, rounded to the tensor's type, which tests/library/formats.rs repeats.
All of them are exact in every type but the integers, where they are rounded towards zero.
"""

import io
import os
import zipfile
from collections import OrderedDict

import numpy as np
import safetensors
import safetensors.torch
import torch

HERE = os.path.dirname(os.path.abspath(__file__))


def number(i):
    """Multiples of 1/4 between -10 and 10 that do not repeat soon; 8 significant bits are enough for them."""
    return (i * 37 % 81 - 40) / 4


def numbers(*shape, dtype=torch.float32):
    count = int(np.prod(shape))
    return torch.tensor([number(i) for i in range(count)], dtype=torch.float64).reshape(shape).to(dtype)


def state_dict():
    """Every type that is read, and every kind of view."""
    base = numbers(4, 6)
    whole = numbers(24).abs()
    tensors = OrderedDict()
    tensors["f32"] = numbers(2, 3, 2)
    tensors["f64"] = numbers(3, 2, dtype=torch.float64)
    tensors["f16"] = numbers(5, dtype=torch.float16)
    tensors["bf16"] = numbers(5, dtype=torch.bfloat16)
    tensors["i64"] = numbers(4, dtype=torch.int64)
    tensors["i32"] = numbers(4, dtype=torch.int32)
    tensors["u8"] = whole[:4].to(torch.uint8)
    tensors["bool"] = torch.tensor([True, False, True])
    tensors["scalar"] = torch.tensor(-2.5)
    tensors["counter"] = torch.tensor(7)
    tensors["empty"] = torch.zeros(0, 3)
    tensors["transposed"] = base.t()
    tensors["every second"] = base[1:, ::2]
    tensors["shared"] = base
    tensors["expanded"] = base[0, 1].expand(3, 2)
    tensors["parameter"] = torch.nn.Parameter(numbers(3))
    return tensors


def write(name, data):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(data)
    print(f"{name}: {len(data)} bytes")


def saved(value, zip_format=True, **more):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zip_format, **more)
    return file.getvalue()


def npz(arrays, compression):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            # Not writestr(name): that would store the time of day.
            archive.writestr(zipfile.ZipInfo(name + ".npy"), member.getvalue(), compress_type=compression)
    return file.getvalue()


def main():
    print(f"torch {torch.__version__}, numpy {np.__version__}, safetensors {safetensors.__version__}")
    write("zip.pth", saved(state_dict()))
    write("old.pth", saved(state_dict(), zip_format=False))

    # Checkpoints like the public ones: under a key, with a prefix, with other entries beside.
    network = OrderedDict((f"module.{name}", tensor) for name, tensor in list(state_dict().items())[:2])
    network._metadata = OrderedDict(version=1)
    checkpoint = {"epoch": 7, "arch": "resnet20", "state_dict": network, "best_prec1": 91.73, "best": torch.ones(1),
                  "score": np.float64(0.5)}
    write("checkpoint.pth", saved(checkpoint))
    write("checkpoint-old.th", saved(checkpoint, zip_format=False))
    write("module.pt", saved(torch.nn.Linear(3, 2).state_dict() | {"weight": numbers(2, 3), "bias": numbers(2)}))
    write("tensor.pt", saved(numbers(2, 2)))

    arrays = {
        "f32": numbers(2, 3, 2).numpy(),
        "f64 fortran": np.asfortranarray(numbers(3, 2, dtype=torch.float64).numpy()),
        "f16": numbers(5, dtype=torch.float16).numpy(),
        "i64": numbers(4, dtype=torch.int64).numpy(),
        "i32": numbers(4, dtype=torch.int32).numpy(),
        "u8": numbers(4).abs().to(torch.uint8).numpy(),
        "bool": np.array([True, False, True]),
        "f32 big": numbers(2, 3).numpy().astype(">f4"),
        "f64 big fortran": np.asfortranarray(numbers(2, 3, 2, dtype=torch.float64).numpy().astype(">f8")),
        "i64 big": numbers(4, dtype=torch.int64).numpy().astype(">i8"),
        "scalar": np.array(-2.5, dtype=np.float32),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "zeros": np.zeros((50, 50), dtype=np.float32),
    }
    write("deflated.npz", npz(arrays, zipfile.ZIP_DEFLATED))
    del arrays["zeros"]
    write("stored.npz", npz(arrays, zipfile.ZIP_STORED))
    file = io.BytesIO()
    np.save(file, arrays["f64 fortran"])
    write("fortran.npy", file.getvalue())

    plain = {name: tensor.detach().contiguous().clone() for name, tensor in state_dict().items()}
    write("all.safetensors", safetensors.torch.save(plain, metadata={"format": "pt"}))


if __name__ == "__main__":
    main()
