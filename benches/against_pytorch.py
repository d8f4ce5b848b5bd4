#!/usr/bin/env python3
"""Compares this crate with PyTorch on the same machine, in alternation.

    python benches/against_pytorch.py --all --json-out results.json
    python benches/against_pytorch.py --row train-resnet20 --row threads-resnet20 --no-bf16

needs torch and torchvision in that Python, and cargo; builds the command `resnet` in release mode first and measures it
with `resnet bench`. Run it on an otherwise idle machine: the script prints the load it found. `--all` takes about
half an hour without bf16, and with it far longer if the processor has no instructions for it.

What is compared. Training: full steps (forward in train mode, cross-entropy, running statistics, backward, SGD with lr
0.1, momentum 0.9, weight decay 1e-4) on one fixed batch of noise. Evaluation: predictions in evaluation mode, PyTorch
under inference_mode, on 10,000 images of 32x32 or some of 224x224, in batches of the size that is fastest for each side unless
the row fixes it. Columns: this crate; PyTorch with contiguous tensors; PyTorch channels_last; for training also
PyTorch channels_last under bf16 autocast, which computes with 8 bits of mantissa, one round of few steps. The networks
are the same: the script compares their parameter counts before it measures anything.

How. Every measurement is a separate process (so that its peak memory is its own), and the variants take turns,
A B C A B C ..., so that a slow minute of the machine affects all of them. A process does two warm-up steps, one
for bf16, then at least three measured ones; its rate is that of the median step. The table gives medians over the rounds. A
ratio is taken within a round, between neighbours in time, and against the PyTorch float32 format with the higher median;
its median is given with the lowest and the highest. Operations are counted as those of direct convolution for both sides,
three passes in training; the peak is what `resnet bench` measures with chains of multiply-adds. Memory is the peak of the
process, the libraries included, and its ratio is to the float32 format that needs less memory.
"""

import argparse
import dataclasses
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORMATS = ["contiguous", "channels_last"]
EVAL_IMAGES = 10_000


@dataclasses.dataclass(frozen=True)
class Row:
    mode: str
    model: str
    batch: int | None  # None: each variant's best
    side: int
    classes: int
    must: float | None = None
    aim: float | None = None
    bf16: tuple | None = None  # must and aim of the ratio to bf16
    memory: tuple | None = None  # must and aim of the ratio of peak memory
    threads: bool = False  # this crate on one thread against two


ROWS = {
    "train-resnet20": Row("train", "resnet20", 128, 32, 10, 1.6, 2.2, (1.0, 1.2), (0.7, 0.4)),
    "train-resnet18-cifar": Row("train", "resnet18-cifar", 128, 32, 10, 1.8, 2.5, (1.0, 1.2), (0.7, 0.4)),
    "train-resnet34-cifar7x7": Row("train", "resnet34-cifar7x7", 64, 32, 10, 1.8, 2.5, (1.0, 1.2)),
    "train-resnet50-32px": Row("train", "resnet50", 64, 32, 10, 1.0, 1.3),
    "eval-resnet20": Row("eval", "resnet20", None, 32, 10, 1.5, 2.0),
    "eval-resnet50-224px": Row("eval", "resnet50", 8, 224, 1000, 1.0, 1.3),
    "threads-resnet20": Row("train", "resnet20", 128, 32, 10, 1.8, 1.95, threads=True),
    "threads-resnet18-cifar": Row("train", "resnet18-cifar", 128, 32, 10, 1.8, 1.95, threads=True),
}
BATCHES = [50, 125, 250, 500]  # divisors of 10,000


# ---- The child process: PyTorch --------------------------------------------------------------------------------------

