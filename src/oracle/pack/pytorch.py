"""Checks PyTorch against the pack: python pytorch.py [float64|float32 ...]

The index lists the operations of every case. This script runs them with PyTorch's functions and its autograd, and compares
all results with the expected ones. Replace `operate` by calls of your kernels to check those.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as F

HERE = pathlib.Path(__file__).parent


def operate(operation, x, own, settings, mode):
    """The result of a step for the values `x` it reads and its `own` parameters; running statistics are updated in place."""
    if operation == "conv2d":
        keys = "stride", "padding", "dilation"
        return F.conv2d(x[0], own["weight"], own.get("bias"), *(tuple(settings[k]) for k in keys), settings["groups"])
    if operation == "batch_norm":
        statistics = own["running_mean"], own["running_var"]
        train = mode == "train"
        return F.batch_norm(x[0], *statistics, own["weight"], own["bias"], train, settings["momentum"], settings["eps"])
    if operation in ("relu", "leaky_relu"):
        return F.leaky_relu(x[0], settings["negative_slope"]) if operation == "leaky_relu" else F.relu(x[0])
    if operation in ("max_pool", "avg_pool"):
        return getattr(F, operation + "2d")(x[0], **settings)
    if operation == "global_avg_pool":
        return x[0].mean((2, 3))
    if operation == "linear":
        return F.linear(x[0], own["weight"], own.get("bias"))
    if operation == "zero_pad_shortcut":
        y = x[0][:, :, :: settings["stride"], :: settings["stride"]]
        missing = settings["channels"] - y.shape[1]
        return F.pad(y, (0, 0, 0, 0, missing // 2, missing - missing // 2))
    if operation == "add":
        return x[0] + x[1]
    raise SystemExit(f"unknown operation {operation}")


def run_pass(case, given):
    """Every tensor of one forward and backward pass; the running statistics in `given` are updated."""
    leaves = {k: t.requires_grad_() for k, t in given.items() if t.is_floating_point() and not k.startswith(("running", "grad_")) and ".running" not in k}
    values = {"input": given["input"]}
    for step in case["steps"]:
        prefix = step["name"] + "." if step["name"] else ""
        own = {k[len(prefix):]: t for k, t in given.items() if k.startswith(prefix) and "." not in k[len(prefix):]}
        y = operate(step["operation"], [values[r] for r in step["reads"]], own, step["settings"], case.get("mode"))
        y.retain_grad()
        values[step["name"]] = last = y
    out = {}
    if "loss" in case:
        logits = last if case["steps"] else given["input"]
        loss = F.cross_entropy(logits, given["target"], **case["loss"])
        out |= {"logits": logits, "loss": loss} if case["steps"] else {"output": loss}
        loss.backward()
    else:
        out["output"] = last
        last.backward(given["grad_output"])
    for name, y in values.items():
        if name not in ("", "input"):
            out["output." + name] = y
            if y.grad is not None:
                out["grad_output." + name] = y.grad
    out |= {"grad_" + name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {name: t.detach().clone() for name, t in out.items()}


def run(case, given):
    if case["kind"] == "sgd":
        settings = dict(case["sgd"])
        param = given["param"].requires_grad_()
        param.grad = given["grad"]
        optimiser = torch.optim.SGD([param], **settings)
        if "momentum_buffer" in given:
            optimiser.state[param]["momentum_buffer"] = given["momentum_buffer"].clone()
        optimiser.step()
        buffer = optimiser.state[param].get("momentum_buffer")
        return {"param": param.detach()} | ({} if buffer is None else {"momentum_buffer": buffer})
    out = run_pass(case, given)
    statistics = [name for name in given if name.split(".")[-1].startswith("running_")]
    if "sgd" in case:
        settings = dict(case["sgd"])
        steps = settings.pop("steps")
        parameters = {k: t for k, t in given.items() if "grad_" + k in out and k != "input"}
        optimiser = torch.optim.SGD(parameters.values(), **settings)
        for step in range(steps):
            if step > 0:
                given["input"].grad = None
                optimiser.zero_grad()
                run_pass(case, given)
            optimiser.step()
        out |= {k: t.detach() for k, t in parameters.items()}
    if case.get("mode") == "train":
        out |= {k: given[k] for k in statistics}
    return out


def main():
    wrong = 0
    for dtype in sys.argv[1:] or ["float64", "float32"]:
        worst = (0.0, "")
        tried = 0
        for case in json.loads((HERE / "index.json").read_text())["cases"]:
            files = case[dtype]["files"]
            load = lambda part: {k: torch.from_numpy(v.copy()) for k, v in np.load(HERE / files[part]["path"]).items()}
            given, expected = load("in.npz"), load("out.npz")
            prefix = f"tolerance.f{dtype[5:]}."
            tolerances = {k.removeprefix(prefix): v.double() for k, v in expected.items() if k.startswith(prefix)}
            expected = {k: v for k, v in expected.items() if not k.startswith("tolerance.")}
            result = run(case, given)
            for name in sorted(expected.keys() ^ result.keys()):
                print("WRONG", dtype, case["name"], name, "missing" if name in expected else "not expected")
                wrong += 1
            for name in expected.keys() & result.keys():
                if result[name].shape != expected[name].shape:  # unequal shapes may broadcast
                    print("WRONG", dtype, case["name"], name, "shape", tuple(result[name].shape))
                    wrong += 1
                    continue
                error = (result[name].double() - expected[name].double()).abs()
                share = torch.where(error == 0, 0.0, error / tolerances[name]).max().item()
                worst = max(worst, (share, f"{name} of {case['name']}"))
                tried += 1
                if not share <= 1:
                    print(f"WRONG {dtype} {case['name']} {name}: {share:.3g} times the tolerance of an element")
                    wrong += 1
        print(f"{dtype}: {tried} tensors, at most {worst[0]:.1%} of a tolerance used ({worst[1]})")
    sys.exit(wrong > 0)


main()
