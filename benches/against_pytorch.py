#!/usr/bin/env python3
"""Training throughput of this crate against PyTorch, on the same machine, in alternation.

    python benches/against_pytorch.py --model resnet20 --batch 128 --threads 2 --rounds 5 --seconds 6

needs torch and torchvision in that Python, and cargo; builds `examples/train_throughput.rs` in release mode first. Run it
on a machine that does nothing else: the script prints the load it found.

What is compared: full training steps (forward in train mode, cross-entropy, backward, SGD with lr 0.1, momentum 0.9,
weight decay 1e-4) on one fixed batch of noise at 32x32, float32. Columns: this crate; PyTorch with contiguous tensors;
PyTorch channels_last; PyTorch channels_last under bf16 autocast, which computes with 8 bits of mantissa and stands there
for orientation, not for comparison. Every measurement is a process of its own (so that peak memory is its own), and the
variants take turns, A B C D A B C D ..., so that a slow minute of the machine hits all of them. A process's rate is that
of its median step; the table gives the median over the rounds, with the lowest and the highest.

Models: resnet20 and the other CIFAR depths (the module of tests/golden/make_fixtures.py), resnet18, resnet34, resnet50
(torchvision, 10 classes), and resnet18-cifar, resnet34-cifar, resnet50-cifar (the same with a 3x3 stem and no max pool).
"""

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VARIANTS = {
    "crate": "this crate, float32",
    "contiguous": "PyTorch float32 contiguous",
    "channels_last": "PyTorch float32 channels_last",
    "bf16": "PyTorch bf16 autocast channels_last",
}


def build_module(name):
    import torch
    import torchvision

    if name.endswith("-cifar"):
        module = getattr(torchvision.models, name.removesuffix("-cifar"))(num_classes=10)
        module.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        module.maxpool = torch.nn.Identity()
        return module
    if hasattr(torchvision.models, name):
        return getattr(torchvision.models, name)(num_classes=10)
    spec = importlib.util.spec_from_file_location("make_fixtures", os.path.join(ROOT, "tests/golden/make_fixtures.py"))
    fixtures = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode = True
    spec.loader.exec_module(fixtures)
    torch.set_default_dtype(torch.float32)  # the fixtures are float64 and deterministic; a benchmark is neither
    torch.use_deterministic_algorithms(False)
    depth = int(name.removeprefix("resnet"))
    if (depth - 2) % 6:
        raise SystemExit(f"{name}: CIFAR depths are 6n + 2")
    return fixtures.CifarResNet((depth - 2) // 6)


def pytorch(args):
    """The child process: one variant of PyTorch, one line of JSON."""
    import torch
    import torch.nn.functional as F

    model = build_module(args.model).train()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layout = torch.contiguous_format if args.child == "contiguous" else torch.channels_last
    model = model.to(memory_format=layout)
    x = torch.randn(args.batch, 3, 32, 32).to(memory_format=layout)
    t = torch.arange(args.batch) * 7 % 10
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.child == "bf16"):
            loss = F.cross_entropy(model(x), t)
        loss.backward()
        optimiser.step()
        return loss.item()

    for _ in range(2):
        step()
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < args.seconds:
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    # ru_maxrss is in KiB on Linux, in bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
    print(json.dumps(dict(images_per_second=args.batch / statistics.median(times), peak_rss_mib=peak, steps=len(times))))


def cpu():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load():
    return "load " + " ".join("%.2f" % v for v in os.getloadavg())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="alternations")
    parser.add_argument("--seconds", type=float, default=6.0, help="per variant and round, after two warm-up steps")
    parser.add_argument("--child", choices=list(VARIANTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return pytorch(args)

    import torch
    import torchvision

    build = ["cargo", "build", "--release", "--example", "train_throughput", "--message-format=json"]
    lines = subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line).get("executable") for line in lines if '"train_throughput"' in line]
    executable = next(path for path in reversed(built) if path)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    rustc = subprocess.run(["rustc", "--version"], cwd=ROOT, capture_output=True, text=True)
    print(f"{args.model}, batch {args.batch}, {args.threads} threads, {args.rounds} rounds of {args.seconds:g} s a variant")
    print(f"{cpu()}, {os.cpu_count()} cores seen; {platform.system()} {platform.machine()}; {load()}")
    print(f"crate {commit.stdout.strip()}, {rustc.stdout.strip()}; torch {torch.__version__}, "
          f"torchvision {torchvision.__version__}, Python {platform.python_version()}, "
          f"{torch.backends.cpu.get_cpu_capability()}", flush=True)

    options = []
    for name in ("model", "batch", "threads", "seconds"):
        options += ["--" + name, str(getattr(args, name))]
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads), MKL_NUM_THREADS=str(args.threads),
                       RAYON_NUM_THREADS=str(args.threads))
    results, multiply_adds = {variant: [] for variant in VARIANTS}, None
    for turn in range(args.rounds):
        for variant in VARIANTS:
            python = [sys.executable, os.path.abspath(__file__), "--child", variant]
            command = [executable] if variant == "crate" else python
            out = subprocess.run(command + options, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            result = json.loads(out.stdout.splitlines()[-1])
            multiply_adds = result.get("multiply_adds", multiply_adds)
            results[variant].append(result)
        rates = ", ".join(f"{v} {r[-1]['images_per_second']:.1f}" for v, r in results.items())
        print(f"round {turn + 1}: {rates} images/s; {load()}", flush=True)

    median = {v: statistics.median(r["images_per_second"] for r in rs) for v, rs in results.items()}
    print(f"\n{'':38}{'images/s':>10}{'(lowest - highest)':>22}{'GFLOP/s':>10}{'peak MiB':>10}{'crate/this':>12}")
    for variant, rs in results.items():
        rates = [r["images_per_second"] for r in rs]
        peaks = [r["peak_rss_mib"] for r in rs if r["peak_rss_mib"] is not None]
        gflops = 6 * multiply_adds / args.batch * median[variant] / 1e9
        spread = f"({min(rates):.1f} - {max(rates):.1f})"
        peak = f"{statistics.median(peaks):.0f}" if peaks else "?"
        ratio = median["crate"] / median[variant]
        print(f"{VARIANTS[variant]:38}{median[variant]:10.1f}{spread:>22}{gflops:10.1f}{peak:>10}{ratio:12.2f}")
    better = max(("contiguous", "channels_last"), key=median.get)
    # Ratios within a round compare neighbours in time.
    ratios = [a["images_per_second"] / b["images_per_second"] for a, b in zip(results["crate"], results[better])]
    print(f"\nbetter PyTorch float32 format: {better}; crate/PyTorch round by round: median "
          f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})")


if __name__ == "__main__":
    main()
