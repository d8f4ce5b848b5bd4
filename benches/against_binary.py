#!/usr/bin/env python3
"""Compares two builds of `resnet` on the same machine in the same hour.

    python benches/against_binary.py OLD NEW [--rounds 15] [--row NAME ...]

OLD and NEW are paths of release binaries. Each row is measured in turn, OLD NEW OLD NEW ..., with `resnet bench --json`; a round
gives the ratio of the two images/s, so a drift of the machine's speed does not matter. It prints the median of the ratios,
their quartiles, and the peak memory of both. Above 1 means that NEW is faster. Run it on an otherwise idle machine.
"""

import argparse
import json
import statistics
import subprocess

# name: arguments of `resnet bench`
ROWS = {
    "train-resnet20": "--model resnet20 --batch-size 128 --steps 6",
    "train-resnet18-cifar": "--model resnet18-cifar --batch-size 128 --steps 3",
    "train-resnet34-cifar7x7": "--model resnet34-cifar7x7 --batch-size 64 --steps 3",
    "train-resnet50-32px": "--model resnet50 --image 32x32 --classes 10 --batch-size 64 --steps 3",
    "train-preact110": "--model preact110 --batch-size 64 --steps 3",
    "train-resnext50-32px": "--model resnext50_32x4d --image 32x32 --classes 10 --batch-size 32 --steps 3",
    "train-wide_resnet50_2-32px": "--model wide_resnet50_2 --image 32x32 --classes 10 --batch-size 32 --steps 3",
    "eval-resnet20": "--model resnet20 --batch-size 250 --mode eval --steps 6",
    "eval-resnet50-224px": "--model resnet50 --batch-size 8 --mode eval --steps 3",
}


def measure(binary, row):
    command = [binary, "bench", "--json", *ROWS[row].split()]
    result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result["images_per_second"], result["peak_memory_bytes"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--row", action="append", choices=ROWS)
    arguments = parser.parse_args()
    print(f"{'row':<28} {'ratio':>6} {'quartiles':>13} {'old':>9} {'new':>9} images/s, peak MiB old, new")
    for row in arguments.row or ROWS:
        rounds = []
        for _ in range(arguments.rounds):
            rounds.append((measure(arguments.old, row), measure(arguments.new, row)))
        ratios = [new[0] / old[0] for old, new in rounds]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        speeds = [statistics.median(side[i][0] for side in rounds) for i in (0, 1)]
        peaks = [max(side[i][1] or 0 for side in rounds) / 2**20 for i in (0, 1)]
        print(
            f"{row:<28} {middle:>6.3f} {low:>6.3f} {high:>6.3f} {speeds[0]:>9.1f} {speeds[1]:>9.1f}"
            f" {peaks[0]:>8.0f} {peaks[1]:>6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