def build_module(name, classes):
    """The crate's network `name` in PyTorch."""
    import torch
    import torch.nn as nn
    import torch.nn.functional as F
    import torchvision

    class Block(nn.Module):
        """Two 3x3 convolutions with option A (He et al. 2015, section 4.2)."""

        def __init__(self, c_in, c_out, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out)
            self.conv2, self.bn2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out)
            self.stride, self.zeros = stride, (c_out - c_in) // 2

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)), inplace=True)
            y = self.bn2(self.conv2(y))
            if self.stride != 1:
                x = F.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.zeros, self.zeros))
            return F.relu(y + x, inplace=True)

    def cifar(n):
        stem = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
        blocks = [Block(16, 16, 1) for _ in range(n)]
        for c in (32, 64):
            blocks += [Block(c // 2, c, 2)] + [Block(c, c, 1) for _ in range(n - 1)]
        return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))

    base = name.removesuffix("-cifar").removesuffix("-cifar7x7")
    if not hasattr(torchvision.models, base):
        depth = int(name.removeprefix("resnet"))
        assert (depth - 2) % 6 == 0, f"{name}: CIFAR depths are 6n + 2"
        return cifar((depth - 2) // 6)
    module = getattr(torchvision.models, base)(num_classes=classes)
    if name.endswith("-cifar"):
        module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    if name.endswith("-cifar7x7"):
        # The stem keeps the size, and the first stage begins with a projection like the others.
        module.conv1, module.maxpool = nn.Conv2d(3, 64, 7, 1, 3, bias=False), nn.MaxPool2d(3, 1, 1)
        module.layer1[0].downsample = nn.Sequential(nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64))
    return module


def peak_memory():
    """Peak memory of this process in bytes. Avoids ru_maxrss if possible: that also counts the parent before exec."""
    try:
        with open("/proc/self/status") as f:
            return 1024 * int(next(line for line in f if line.startswith("VmHWM:")).split()[1])
    except (OSError, StopIteration):
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count(jobs):
    """The child process that counts parameters: one line of JSON."""
    import torch
    import torchvision

    counts = [sum(p.numel() for p in build_module(model, classes).parameters()) for model, classes in jobs]
    print(json.dumps(dict(counts=counts, torch=torch.__version__, torchvision=torchvision.__version__,
                          capability=torch.backends.cpu.get_cpu_capability())))


