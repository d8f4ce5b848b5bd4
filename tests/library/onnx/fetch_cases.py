#!/usr/bin/env python3
"""Packs ONNX's own test cases of our operations into tests/library/onnx/cases.safetensors.

    pip install onnx==1.22.0
    python tests/library/onnx/fetch_cases.py

A case is a folder of `onnx/backend/test/data/` in the package: model.onnx, a graph of one node, and test_data_set_0 with
its inputs and expected outputs. The script packs all cases of data/node, data/pytorch-converted and data/pytorch-operator
whose one node is among OPERATIONS: the model, and the data unless `without_data` excludes it. Every file is packed
unchanged, as a tensor of bytes with a name such as `node/test_relu/model.onnx`.

The same package gives the same bytes; the output's SHA-256 is in tests/library/onnx/cases.md.
"""

import hashlib
import json
import math
import pathlib
import struct

import onnx

OPERATIONS = {
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "LeakyRelu", "LogSoftmax", "MaxPool", "MaxUnpool", "Momentum", "Relu", "Softmax", "SoftmaxCrossEntropyLoss",
}  # fmt: skip
FOLDERS = ["node", "pytorch-converted", "pytorch-operator"]
# The most elements that a case may declare, inputs, outputs and parameters together.
LARGEST = 200_000


def without_data(model: onnx.ModelProto) -> bool:
    """Whether tests/library/onnx/left_out.rs leaves the case out for a reason that makes its data useless and large."""
    graph, node = model.graph, model.graph.node[0]
    shapes = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.output]]
    windows = node.op_type in {"AveragePool", "Conv", "ConvTranspose", "MaxPool"}
    return (
        (windows and len(shapes[0]) == 5)
        or (node.op_type == "SoftmaxCrossEntropyLoss" and len(node.input) == 3)
        or sum(map(math.prod, shapes)) > LARGEST
    )


def main() -> None:
    here = pathlib.Path(__file__).parent
    data = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    files, cases = {}, 0
    for folder in sorted(path for name in FOLDERS for path in (data / name).iterdir() if path.is_dir()):
        model = onnx.load(folder / "model.onnx")
        if len(model.graph.node) != 1 or model.graph.node[0].op_type not in OPERATIONS:
            continue
        cases += 1
        paths = [folder / "model.onnx"]
        if not without_data(model):
            paths += sorted((folder / "test_data_set_0").iterdir())
            assert not (folder / "test_data_set_1").exists(), folder
        files |= {path.relative_to(data).as_posix(): path.read_bytes() for path in paths}

    metadata = {"cases": str(cases), "package": f"onnx {onnx.__version__}", "licence": "Apache-2.0"}
    header, offset = {"__metadata__": metadata}, 0
    for name, content in files.items():
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    packed = struct.pack("<Q", len(text)) + text + b"".join(files.values())
    (here / "cases.safetensors").write_bytes(packed)
    print(f"{cases} cases, {len(files)} files, {len(packed)} bytes, SHA-256 {hashlib.sha256(packed).hexdigest()}")


if __name__ == "__main__":
    main()
