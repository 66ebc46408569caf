"""Writes two_views.json and dino.json: losses of several views and their gradients by lightly, and MoCo's by its paper's algorithm, in float64.

    python make_two_views.py        # torch, numpy, lightly
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from lightly.loss import BarlowTwinsLoss, DINOLoss, NegativeCosineSimilarity, VICRegLoss

rng = np.random.default_rng(1)


def moco(temperature):
    """Algorithm 1 of arXiv:1911.05722; the queue takes no gradient."""

    def loss(q, k, queue):
        q, k, queue = (F.normalize(z, dim=1) for z in (q, k, queue.detach()))
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ queue.T], dim=1) / temperature
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long))

    return loss


def case(loss, function, parameter, n, d, spread, queue=0):
    """Columns of unlike means and widths; the views of an image are alike to the degree that spread is small."""
    image = rng.normal(size=(n, d)) * rng.uniform(0.1, 2, size=d) + rng.normal(size=d)
    views = [image + spread * rng.normal(size=(n, d)) for _ in range(2)]
    if queue:
        views.append(rng.normal(size=(queue, d)))
    z = [torch.tensor(v, requires_grad=True) for v in views]
    value = function(*z)
    value.backward()
    flat = lambda t: t.detach().numpy().ravel().tolist()
    return {
        "loss": loss,
        "parameter": parameter,
        "n": n,
        "d": d,
        "value": value.item(),
        "z1": flat(z[0]),
        "z2": flat(z[1]),
        "queue": flat(z[2]) if queue else [],
        "dz1": flat(z[0].grad),
        "dz2": flat(z[1].grad),
    }


golden = []
for n, d, spread in [(6, 5, 0.5), (2, 3, 1.0), (9, 12, 0.1)]:
    golden.append(case("negative_cosine", NegativeCosineSimilarity(), None, n, d, spread))
    for scale in (5e-3, 0.5):
        golden.append(case("barlow_twins", BarlowTwinsLoss(lambda_param=scale), scale, n, d, spread))
    for weights in ([25.0, 25.0, 1.0], [1.0, 2.0, 3.0]):
        golden.append(case("vicreg", VICRegLoss(*weights), weights, n, d, spread))
    for temperature, queue in ((0.07, 7), (0.5, 1)):
        golden.append(case("info_nce_queue", moco(temperature), temperature, n, d, spread, queue))
Path(__file__).with_name("two_views.json").write_text(json.dumps(golden) + "\n")


def dino(n, k, views, student_temperature, teacher_temperature):
    """lightly's DINOLoss with a centre that is not 0. It keeps the teacher's temperature in f32, which holds those below."""
    loss = DINOLoss(output_dim=k, student_temp=student_temperature, teacher_temp=teacher_temperature).double()
    loss.center = torch.tensor(rng.normal(size=(1, 1, k)))
    student = [torch.tensor(rng.normal(size=(n, k)), requires_grad=True) for _ in range(views)]
    teacher = [torch.tensor(rng.normal(size=(n, k))) for _ in range(2)]
    centre = loss.center.clone()
    value = loss(teacher, student, teacher_temp=teacher_temperature)
    value.backward()
    flat = lambda ts: [t.detach().numpy().ravel().tolist() for t in ts]
    return {
        "n": n,
        "k": k,
        "temperatures": [student_temperature, teacher_temperature],
        "value": value.item(),
        "student": flat(student),
        "teacher": flat(teacher),
        "centre": centre.numpy().ravel().tolist(),
        "gradients": flat([s.grad for s in student]),
    }


Path(__file__).with_name("dino.json").write_text(
    json.dumps([dino(5, 7, 2, 0.125, 0.0625), dino(3, 4, 5, 0.25, 0.09375), dino(1, 2, 3, 1.0, 1.0)]) + "\n"
)
