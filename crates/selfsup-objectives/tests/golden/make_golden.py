"""Writes contrastive.json: lightly's NTXentLoss (value and gradients) and the measures of collapse by lightly
and numpy, in float64.

    python make_golden.py        # torch, numpy, lightly
"""

import json
from pathlib import Path

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.utils.debug import std_of_l2_normalized

rng = np.random.default_rng(0)


def nt_xent(n, d, temperature, spread):
    """Embeddings of very different lengths; the views of an image are alike to the degree that spread is small."""
    image = rng.normal(size=(n, d))
    views = [(image + spread * rng.normal(size=(n, d))) * rng.uniform(0.1, 10, size=(n, 1)) for _ in range(2)]
    z1, z2 = (torch.tensor(v, requires_grad=True) for v in views)
    loss = NTXentLoss(temperature=temperature)(z1, z2)
    loss.backward()
    flat = lambda t: t.detach().numpy().ravel().tolist()
    return {
        "n": n,
        "d": d,
        "temperature": temperature,
        "z1": flat(z1),
        "z2": flat(z2),
        "loss": loss.item(),
        "dz1": flat(z1.grad),
        "dz2": flat(z2.grad),
    }


def measures(z):
    n, d = z.shape
    # lightly divides by n - 1 within the root and leaves out the root of d.
    std = std_of_l2_normalized(torch.tensor(z)).item() * np.sqrt(d * (n - 1) / n)
    sigma = np.linalg.svd(z, compute_uv=False)
    p = sigma / sigma.sum()
    p = p[p > 0]
    return {
        "n": n,
        "d": d,
        "z": z.ravel().tolist(),
        "embedding_std": std,
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
    }


golden = {
    "nt_xent": [
        nt_xent(4, 8, 0.5, 0.5),
        nt_xent(1, 3, 0.5, 1.0),
        nt_xent(2, 1, 0.2, 1.0),
        nt_xent(7, 16, 0.07, 1.0),
        nt_xent(9, 5, 0.1, 0.1),
    ],
    "measures": [
        measures(rng.normal(size=(12, 5))),
        measures(rng.normal(size=(5, 12))),
        measures(rng.normal(size=(9, 9)) * np.geomspace(1, 1e-3, 9)),
        measures(rng.normal(size=(10, 2)) @ rng.normal(size=(2, 7))),
        measures(1 + 0.01 * rng.normal(size=(8, 6))),
    ],
}
Path(__file__).with_name("contrastive.json").write_text(json.dumps(golden) + "\n")
