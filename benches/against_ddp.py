#!/usr/bin/env python3
"""PyTorch's DistributedDataParallel (gloo) on two processes of one thread, as an opponent of `mpirun -n 2 resnet bench`.

    python benches/against_ddp.py resnet18-cifar            images/s, and how far its weights depend on the number of processes

The network, the batch of 128 random images and the optimiser are those of against_pytorch.py. Batch norm is synchronised
(SyncBatchNorm works on GPUs only, so here every process normalises its own 64 images, which is less work). With `--address HOST
--rank R` the two processes run on two machines.
"""
import argparse
import os
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from against_pytorch import build_module

BATCH, WARM_UP = 128, 2


def steps(model, x, y, count, optimiser):
    times = []
    for _ in range(WARM_UP + count):
        start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        times.append(time.perf_counter() - start)
    return sorted(times[WARM_UP:])[count // 2]


def network(name):
    torch.manual_seed(1)
    return build_module(name, 10).train().to(memory_format=torch.channels_last)


def batch():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(BATCH, 3, 32, 32, generator=generator), torch.arange(BATCH) * 7 % 10


def worker(rank, size, name, count, address, results):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR=address, MASTER_PORT="29511")
    dist.init_process_group("gloo", rank=rank, world_size=size)
    model = torch.nn.parallel.DistributedDataParallel(network(name))
    x, y = (part.chunk(size)[rank].contiguous() for part in batch())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    seconds = steps(model, x.to(memory_format=torch.channels_last), y, count, optimiser)
    if rank == 0:
        results["images_per_second"] = BATCH / seconds
        results["weights"] = [p.detach().clone().numpy() for p in model.module.parameters()]
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--rank", type=int, help="this machine has only this process")
    args = parser.parse_args()
    if args.rank is not None:
        results = {}
        worker(args.rank, 2, args.model, args.steps, args.address, results)
        if args.rank == 0:
            print(f"{args.model}: {results['images_per_second']:.1f} images/s on two machines")
        return
    with mp.Manager() as manager:
        found = {}
        for size in (1, 2):
            results = manager.dict()
            mp.spawn(worker, (size, args.model, args.steps, args.address, results), nprocs=size)
            found[size] = dict(results)
    one, two = ([torch.tensor(weight) for weight in found[size]["weights"]] for size in (1, 2))
    start = [p.detach() for p in network(args.model).parameters()]
    norm = lambda parts: sum(float((part**2).sum()) for part in parts) ** 0.5
    difference = norm([a - b for a, b in zip(one, two)])
    moved = norm([a - b for a, b in zip(one, start)])
    print(f"{args.model}: {found[2]['images_per_second']:.1f} images/s with two processes of one thread, "
          f"{found[1]['images_per_second']:.1f} with one")
    print(f"weights after {WARM_UP + args.steps} steps: two processes differ from one by {difference / moved:.1e} of the way")


if __name__ == "__main__":
    main()