def pytorch(job):
    """The child process that measures one variant: one line of JSON."""
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    libraries = peak_memory()
    bf16, training, batch = job["variant"] == "bf16", job["mode"] == "train", job["batch"]
    layout = torch.contiguous_format if job["variant"] == "contiguous" else torch.channels_last
    model = build_module(job["model"], job["classes"]).train(training).to(memory_format=layout)
    x = torch.randn(batch, 3, job["side"], job["side"]).to(memory_format=layout)
    t = torch.arange(batch) * 7 % job["classes"]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def train():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(x), t)
        loss.backward()
        optimiser.step()
        return loss.item()

    def predict():
        with torch.inference_mode():
            return model(x)[0, 0].item()

    step = train if training else predict
    for _ in range(job["warm_up"]):
        step()
    times, start = [], time.perf_counter()
    while len(times) < job["least"] or (len(times) < job["most"] and time.perf_counter() - start < job["seconds"]):
        begun = time.perf_counter()
        result = step()
        times.append(time.perf_counter() - begun)
    if not math.isfinite(result):
        raise SystemExit(f"the result became {result}: such a step need not cost what a real one does")
    # For an even number the later of the two in the middle, as in `resnet bench`.
    median = sorted(times)[len(times) // 2]
    print(json.dumps(dict(images_per_second=batch / median, median_step_seconds=median, steps=len(times),
                          best_step_seconds=min(times), worst_step_seconds=max(times), batch_size=batch,
                          peak_memory_bytes=peak_memory(), libraries_memory_bytes=libraries)))


# ---- The parent ------------------------------------------------------------------------------------------------------

def say(text):
    print(text, file=sys.stderr, flush=True)


def output(command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def cpu():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def load():
    return "load " + " ".join("%.2f" % v for v in os.getloadavg())


def build():
    command = ["cargo", "build", "--release", "--bin", "resnet", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [message.get("executable") for message in map(json.loads, filter(lambda l: l.startswith("{"), lines))]
    return next(path for path in reversed(built) if path)


def run(command, threads, timeout=None):
    """The JSON that a child process prints; None if it takes too long."""
    names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"]
    environment = dict(os.environ, **{name: str(threads) for name in names})
    try:
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"exit code {error.returncode} of: {' '.join(command)}")
    return json.loads(out.stdout)


def python(kind, job):
    return [sys.executable, os.path.abspath(__file__), "--child", kind, "--job", json.dumps(job)]


def check_parameters(executable, rows):
    """Fails if the networks are different. Returns the versions of PyTorch."""
    jobs = sorted({(row.model, row.classes) for row in rows})
    torch = run(python("count", jobs), 1)
    for (model, classes), theirs in zip(jobs, torch["counts"]):
        models = run([executable, "models", "--json", "--classes", str(classes)], 1)
        ours = next(found["parameters"] for found in models if found["model"] == model)
        if ours != theirs:
            raise SystemExit(f"{model} with {classes} classes has {ours} parameters here and {theirs} in PyTorch")
        say(f"{model} with {classes} classes: {ours} parameters on both sides")
    return {key: value for key, value in torch.items() if key != "counts"}


class Bench:
    def __init__(self, args, executable):
        self.args, self.executable = args, executable

    def measure(self, row, variant, batch, threads=None, seconds=None):
        """Runs one process. `seconds`: less than usual, for choosing a batch size."""
        args, trial = self.args, seconds is not None
        threads = args.threads if threads is None else threads
        steps = args.steps
        if row.batch is None and not trial and steps is None:
            steps = EVAL_IMAGES // batch
        if variant == "crate":
            command = [self.executable, "bench", "--model", row.model, "--batch-size", str(batch), "--mode", row.mode,
                       "--image", f"{row.side}x{row.side}", "--classes", str(row.classes), "--threads", str(threads),
                       "--conv", args.conv, "--json"]
            command += ["--seconds", str(seconds or args.seconds)] if steps is None else ["--steps", str(steps)]
            return run(command, threads)
        job = dict(model=row.model, classes=row.classes, side=row.side, mode=row.mode, batch=batch, variant=variant,
                   threads=threads, seconds=seconds or args.seconds, warm_up=2, least=3, most=10**9)
        if steps is not None:
            job.update(least=steps, most=steps)
        if variant == "bf16":
            job.update(warm_up=1, least=1, most=3)
            return run(python("measure", job), threads, timeout=args.bf16_timeout)
        return run(python("measure", job), threads)

    def best_batch(self, row, variant):
        if row.batch is not None:
            return row.batch
        if self.args.steps is not None:
            return BATCHES[-1]  # only a try
        rates = {batch: self.measure(row, variant, batch, seconds=0.5)["images_per_second"] for batch in BATCHES}
        best = max(rates, key=rates.get)
        say(f"  {variant}: batches of {best} are the fastest: "
            + ", ".join(f"{batch}: {rate:.0f}" for batch, rate in rates.items()) + " images/s")
        return best

    def row(self, name):
        row = ROWS[name]
        say(f"{name}: {self.args.rounds} rounds; {load()}")
        if row.threads:
            variants = {f"{n} thread{'s' * (n > 1)}": ("crate", row.batch, n) for n in (1, 2)}
        else:
            variants = {v: (v, self.best_batch(row, v), None) for v in ["crate"] + FORMATS}
        results = {variant: [] for variant in variants}
        for turn in range(self.args.rounds):
            for variant, (kind, batch, threads) in variants.items():
                results[variant].append(self.measure(row, kind, batch, threads))
            say(f"  round {turn + 1}: " + ", ".join(f"{v} {rs[-1]['images_per_second']:.1f}" for v, rs in results.items())
                + f" images/s; {load()}")
        if row.mode == "train" and not row.threads and not self.args.no_bf16:
            result = self.measure(row, "bf16", row.batch)
            results["bf16"] = [] if result is None else [result]
            say("  bf16: " + (f"none in {self.args.bf16_timeout} s" if result is None
                              else f"{result['images_per_second']:.1f} images/s"))
        return summarise(name, row, results)


def summarise(name, row, results):
    median = lambda values: statistics.median(values) if values else None
    # What a variant reports is a rate, an amount of memory, a number of steps ...
    rate = {variant: median([r["images_per_second"] for r in rs]) for variant, rs in results.items()}
    memory = {v: median([r["peak_memory_bytes"] for r in rs if r["peak_memory_bytes"]]) for v, rs in results.items()}
    ours, better = (("2 threads", "1 thread") if row.threads
                    else ("crate", max(FORMATS, key=lambda variant: rate[variant])))
    # Within a round: neighbours in time.
    ratios = [a["images_per_second"] / b["images_per_second"] for a, b in zip(results[ours], results[better])]
    first = results[ours][0]
    operations = 2 * (3 if row.mode == "train" else 1) * first["multiply_adds_per_image"]
    peak = median([r["peak_gflops"] for r in results[ours]])
    summary = dict(
        row=name, mode=row.mode, model=row.model, image=row.side, classes=row.classes,
        batch={variant: rs[0]["batch_size"] for variant, rs in results.items() if rs},
        images_per_second=rate, better=better, must=row.must, aim=row.aim,
        ratio=statistics.median(ratios), ratio_lowest=min(ratios), ratio_highest=max(ratios),
        gflops={variant: None if r is None else operations * r / 1e9 for variant, r in rate.items()},
        peak_gflops=peak, share_of_peak=operations * rate[ours] / 1e9 / peak, peak_memory_bytes=memory,
        results=results)
    if rate.get("bf16"):
        must, aim = row.bf16 or (None, None)
        summary["bf16"] = dict(ratio=rate[ours] / rate["bf16"], must=must, aim=aim)
    if not row.threads and memory[ours]:
        least = min(memory[variant] for variant in FORMATS)
        must, aim = row.memory or (None, None)
        summary["memory"] = dict(ratio=memory[ours] / least, must=must, aim=aim)
    return summary


def number(value, digits=2):
    return "" if value is None else f"{value:.{digits}f}"


def verdict(ratio, must, aim, less=False):
    if must is None:
        return ""
    reached = (lambda target: ratio <= target) if less else (lambda target: ratio >= target)
    return "aim" if reached(aim) else "must" if reached(must) else "missed"


def table(header, rows):
    print("\n| " + " | ".join(header) + " |")
    print("|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def report(summaries):
    compared = [s for s in summaries if not ROWS[s["row"]].threads]
    spread = lambda s: f"{s['ratio']:.2f} ({s['ratio_lowest']:.2f} to {s['ratio_highest']:.2f})"
    targets = lambda s: [number(s["must"]), number(s["aim"]), verdict(s["ratio"], s["must"], s["aim"])]
    if compared:
        rows = []
        for s in compared:
            rate, batches = s["images_per_second"], s["batch"]
            batch = "/".join(str(b) for b in dict.fromkeys(batches.values()))
            cells = [number(rate.get(v), 1) for v in ["crate"] + FORMATS]
            rows.append([s["row"], batch, *cells, s["better"], spread(s), *targets(s), number(s["gflops"]["crate"], 1),
                         number(s["gflops"][s["better"]], 1), f"{100 * s['share_of_peak']:.0f} %"])
        table(["images/s", "batch", "this crate", *("PyTorch " + v for v in FORMATS), "better", "crate/better", "must", "aim",
               "reached", "GFLOP/s crate", "GFLOP/s better", "crate, of peak"], rows)
    if any("bf16" in s for s in compared):
        table(["images/s", "this crate, float32", "PyTorch bf16", "crate/bf16", "must", "aim", "reached"],
              [[s["row"], number(s["images_per_second"]["crate"], 1), number(s["images_per_second"]["bf16"], 1),
                number(s["bf16"]["ratio"]), number(s["bf16"]["must"]), number(s["bf16"]["aim"]),
                verdict(**s["bf16"])] for s in compared if "bf16" in s])
    if any("memory" in s for s in compared):
        mib = lambda s, v: number(s["peak_memory_bytes"].get(v) and s["peak_memory_bytes"][v] / 2**20, 0)
        libraries = lambda s: number(statistics.median(r["libraries_memory_bytes"] for v in FORMATS
                                                       for r in s["results"][v]) / 2**20, 0)
        table(["peak MiB", "this crate", *("PyTorch " + v for v in FORMATS), "PyTorch bf16", "of PyTorch's, libraries",
               "crate/less", "must", "aim", "reached"],
              [[s["row"], *(mib(s, v) for v in ["crate"] + FORMATS + ["bf16"]), libraries(s), number(s["memory"]["ratio"]),
                number(s["memory"]["must"]), number(s["memory"]["aim"]), verdict(**s["memory"], less=True)]
               for s in compared if "memory" in s])
    threads = [s for s in summaries if ROWS[s["row"]].threads]
    if threads:
        table(["images/s", "1 thread", "2 threads", "ratio", "must", "aim", "reached"],
              [[s["row"], number(s["images_per_second"]["1 thread"], 1), number(s["images_per_second"]["2 threads"], 1),
                spread(s), *targets(s)] for s in threads])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--all", action="store_true", help="every row")
    chosen.add_argument("--row", action="append", choices=list(ROWS), help="one row; may be given again")
    parser.add_argument("--rounds", type=int, default=5, help="alternations (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0,
                        help="per variant and round, at least three steps (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="exactly this many steps instead, to try the script")
    parser.add_argument("--threads", type=int, default=2, help="of each side (default: %(default)s)")
    parser.add_argument("--conv", default="auto", help="the crate's convolution algorithm, see `resnet help bench`")
    parser.add_argument("--no-bf16", action="store_true", help="leave the bf16 column out")
    parser.add_argument("--bf16-timeout", type=float, default=600.0, metavar="S",
                        help="give bf16 up after this long (default: %(default)s)")
    parser.add_argument("--json-out", metavar="FILE", help="everything that was measured; written after every row")
    parser.add_argument("--child", choices=["count", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return (count if args.child == "count" else pytorch)(args.job)
    if not args.all and not args.row:
        parser.error("give --all or --row NAME; rows: " + ", ".join(ROWS))
    if args.rounds < 1 or args.threads < 1 or args.seconds <= 0 or (args.steps is not None and args.steps < 1):
        parser.error("--rounds, --threads, --seconds and --steps must be above 0")

    names = list(ROWS) if args.all else list(dict.fromkeys(args.row))
    executable = build()
    machine = dict(cpu=cpu(), cores=os.cpu_count(), system=f"{platform.system()} {platform.machine()}", load=load(),
                   crate=output(["git", "describe", "--always", "--dirty"]), rustc=output(["rustc", "--version"]),
                   python=platform.python_version())
    machine.update(check_parameters(executable, [ROWS[name] for name in names]))
    settings = {key: getattr(args, key) for key in ("rounds", "seconds", "steps", "threads", "conv")}
    summaries = []
    for name in names:
        summaries.append(Bench(args, executable).row(name))
        if args.json_out:
            with open(args.json_out, "w") as f:
                json.dump(dict(machine=machine, settings=settings, rows=summaries), f, indent=1)
    print(f"{machine['cpu']}, {machine['cores']} cores seen; {machine['system']}; at the start {machine['load']}  ")
    print(f"crate {machine['crate']}, {machine['rustc']}; torch {machine['torch']}, torchvision {machine['torchvision']}, "
          f"Python {machine['python']}, {machine['capability']}  ")
    measured = f"{args.steps} steps" if args.steps else f"{args.seconds:g} s"
    print(f"{args.threads} threads, {args.rounds} rounds of {measured} a variant; convolutions: {args.conv}")
    report(summaries)


if __name__ == "__main__":
    main()
