"""Learning rates of torch.optim.lr_scheduler, called as in a training loop.

    python schedules.py > schedules.txt        made with torch 2.15.0

A line: our text of the schedule, base rate, steps per epoch, steps in all, then step=rate for some steps.
"""
import warnings

import torch
from torch.optim import lr_scheduler as ls

warnings.simplefilter("ignore")


def table(text, base, per_epoch, steps, each_step=(), each_epoch=(), show=None):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base, momentum=0.9)
    # Schedulers multiply the current rate, so several of them chain.
    by_step, by_epoch = [make(sgd) for make in each_step], [make(sgd) for make in each_epoch]
    rates = []
    for step in range(steps):
        rates.append(f"{step}={sgd.param_groups[0]['lr']!r}")
        sgd.step()
        for scheduler in by_step:
            scheduler.step()
        if (step + 1) % per_epoch == 0:
            for scheduler in by_epoch:
                scheduler.step()
    print(text, base, per_epoch, steps, *(rates[i] for i in show or range(steps)))


def around(*milestones):
    return [0] + [m + d for m in milestones for d in (-1, 0)]


multi = lambda milestones, gamma: lambda o: ls.MultiStepLR(o, milestones, gamma)
step = lambda size, gamma: lambda o: ls.StepLR(o, size, gamma)
cosine = lambda total, eta_min=0.0: lambda o: ls.CosineAnnealingLR(o, total, eta_min)
onecycle = lambda base, total, **kw: lambda o: ls.OneCycleLR(o, base, total, **kw)
linear = lambda total, start: lambda o: ls.LinearLR(o, start, total_iters=total)
constant = lambda total, factor: lambda o: ls.ConstantLR(o, factor, total)

table("constant", 0.1, 3, 6)
table("multistep:80,110,130@0.1", 0.1, 3, 450, each_epoch=[multi([80, 110, 130], 0.1)],
      show=around(240, 330, 390) + [449])
table("multistep:32000s,48000s@0.1", 0.1, 391, 64000, each_step=[multi([32000, 48000], 0.1)],
      show=around(32000, 48000) + [63999])
table("step:10@0.1", 0.01, 2, 60, each_epoch=[step(10, 0.1)], show=around(20, 40) + [59])
table("step:7s@0.3", 0.7, 5, 40, each_step=[step(7, 0.3)])
table("cosine", 0.1, 5, 30, each_step=[cosine(30)])
table("cosine@0.001", 0.1, 5, 30, each_step=[cosine(30, 0.001)])
table("cosine:epoch@0.001", 0.1, 2, 24, each_epoch=[cosine(12, 0.001)])
table("onecycle", 0.1, 5, 30, each_step=[onecycle(0.1, 30)])
table("onecycle:pct_start=0.4,div_factor=10,final_div_factor=100,anneal=linear", 0.3, 7, 35,
      each_step=[onecycle(0.3, 35, pct_start=0.4, div_factor=10.0, final_div_factor=100.0, anneal_strategy="linear")])
table("onecycle:pct_start=0.25", 0.1, 1, 7, each_step=[onecycle(0.1, 7, pct_start=0.25)])
table("warmup:2@0.2+multistep:4,6@0.1", 0.5, 4, 32, [linear(8, 0.2)], [multi([4, 6], 0.1)])
table("warmup:5s@0.001+cosine", 0.5, 4, 24, [linear(5, 0.001), cosine(24)])
table("hold:400s@0.1+multistep:32000s,48000s@0.1", 0.1, 391, 64000,
      [constant(400, 0.1), multi([32000, 48000], 0.1)], show=around(400, 32000, 48000) + [63999])
