"""NT-Xent forward and backward, beside `cargo bench -p selfsup-bench --bench objectives`: lightly's, the formula in
PyTorch, and the same through torch.compile.

    python benches/peers/objectives.py        # torch, lightly; torch.compile needs a C++ compiler
"""

import sys
import time

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

THREADS, RUNS = 2, 7


def nt_xent(z1, z2, temperature=0.5):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n = z.shape[0]
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(n, dtype=torch.bool), float("-inf"))
    positives = (torch.arange(n) + n // 2) % n
    return F.cross_entropy(logits, positives)


def main():
    torch.set_num_threads(THREADS)
    peers = {"lightly": NTXentLoss(temperature=0.5), "eager": nt_xent, "compiled": torch.compile(nt_xent)}
    print(f"{'views':>6} " + " ".join(f"{name + ' best/median ms':>26}" for name in peers))
    for views in map(int, sys.argv[1:] or (256, 1024, 4096, 8192)):
        z1, z2 = (torch.rand(views // 2, 128).sub_(0.5).requires_grad_() for _ in range(2))
        cells = []
        for loss in peers.values():
            times = []
            for _ in range(RUNS + 2):
                start = time.perf_counter()
                loss(z1, z2).backward()
                times.append((time.perf_counter() - start) * 1e3)
            times = sorted(times[2:])
            cells.append(f"{times[0]:.1f} / {times[len(times) // 2]:.1f}")
        print(f"{views:>6} " + " ".join(f"{cell:>26}" for cell in cells), flush=True)


main()
