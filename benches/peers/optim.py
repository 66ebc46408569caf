"""One optimiser step over a ResNet-18's parameters in PyTorch, beside `cargo bench --bench optim`.

    python benches/peers/optim.py        # torch, lightly
"""

import time

import torch
from lightly.utils.lars import LARS


def resnet18():
    """Weight, scale and shift of every convolution, with the CIFAR stem; gradients of ones."""
    convs = [(3, 3, 64)]
    for c_in, c in [(64, 64), (64, 128), (128, 256), (256, 512)]:
        convs += [(3, c_in, c), (3, c, c), (3, c, c), (3, c, c)]
        if c_in != c:
            convs.append((1, c_in, c))
    params = []
    for k, c_in, c in convs:
        for shape in ((c, c_in, k, k), (c,), (c,)):
            p = torch.full(shape, 0.01, requires_grad=True)
            p.grad = torch.ones(shape)
            params.append(p)
    return params


def report(name, step, runs=30):
    for _ in range(3):
        step()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    times.sort()
    print(f"{name:14} best {times[0]:7.1f} ms, median {times[runs // 2]:7.1f} ms", flush=True)


torch.set_num_threads(2)
params = resnet18()
sgd = dict(lr=1e-9, momentum=0.9, weight_decay=1e-4)
report("sgd", torch.optim.SGD(params, **sgd).step)
report("sgd, fused", torch.optim.SGD(params, **sgd, fused=True).step)
report("lars, lightly", LARS(params, lr=1e-9, momentum=0.9, weight_decay=1e-6).step)
report("adamw", torch.optim.AdamW(params, lr=1e-9).step)
report("adamw, fused", torch.optim.AdamW(params, lr=1e-9, fused=True).step)
report("clip", lambda: torch.nn.utils.clip_grad_norm_(params, 1.0))
