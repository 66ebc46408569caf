"""NT-Xent forward and backward by lightly, beside `cargo bench --bench objectives`.

    python benches/peers/objectives.py        # torch, lightly
"""

import time

import torch
from lightly.loss import NTXentLoss

torch.set_num_threads(2)
for views in (256, 1024, 4096):
    z1, z2 = (torch.rand(views // 2, 128).sub_(0.5).requires_grad_() for _ in range(2))
    loss = NTXentLoss(temperature=0.5)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        loss(z1, z2).backward()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    print(f"{views:5} views: best {times[0]:7.1f} ms, median {times[len(times) // 2]:7.1f} ms", flush=True)
