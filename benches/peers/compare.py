"""PyTorch's side of `selfsup-bench compare`, which starts it and writes to its stdin; see that command's help.

One JSON object a line. At the start the worker writes `{"ready": VERSIONS}`, or `{"missing": MODULE, "error": TEXT}`.

    {"setup": CASE, "peer": "eager"}    {"seconds": of an iteration, "results": [FINGERPRINT, …]}
    {"run": ITERATIONS, "peer": …}      {"seconds": of them all}
    {"clear": true}                     {"cleared": true}

Anything that fails answers `{"error": TEXT}`, and the worker lives on. It ends when stdin does.

A CASE names one of OPERATIONS or STEPS, the tensors that it takes and its parameters. To add an operation, add its
line here, and its row to the table in benches/src/cases.
"""

import argparse
import json
import os
import platform
import sys
import time

# Answers go to the pipe; whatever a library prints goes to stderr.
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


def answer(**fields):
    ANSWERS.write(json.dumps(fields) + "\n")


try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError as error:
    answer(missing=error.name or "torch", error=str(error))
    sys.exit(1)


def batch_norm(x, weight, bias):
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=1e-5)


def batch_norm_groups_relu(x, weight, bias, groups):
    return torch.cat([F.relu(batch_norm(part, weight, bias), inplace=True) for part in x.chunk(groups)])


ACTIVATIONS = {"bias": lambda z: z, "relu": lambda z: F.relu(z, inplace=True), "gelu": F.gelu}


def nt_xent(z1, z2, temperature):
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    n = z.shape[0]
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(n, dtype=torch.bool), float("-inf"))
    positives = (torch.arange(n) + n // 2) % n
    return F.cross_entropy(logits, positives)


class Nothing(torch.autograd.Function):
    """Zeros; x's gradient lies ready."""

    ready = {}

    @staticmethod
    def forward(ctx, x):
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx, dy):
        return Nothing.ready.setdefault(dy.shape, torch.ones_like(dy))


OPERATIONS = {
    "nothing": Nothing.apply,
    "conv2d": lambda x, w, stride, padding, dilation, groups: F.conv2d(x, w, None, stride, padding, dilation, groups),
    # In place where torchvision's networks are.
    "batch_norm_relu": lambda x, weight, bias: F.relu(batch_norm(x, weight, bias), inplace=True),
    "batch_norm_residual_relu": lambda x, weight, bias, residual: F.relu(
        batch_norm(x, weight, bias).add_(residual), inplace=True
    ),
    "max_pool2d": lambda x, kernel, stride, padding: F.max_pool2d(x, kernel, stride, padding),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "softmax": lambda x: F.softmax(x, -1),
    "avg_pool2d": lambda x, kernel, stride, padding, include: F.avg_pool2d(x, kernel, stride, padding, False, include),
    "resize_bilinear": lambda x, size, align_corners: F.interpolate(
        x, size, mode="bilinear", align_corners=align_corners
    ),
    "layer_norm": lambda x, weight, bias, eps: F.layer_norm(x, x.shape[-1:], weight, bias, eps),
    "gelu": lambda x, approximate: F.gelu(x, approximate=approximate),
    "linear": lambda x, weight, bias, activation: ACTIVATIONS[activation](F.linear(x, weight, bias)),
    "conv_transpose2d": lambda x, w, stride, padding: F.conv_transpose2d(x, w, None, stride, padding),
    "batch_norm_groups_relu": batch_norm_groups_relu,
    "nt_xent": nt_xent,
}


