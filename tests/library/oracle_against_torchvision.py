#!/usr/bin/env python3
"""The oracle against torchvision's ResNets: every value and every gradient of whole networks.

    python tests/library/oracle_against_torchvision.py
    python tests/library/oracle_against_torchvision.py --models resnet18 resnet50 --pixels 32 --modes train

needs torch, torchvision, numpy and safetensors in that Python, and the command `resnet` in release mode; nothing else in
this project needs Python. For each network and size of the images it makes

- weights: torchvision's random ones; gamma, beta and the bias of fc random; running statistics those of another batch,
  then changed at random, so that no tensor is 0 or 1 and the values of evaluation neither explode nor vanish;
- the file of weights three times: `.pth` as PyTorch writes it, `.pth` as before 1.6, `.safetensors`. The dumps of
  `resnet oracle model` from the three must be byte-identical (checked in the first mode of each);
- a batch of random images and classes;
- PyTorch's dump in float64 and in float32, through hooks: logits, loss, the results of all modules and their gradients,
  the gradients of all parameters and of the input, the new running statistics;
- the oracle's dump, in float64, and the comparison of both of PyTorch's with it, by the oracle's own tolerances.

It prints one line for each: how many tensors were compared, whether all of them fit, the largest share of its tolerance that any
tensor uses, and which, and the difference of the losses. Exit code 1 if something does not fit. Every number is a
function of --seed. PyTorch and `resnet` run as processes of their own, one after the other; the time and the peak memory
of `resnet oracle model` are printed, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FAMILY = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"]
FORMATS = ["new.pth", "old.pth", "weights.safetensors"]


# ---- The child processes: PyTorch ------------------------------------------------------------------------------------

def images(n, pixels, generator):
    """Clouds with grain, so that neighbouring pixels are correlated, as in photographs."""
    import torch
    clouds = torch.randn(n, 3, 2 + pixels // 16, 2 + pixels // 16, generator=generator)
    clouds = torch.nn.functional.interpolate(clouds, size=(pixels, pixels), mode="bilinear")
    return clouds + 0.3 * torch.randn(n, 3, pixels, pixels, generator=generator)


def make(args):
    """Writes weights and a batch."""
    import numpy
    import safetensors.torch
    import torch
    import torchvision
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed + 1)
    model = getattr(torchvision.models, args.model)(weights=None)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    uniform = lambda like, low, high: low + (high - low) * torch.rand(like.shape, generator=g)
    with torch.no_grad():
        for norm in norms:
            norm.weight.copy_(uniform(norm.weight, 0.5, 1.5))
            norm.bias.copy_(uniform(norm.bias, -0.3, 0.3))
            norm.momentum = 1.0
        model.fc.bias.copy_(uniform(model.fc.bias, -0.1, 0.1))
        model.train()
        model(images(args.batch_size, args.pixels, g))
        for norm in norms:
            deviation = norm.running_var.sqrt()
            norm.running_mean.add_(deviation * uniform(deviation, -0.3, 0.3))
            norm.running_var.mul_(uniform(deviation, 0.6, 1.6)).add_(1e-3)
    state = model.state_dict()
    torch.save(state, os.path.join(args.work, FORMATS[0]))
    torch.save(state, os.path.join(args.work, FORMATS[1]), _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(state, os.path.join(args.work, FORMATS[2]))
    target = torch.randint(0, model.fc.out_features, (args.batch_size,), generator=g)
    batch = {"input": images(args.batch_size, args.pixels, g).numpy(), "target": target.numpy()}
    numpy.savez(os.path.join(args.work, "batch.npz"), **batch)


def dump(args):
    """Writes what PyTorch computes."""
    import numpy
    import safetensors.torch
    import torch
    import torchvision
    dtype = getattr(torch, args.dtype)
    model = getattr(torchvision.models, args.model)(weights=None)
    model.load_state_dict(torch.load(os.path.join(args.work, FORMATS[0])))
    model = model.to(dtype).train(args.mode == "train")
    batch = numpy.load(os.path.join(args.work, "batch.npz"))
    x, target = torch.from_numpy(batch["input"]).to(dtype).requires_grad_(), torch.from_numpy(batch["target"])

    dump, calls = {}, {}

    def keep(name, y):  # a module that is called again gets #2, #3
        calls[name] = calls.get(name, 0) + 1
        name += f"#{calls[name]}" if calls[name] > 1 else ""
        dump["output." + name] = y.detach().clone()
        # A Sequential and its last module, a block and its last ReLU: one tensor, two names.
        y.register_hook(lambda dy: dump.__setitem__("grad_output." + name, dy.detach().clone()))

    for name, module in model.named_modules():
        if name:
            module.register_forward_hook(lambda m, i, y, name=name: keep(name, y))
    logits = model(x)
    loss = torch.nn.functional.cross_entropy(logits, target)
    loss.backward()
    dump |= {"logits": logits.detach(), "loss": loss.detach(), "grad_input": x.grad}
    dump |= {"grad_" + name: p.grad for name, p in model.named_parameters()}
    if args.mode == "train":
        dump |= {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    safetensors.torch.save_file({k: v.contiguous() for k, v in dump.items()}, os.path.join(args.work, "theirs.safetensors"))


# ---- The parent ------------------------------------------------------------------------------------------------------

def child(args, what, **settings):
    command = [sys.executable, os.path.abspath(__file__), "--child", what, "--work", args.work, "--seed", str(args.seed)]
    for key, value in settings.items():
        command += [f"--{key.replace('_', '-')}", str(value)]
    subprocess.run(command, check=True)


def resnet(args, *command):
    """Runs it; returns what it printed, its exit code, seconds and peak memory."""
    begin = time.monotonic()
    process = subprocess.Popen([args.resnet, "oracle", *command], stdout=subprocess.PIPE, text=True)
    printed = process.stdout.read()
    # Of this child alone. This process stays small, so its memory before exec does not matter.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return printed, process.returncode, time.monotonic() - begin, usage.ru_maxrss * 1024


def same_bytes(a, b):
    with open(a, "rb") as a, open(b, "rb") as b:
        while True:
            x, y = a.read(1 << 20), b.read(1 << 20)
            if x != y:
                return False
            if not x:
                return True


def model(args, name, pixels, mode, weights, out, *more):
    path = lambda file: os.path.join(args.work, file)
    command = ["model", "--model", name, "--weights", path(weights), "--in", path("batch.npz"), "--mode", mode]
    printed, code, seconds, memory = resnet(args, *command, "--out", path(out), "--force", *more)
    if code != 0:
        sys.exit(f"resnet oracle model failed for {name}, {pixels} pixels, {mode}")
    return seconds, memory


def judge(args, label):
    """Compares and prints the line; returns whether it fits."""
    path = lambda file: os.path.join(args.work, file)
    printed, code, _, _ = resnet(args, "compare", path("ours.safetensors"), path("theirs.safetensors"), "--json")
    if code not in (0, 1):
        sys.exit(f"resnet oracle compare failed for {label}")
    report = json.loads(printed)
    tried = [t for t in report["tensors"] if t["outcome"] != "not_given"]

    def share(t):
        # JSON has no NaN and no infinity: such a share is null.
        return t["share"] if t["share"] is not None else float("inf")

    worst = max(tried, key=share)
    loss = next(t for t in tried if t["name"] == "loss")["absolute"]
    outside = [t["name"] for t in tried if t["outcome"] != "fits"]
    passed = report["passed"] and code == 0
    verdict = "all fit" if passed else f"{len(outside)} LEAVE, first {report['first']}, {len(report['unknown'])} unknown"
    difference = abs(loss["ours"] - loss["theirs"]) if loss["error"] else 0.0
    print(f"{label}  {len(tried):4} tensors  {verdict}  largest share {100 * share(worst):6.2f} % in {worst['name']}, "
          f"loss off by {difference:.1e}", flush=True)
    if not passed:
        for t in sorted((t for t in tried if t["outcome"] != "fits"), key=share, reverse=True)[:5]:
            print(f"    {t['name']}: error {t['worst']['error']} at {t['worst']['at']} of {t['shape']}, tolerance "
                  f"{t['worst']['tolerance']}, {t['leaving']} leave, largest value {t['scale']:.2e}")
        for unknown in report["unknown"][:5]:
            print(f"    unknown: {unknown['name']}")
    if args.shares:
        with open(args.shares, "a") as f:
            f.write(json.dumps({"label": label.split(), "shares": {t["name"]: share(t) for t in tried}}) + "\n")
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet", default=os.path.join(ROOT, "target", "release", "resnet"), help="path of the command")
    parser.add_argument("--models", nargs="+", default=FAMILY, metavar="NAME")
    parser.add_argument("--pixels", nargs="+", type=int, default=[32, 224], metavar="P")
    parser.add_argument("--modes", nargs="+", default=["train", "eval"], choices=["train", "eval"])
    parser.add_argument("--dtypes", nargs="+", default=["float64", "float32"], choices=["float64", "float32"],
                        help="of PyTorch")
    parser.add_argument("--batch-size", type=int, help="default: 8 up to 64 pixels, 2 above")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", metavar="DIR", help="where the files go and stay; default: a temporary folder")
    parser.add_argument("--shares", metavar="FILE", help="append the share of every tensor, a line of JSON a comparison")
    # For the child processes.
    parser.add_argument("--child", choices=["make", "dump"], help=argparse.SUPPRESS)
    for name in ["--model", "--mode", "--dtype"]:
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        args.pixels = args.pixels[0]
        return {"make": make, "dump": dump}[args.child](args)
    if not os.path.exists(args.resnet):
        parser.error(f"{args.resnet} does not exist: run cargo build --release, or give --resnet")

    temporary = None if args.work else tempfile.mkdtemp(prefix="against-torchvision-")
    args.work = args.work or temporary
    os.makedirs(args.work, exist_ok=True)
    failed = []
    try:
        for name in args.models:
            for pixels in args.pixels:
                # With two images, 1x1 maps leave only the signs of the differences after a batch norm.
                batch_size = args.batch_size or (8 if pixels <= 64 else 2)
                child(args, "make", model=name, pixels=pixels, batch_size=batch_size)
                for mode in args.modes:
                    label = f"{name:15} {pixels:3} px, {batch_size} images, {mode:5}"
                    if mode == args.modes[0]:
                        for weights in FORMATS:
                            model(args, name, pixels, mode, weights, weights + ".dump.safetensors", "--no-tolerances")
                        dumps = [os.path.join(args.work, weights + ".dump.safetensors") for weights in FORMATS]
                        same = all(same_bytes(dumps[0], other) for other in dumps[1:])
                        print(f"{label}  the dumps from {', '.join(FORMATS)} are {'the same' if same else 'DIFFERENT'} bytes")
                        failed += [] if same else [label]
                        for path in dumps:
                            os.remove(path)
                    seconds, memory = model(args, name, pixels, mode, FORMATS[0], "ours.safetensors")
                    print(f"{label}  resnet oracle model: {seconds:.1f} s, {memory / 2**20:,.0f} MiB", flush=True)
                    for dtype in args.dtypes:
                        child(args, "dump", model=name, mode=mode, dtype=dtype)
                        if not judge(args, f"{label} {dtype}"):
                            failed.append(f"{label} {dtype}")
    finally:
        if temporary:
            shutil.rmtree(temporary)
    print("everything fits" if not failed else "these do not fit:\n  " + "\n  ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
