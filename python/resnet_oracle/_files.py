"""Tensors in `.safetensors` files, from NumPy, PyTorch, JAX and whatever NumPy understands, without changing an element."""

import contextlib
import json
import os
import shutil
import struct
import sys
import tempfile
from typing import Any, Dict, Iterator, Mapping, Tuple

import numpy as np

from ._command import OracleError

TYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}


def bits(name: str, value: Any) -> Tuple[str, np.ndarray]:
    """The type of a tensor as safetensors calls it, and its elements; those of bfloat16 as 16 bits each."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.device.type == "meta":
            what = "has no elements, it is on the device meta" if value.device.type == "meta" else f"is {value.layout}"
            raise OracleError(f"`{name}` {what}; expected a dense tensor")
        value = value.detach().cpu().contiguous()
        kind = str(value.dtype).removeprefix("torch.")
        if kind == "bfloat16":
            value = value.view(torch.int16)
        if kind in TYPES:
            return TYPES[kind], value.numpy()
    else:
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise OracleError(f"`{name}` is no tensor: {error}") from error
        kind = value.dtype.name
        if kind == "bfloat16":  # ml_dtypes, as JAX has it
            value = value.view(np.uint16)
        if kind in TYPES:
            return TYPES[kind], np.ascontiguousarray(value).reshape(value.shape)
    raise OracleError(f"`{name}` has elements of type {kind}; expected a type of floats, or of whole numbers for a target: {', '.join(TYPES)}")


def write(path: str, tensors: Mapping[str, Any]) -> None:
    """Writes a `.safetensors` file."""
    header, data, end = {}, [], 0
    for name, value in tensors.items():
        kind, array = bits(name, value)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
        data.append(array)
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with open(path, "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for array in data:
                file.write(array.tobytes())
    except OSError as error:
        raise OracleError(f"{path}: the tensors cannot be written: {error.strerror}") from error


def read(path: str) -> Dict[str, np.ndarray]:
    """Reads a `.safetensors` file; bfloat16 becomes float32, which contains all its numbers."""
    with open(path, "rb") as file:
        content = file.read()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    names = {kind: name for name, kind in TYPES.items()}
    tensors = {}
    for name, about in header.items():
        start, end = (8 + length + offset for offset in about["data_offsets"])
        kind = names[about["dtype"]]
        array = np.frombuffer(content[start:end], "<u2" if kind == "bfloat16" else np.dtype(kind).newbyteorder("<"))
        if kind == "bfloat16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = array.reshape(about["shape"]).copy()
    return tensors


@contextlib.contextmanager
def folder(*tensors: Mapping[str, Any]) -> Iterator[str]:
    """A temporary folder with room for the tensors, in memory if possible."""
    needed = sum(getattr(value, "nbytes", 0) for group in tensors for value in group.values())
    memory = "/dev/shm"
    roomy = os.path.isdir(memory) and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 * needed + (1 << 24)
    with tempfile.TemporaryDirectory(prefix="resnet-oracle-", dir=memory if roomy else None) as path:
        yield path