def simclr_step(compiled, arch, views, side, temperature, momentum, weight_decay, lr, dtype):
    """A step of SimCLR: u8 images, normalisation, encoder, projector, loss, gradients, SGD."""
    import torchvision

    encoder = getattr(torchvision.models, arch.removesuffix("-cifar"))(weights=None)
    if arch.endswith("-cifar"):
        encoder.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        encoder.maxpool = torch.nn.Identity()
    width = encoder.fc.in_features
    encoder.fc = torch.nn.Identity()
    projector = torch.nn.Sequential(
        torch.nn.Linear(width, width, bias=False),
        torch.nn.BatchNorm1d(width),
        torch.nn.ReLU(inplace=True),
        torch.nn.Linear(width, 128, bias=False),
        torch.nn.BatchNorm1d(128),
    )
    model = torch.nn.Sequential(encoder, projector).to(memory_format=torch.channels_last).train()
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)
    images = torch.from_numpy((uniform([views, side, side, 3], 0) * 256 + 128).astype(np.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def loss(images):
        x = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            z = model(x).float()
        return nt_xent(z[: views // 2], z[views // 2 :], temperature)

    if compiled:
        loss = torch.compile(loss, dynamic=False)

    def step():
        optimizer.zero_grad()
        loss(images).backward()
        optimizer.step()

    return step, lambda: []


def features(compiled, arch, images, side):
    """Features in evaluation: u8 images, normalisation, network without its last layer."""
    if arch.startswith("vit"):
        import timm

        name = {"vit-small-16": "vit_small_patch16_224"}[arch]
        model = timm.create_model(name, pretrained=False, num_classes=0)
    else:
        import torchvision

        model = getattr(torchvision.models, arch)(weights=None)
        model.fc = torch.nn.Identity()
    model = model.to(memory_format=torch.channels_last).eval()
    pixels = torch.from_numpy((uniform([images, side, side, 3], 0) * 256 + 128).astype(np.uint8))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def forward(pixels):
        return model(((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2))

    if compiled:
        forward = torch.compile(forward, dynamic=False)
    return torch.inference_mode()(lambda: forward(pixels)), lambda: []


STEPS = {"features": features, "simclr_step": simclr_step}


def uniform(shape, stream):
    """Numbers in ±0.5 that both sides make alike: a hash of the index (Wellons's lowbias32)."""
    with np.errstate(over="ignore"):
        h = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(stream * 0x9E3779B9 & 0xFFFFFFFF)
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
        h ^= h >> np.uint32(16)
    return ((h >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)).reshape(shape)


def tensor(stream, declared):
    """An input as declared. Images come as NHWC and weights as HWIO, and become channels_last."""
    order = {"plain": None, "nhwc": (0, 3, 1, 2), "hwio": (3, 2, 0, 1)}[declared["layout"]]
    t = torch.from_numpy(uniform(declared["shape"], stream))
    if order:
        t = t.permute(order).contiguous(memory_format=torch.channels_last)
    return t.requires_grad_(declared["variable"])


def fingerprint(t):
    t = t.detach().double()
    return {"elements": t.numel(), "sum": t.sum().item(), "absolute": t.abs().sum().item()}


def function(case, compiled):
    """An operation on its inputs: an iteration, and the fingerprints of its results."""
    inputs = [tensor(i, declared) for i, declared in enumerate(case["inputs"])]
    variables = [t for t in inputs if t.requires_grad]
    operation, parameters = OPERATIONS[case["operation"]], case["parameters"]

    def forward():
        return operation(*inputs, **parameters)

    if compiled:
        forward = torch.compile(forward, dynamic=False)
    if not case["backward"]:
        iteration = torch.no_grad()(forward)
        return iteration, lambda: [iteration()]
    seed = torch.ones_like(forward().detach())

    def iteration():
        return torch.autograd.grad(forward(), variables, seed)

    return iteration, lambda: [forward(), *iteration()]


def setup(case, peer):
    compiled = peer == "compiled"
    if compiled:
        # Otherwise a second shape of one function would be compiled for any shape.
        torch._dynamo.reset()
    if case["operation"] in STEPS:
        iteration, results = STEPS[case["operation"]](compiled, **case["parameters"])
    else:
        iteration, results = function(case, compiled)
    found = [fingerprint(t) for t in results()]
    iteration()
    return iteration, found


def seconds(iteration, count):
    start = time.perf_counter()
    for _ in range(count):
        iteration()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, required=True)
    threads = parser.parse_args().threads
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    answer(ready={**versions, "threads": str(torch.get_num_threads()), "capability": torch.backends.cpu.get_cpu_capability()})
    iterations = {}
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if "setup" in request:
                iteration, found = setup(request["setup"], request["peer"])
                iterations[request["peer"]] = iteration
                answer(seconds=seconds(iteration, 1), results=found)
            elif "run" in request:
                iteration = iterations[request["peer"]]
                seconds(iteration, request.get("warm_up", 0))
                answer(seconds=seconds(iteration, request["run"]))
            elif "clear" in request:
                iterations.clear()
                answer(cleared=True)
            else:
                answer(error=f"unknown request: {line.strip()}")
        except Exception as error:  # a case that fails must not end the others
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
