"""Three SGD steps on 40,001 values; prints bits, so that the comparison needs no tolerance.

    python sgd.py > sgd.txt        made with torch 2.15.0 (CPU capability AVX2; AVX512 prints the same)

A line: dtype momentum dampening weight_decay nesterov, a hash of all parameters, the bits of the first five
parameters, a hash of all momentum buffers (0 if there are none).
"""
import numpy as np
import torch

N, RATES = 40_001, [0.1, 0.1, 0.01]
CONFIGS = [(0, 0, 0, False), (0, 0, 5e-4, False), (0.9, 0, 0, False), (0.9, 0, 1e-4, False), (0.9, 0.05, 5e-4, False),
           (0.9, 0, 5e-4, True)]


def hashed(words):  # FNV-1a over 64-bit words
    h = 0xCBF29CE484222325
    for w in words:
        h = (h ^ w) * 0x100000001B3 % 2**64
    return h


for dtype, word in [(torch.float32, np.uint32), (torch.float64, np.uint64)]:
    for momentum, dampening, weight_decay, nesterov in CONFIGS:
        i = torch.arange(N, dtype=torch.int64)
        theta = torch.nn.Parameter((((i * 7919) % 1013 - 506) / torch.tensor(512, dtype=dtype)))
        sgd = torch.optim.SGD([theta], momentum=momentum, dampening=dampening, weight_decay=weight_decay,
                              nesterov=nesterov, lr=0.1)
        for step, lr in enumerate(RATES):
            sgd.param_groups[0]["lr"] = lr
            theta.grad = ((i * 104729 + step * 31) % 2003 - 1001) / torch.tensor(1000, dtype=dtype)
            sgd.step()
        bits = theta.detach().numpy().view(word).tolist()
        b = sgd.state[theta].get("momentum_buffer")
        print(str(dtype)[6:], momentum, dampening, weight_decay, str(nesterov).lower(), f"{hashed(bits):016x}",
              ",".join(f"{x:x}" for x in bits[:5]), f"{0 if b is None else hashed(b.numpy().view(word).tolist()):016x}")
