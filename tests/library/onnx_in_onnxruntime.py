#!/usr/bin/env python3
"""Exported networks in ONNX Runtime: the logits of every network of the zoo against this project's, in float64.

    python tests/library/onnx_in_onnxruntime.py
    python tests/library/onnx_in_onnxruntime.py resnet20 wrn-28-10

needs onnx, onnxruntime and numpy in that Python, and the command `resnet` in release mode (or RESNET names it); nothing else
in this project needs Python. For each network it

- trains it for one step, so that no running statistic is 0 or 1;
- exports it, as it is and with the normalisation, and lets `onnx.checker` check the files;
- runs batches of one and of three images in ONNX Runtime, in float32;
- judges the logits with `resnet oracle compare`, whose tolerance is that of rounding in float32, and compares those of the graph
  with the normalisation, whose input is 0 to 1, bit by bit.

It prints one line for each network, and the exit code is 1 if something does not fit. The golden file of the tests is checked, too:
the logits in it must be those of ONNX Runtime.
"""

import os
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESNET = os.environ.get("RESNET", os.path.join(ROOT, "target", "release", "resnet"))
PIXELS = 32


def resnet(*args):
    done = subprocess.run([RESNET, *map(str, args)], capture_output=True, text=True)
    if done.returncode not in (0, 1) or (done.returncode and args[:2] != ("oracle", "compare")):
        sys.exit(f"resnet {' '.join(map(str, args))}: {done.stderr}")
    return done


def run(path, x):
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"images": x})[0], session.get_modelmeta().custom_metadata_map


def three(text):
    return np.array([float(value) for value in text.split(",")], dtype=np.float32).reshape(1, 3, 1, 1)


def check(name, folder):
    run_folder = os.path.join(folder, name)
    resnet("train", "--model", name, "--epochs", 1, "--train-images", 4, "--batch-size", 4,
           "--out", run_folder)
    weights = os.path.join(run_folder, "weights.safetensors")
    plain, normalizing = os.path.join(folder, "plain.onnx"), os.path.join(folder, "normalizing.onnx")
    resnet("convert", weights, plain, "--force")
    resnet("convert", weights, normalizing, "--with-normalization", "--force")
    pixels = np.random.default_rng(1).random((3, 3, PIXELS, PIXELS), dtype=np.float32)
    _, about = run(plain, pixels)
    x = (pixels - three(about["mean"])) / three(about["std"])
    theirs, _ = run(plain, x)
    alone = np.concatenate([run(plain, x[i : i + 1])[0] for i in range(3)])
    normalized, _ = run(normalizing, pixels)
    data, ours, dump = (os.path.join(folder, file) for file in ("in.npz", "ours.safetensors", "theirs.npz"))
    np.savez(data, input=x, target=np.zeros(3, dtype=np.int64))
    resnet("oracle", "model", "--model", name, "--weights", weights, "--in", data, "--mode", "eval", "--out", ours,
           "--no-activations", "--force")
    np.savez(dump, output=theirs)
    verdict = resnet("oracle", "compare", ours, dump)
    fits = verdict.returncode == 0 and np.array_equal(theirs, normalized)
    error = np.abs(theirs - alone).max() / np.abs(theirs).max()
    print(f"{name:20} {'fits' if fits else 'DOES NOT FIT'}; one image at a time differs by {error:.1e} of the largest logit")
    if not fits:
        print(verdict.stdout)
    return fits


def check_golden():
    golden = os.path.join(ROOT, "tests", "library", "onnx", "exported.onnx")
    x = (np.arange(2 * 3 * 8 * 8) % 11 / 10).astype(np.float32).reshape(2, 3, 8, 8)
    logits, about = run(golden, x)
    expected = np.array([float(value) for value in about["logits"].split(",")]).reshape(logits.shape)
    error = np.abs(logits - expected).max()
    print(f"the golden file: largest difference {error:.1e} for logits up to {np.abs(expected).max():.1f}")
    return error < 1e-5  # the logits are written with six decimals


def main():
    listed = [line.split()[0] for line in resnet("models").stdout.splitlines()[1:] if line]
    names = sys.argv[1:] or listed
    unknown = [name for name in names if name not in listed]
    if unknown:
        sys.exit(f"no such network: {', '.join(unknown)}; see `resnet models`")
    with tempfile.TemporaryDirectory() as folder:
        results = [check(name, folder) for name in names]
    sys.exit(0 if all(results + [check_golden()]) else 1)


if __name__ == "__main__":
    main()
