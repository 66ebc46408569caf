"""Writes optimizers.json: eight steps of each optimiser on given gradients, in float64.

SGD and AdamW are torch.optim's. LARS is written out below from SimCLR's definition, in numpy; a further case
runs lightly's LARS where the two definitions agree (constant rate, negligible decay).

    python make_golden.py        # torch, numpy, lightly
"""

import json
from pathlib import Path

import numpy as np
import torch
from lightly.utils.lars import LARS

SHAPES = {"weight": [3, 4], "kernel": [2, 2, 3], "zeros": [2, 3], "bias": [5]}
STEPS = 8
# Up, down, and once zero.
LRS = [0.05, 0.1, 0.1, 0.08, 0.05, 0.0, 0.03, 0.01]

rng = np.random.default_rng(0)
START = {k: rng.normal(size=s) * (k != "zeros") for k, s in SHAPES.items()}
GRADS = [{k: rng.normal(size=s) * 0.5 for k, s in SHAPES.items()} for _ in range(STEPS)]
GRADS[0]["zeros"] *= 0  # both norms zero
GRADS[2]["kernel"] *= 0  # only the gradient zero


def exempt(name):
    return len(SHAPES[name]) <= 1


def torch_run(make, decay, lrs):
    """Parameters after each step; rank-1 tensors are a group without decay."""
    params = {k: torch.tensor(v, requires_grad=True) for k, v in START.items()}
    groups = [
        {"params": [p for k, p in params.items() if not exempt(k)], "weight_decay": decay},
        {"params": [p for k, p in params.items() if exempt(k)], "weight_decay": 0.0},
    ]
    optimizer = make(groups, lrs[0])
    after = []
    for lr, grads in zip(lrs, GRADS):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for k, p in params.items():
            p.grad = torch.tensor(grads[k])
        optimizer.step()
        after.append({k: p.detach().numpy().copy() for k, p in params.items()})
    return after


def lars_run(momentum, decay, trust, lrs):
    """SimCLR's lars_optimizer.py: decay first, norm of the decayed gradient, rate inside the buffer."""
    params = {k: v.copy() for k, v in START.items()}
    velocity = {k: np.zeros(s) for k, s in SHAPES.items()}
    after = []
    for lr, grads in zip(lrs, GRADS):
        for k, p in params.items():
            update, ratio = grads[k], 1.0
            if not exempt(k):
                update = update + decay * p
                p_norm, u_norm = np.linalg.norm(p), np.linalg.norm(update)
                if p_norm > 0 and u_norm > 0:
                    ratio = trust * p_norm / u_norm
            velocity[k] = momentum * velocity[k] + lr * ratio * update
            params[k] = p - velocity[k]
        after.append({k: v.copy() for k, v in params.items()})
    return after


def case(name, config, after, lrs=LRS):
    flat = [{k: v.ravel().tolist() for k, v in step.items()} for step in after]
    return {"case": name, "config": config, "lrs": lrs, "after": flat}


def sgd(name, momentum, nesterov, decay):
    after = torch_run(
        lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov), decay, LRS
    )
    config = {"name": "sgd", "lr": 0.1, "momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    return case(name, config, after)


def adamw(name, beta1, beta2, eps, decay):
    after = torch_run(
        lambda groups, lr: torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), eps=eps), decay, LRS
    )
    config = {"name": "adamw", "lr": 0.1, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": decay}
    return case(name, config, after)


def lars(name, momentum, decay, trust):
    config = {"name": "lars", "lr": 0.1, "momentum": momentum, "weight_decay": decay, "trust_coefficient": trust}
    return case(name, config, lars_run(momentum, decay, trust, LRS))


def lars_lightly(name, momentum=0.9, trust=0.02):
    """lightly adapts only where it decays, so it gets a decay too small to show; and it has eps = 1e-8 in the
    ratio's denominator, so the two agree to about 1e-7."""
    lrs = [0.1] * STEPS
    after = torch_run(
        lambda groups, lr: LARS(groups, lr=lr, momentum=momentum, trust_coefficient=trust), 1e-15, lrs
    )
    config = {"name": "lars", "lr": 0.1, "momentum": momentum, "weight_decay": 0.0, "trust_coefficient": trust}
    return case(name, config, after, lrs)


cases = [
    sgd("sgd", 0.0, False, 0.0),
    sgd("sgd, decay", 0.0, False, 0.1),
    sgd("sgd, momentum, decay", 0.9, False, 0.1),
    sgd("sgd, nesterov, decay", 0.9, True, 0.1),
    adamw("adamw, defaults", 0.9, 0.999, 1e-8, 0.01),
    adamw("adamw, others", 0.8, 0.95, 1e-3, 0.3),
    lars("lars, simclr", 0.9, 1e-6, 0.001),
    lars("lars, strong", 0.8, 0.2, 0.1),
    lars_lightly("lars, lightly"),
]
golden = {
    "params": [
        {"name": k, "shape": s, "values": START[k].ravel().tolist()} for k, s in SHAPES.items()
    ],
    "grads": [{k: v.ravel().tolist() for k, v in g.items()} for g in GRADS],
    "cases": cases,
}
Path(__file__).with_name("optimizers.json").write_text(json.dumps(golden, indent=None) + "\n")
