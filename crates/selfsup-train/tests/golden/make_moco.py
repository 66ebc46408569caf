#!/usr/bin/env python3
"""Writes moco.json beside this script: two updates of MoCo, transcribed from algorithm 1 of arXiv:1911.05722.

    pip install torch==2.11.0
    python3 make_moco.py

The network is `resnet10-mini`. Weights, queue and images come from a counter, as in the golden file of selfsup-models: element i
of the tensor called NAME is the finaliser of SplitMix64 at (sum of NAME's bytes)·2³² + i, as a uniform number in [−1, 1),
scaled by `fill`. The keys are shuffled as the Rust side draws it, in ORDERS; all else is the paper's. In double precision.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

SIDE, BATCH, GROUPS, QUEUE, WIDTH, OUT = 20, 8, 2, 16, 32, 12
TEMPERATURE, MOMENTUM, LR, SGD_MOMENTUM, DECAY = 0.2, 0.9, 0.05, 0.9, 1e-2
# Of seed 0, steps 0, 1 and 2, view 1: the image that is encoded at each place.
ORDERS = [[7, 6, 3, 2, 5, 4, 0, 1], [3, 0, 5, 6, 7, 1, 4, 2], [3, 0, 1, 6, 5, 4, 2, 7]]


def uniform(count, key):
    z = np.arange(count, dtype=np.uint64) + (np.uint64(key) << np.uint64(32))
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0


def fill(name, shape):
    values = uniform(int(np.prod(shape)), sum(name.encode()))
    if len(shape) == 1:
        values = (1 if name.endswith("weight") else 0) + 0.2 * values
    else:
        values = values * (6 / np.prod(shape[1:])) ** 0.5
    return torch.from_numpy(values).float().double().reshape(shape)


def declare():
    """Name and shape of every parameter, torchvision's and then the head's."""
    shapes = {"encoder.conv1.weight": [WIDTH, 3, 3, 3], "encoder.bn1.weight": [WIDTH], "encoder.bn1.bias": [WIDTH]}
    c = WIDTH
    for stage in range(4):
        k, name = WIDTH << stage, f"encoder.layer{stage + 1}.0."
        for i, fan in ((1, c), (2, k)):
            shapes[f"{name}conv{i}.weight"] = [k, fan, 3, 3]
            shapes |= {f"{name}bn{i}.{part}": [k] for part in ("weight", "bias")}
        if stage:
            shapes[f"{name}downsample.0.weight"] = [k, c, 1, 1]
            shapes |= {f"{name}downsample.1.{part}": [k] for part in ("weight", "bias")}
        c = k
    shapes |= {"projector.0.weight": [c, c], "projector.0.bias": [c]}
    return shapes | {"projector.1.weight": [OUT, c], "projector.1.bias": [OUT]}


def batch_norm(x, p, name):
    """Each group by its own statistics."""
    parts = x.chunk(GROUPS)
    return torch.cat([F.batch_norm(part, None, None, p[f"{name}.weight"], p[f"{name}.bias"], True) for part in parts])


def embed(p, images):
    x = ((images.double() / 255 - 0.5) / 0.25).permute(0, 3, 1, 2)
    x = F.relu(batch_norm(F.conv2d(x, p["encoder.conv1.weight"], stride=2, padding=1), p, "encoder.bn1"))
    for stage in range(4):
        name, stride = f"encoder.layer{stage + 1}.0", 2 if stage else 1
        y = F.conv2d(x, p[f"{name}.conv1.weight"], stride=stride, padding=1)
        y = F.relu(batch_norm(y, p, f"{name}.bn1"))
        y = batch_norm(F.conv2d(y, p[f"{name}.conv2.weight"], padding=1), p, f"{name}.bn2")
        if stage:
            x = batch_norm(F.conv2d(x, p[f"{name}.downsample.0.weight"], stride=2), p, f"{name}.downsample.1")
        x = F.relu(x + y)
    h = F.relu(F.linear(x.mean((2, 3)), p["projector.0.weight"], p["projector.0.bias"]))
    return F.linear(h, p["projector.1.weight"], p["projector.1.bias"])


def sample(tensor):
    """A handful of numbers all over a tensor, and its norm."""
    flat = tensor.detach().double().flatten()
    at = torch.linspace(0, len(flat) - 1, 8).long()
    return {"values": flat[at].tolist(), "norm": flat.norm().item()}


def main():
    f_q = {name: fill(name, shape).requires_grad_() for name, shape in declare().items()}
    f_k = {name: p.detach().clone() for name, p in f_q.items()}
    queue = F.normalize(fill("queue", [QUEUE, OUT]), dim=1)
    groups = [
        {"params": [p for p in f_q.values() if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in f_q.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=SGD_MOMENTUM)
    steps, pointer = [], 0
    for step, order in enumerate(ORDERS):
        x_q, x_k = (
            torch.from_numpy(
                np.floor(128 + 128 * uniform(BATCH * SIDE * SIDE * 3, 10 * step + view)).astype(np.uint8)
            ).reshape(BATCH, SIDE, SIDE, 3)
            for view in (1, 2)
        )
        q = F.normalize(embed(f_q, x_q), dim=1)
        with torch.no_grad():
            k = torch.empty_like(q)
            k[order] = F.normalize(embed(f_k, x_k[order]), dim=1)
        l_pos = (q * k).sum(1, keepdim=True)
        l_neg = q @ queue.T
        logits = torch.cat([l_pos, l_neg], dim=1) / TEMPERATURE
        loss = F.cross_entropy(logits, torch.zeros(BATCH, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, p in f_k.items():
                p.mul_(MOMENTUM).add_(f_q[name], alpha=1 - MOMENTUM)
        queue[pointer : pointer + BATCH] = k
        pointer = (pointer + BATCH) % QUEUE
        names = ["encoder.conv1.weight", "encoder.layer3.0.bn1.bias", "encoder.layer4.0.conv2.weight", "projector.1.weight"]
        steps.append(
            {
                "loss": loss.item(),
                "pointer": pointer,
                "queue": sample(queue),
                "query": {name: sample(f_q[name]) for name in names},
                "key": {name: sample(f_k[name]) for name in names},
            }
        )
    Path(__file__).with_name("moco.json").write_text(json.dumps({"orders": ORDERS, "steps": steps}, indent=1) + "\n")


if __name__ == "__main__":
    main()
