#!/usr/bin/env python3
"""Writes torchvision.json beside this script: what torchvision's ResNets compute with weights made by formula.

    pip install torch==2.11.0 torchvision==0.26.0
    python3 make_golden.py

Weights and images come from a counter, so that the Rust test makes the same ones without a file: element i of the
tensor called NAME is the finaliser of SplitMix64 at (sum of NAME's bytes)·2³² + i, as a uniform number in [−1, 1), then
scaled by its kind (see `fill`). Convolutions are filled in OIHW order. PyTorch then computes in double precision: in single precision its own
gradients of a ResNet-50 in training mode are off by 2 %.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torchvision

IMAGE = 40  # odd enough to leave remainders at each stride
BATCH = 3


def uniform(count, key):
    z = np.arange(count, dtype=np.uint64) + (np.uint64(key) << np.uint64(32))
    z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0


def fill(name, tensor):
    values = uniform(tensor.numel(), sum(name.encode()))
    if name.endswith("running_var"):
        values = 1 + 0.5 * values**2
    elif name.endswith("running_mean"):
        values = 0.1 * values
    elif tensor.dim() == 1:  # scale and shift
        values = (1 if name.endswith("weight") else 0) + 0.2 * values
    else:
        values = values * (6 / tensor[0].numel()) ** 0.5
    return torch.from_numpy(values).float().reshape(tensor.shape)


def build(arch):
    name, _, variant = arch.partition("-")
    model = getattr(torchvision.models, name)()
    model.fc = torch.nn.Identity()
    if variant == "cifar":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    if variant == "v1":  # He et al.'s: the first 1×1 has the stride
        for block in model.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    state = {k: fill(k, v) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    model.load_state_dict(state, strict=False)
    return model.double(), state


def sample(tensor):
    """A handful of numbers all over a tensor, and its norm."""
    flat = tensor.detach().double().flatten()
    at = [(len(flat) - 1) * i // 15 for i in range(16)]
    return {"values": flat[at].tolist(), "norm": flat.norm().item()}


def main():
    pixels = np.floor(128 + 128 * uniform(BATCH * IMAGE * IMAGE * 3, 5)).astype(np.uint8)
    images = torch.from_numpy(pixels.reshape(BATCH, IMAGE, IMAGE, 3)).permute(0, 3, 1, 2)
    x = (images.double() / 255 - 0.5) / 0.25
    golden = {}
    for arch in ["resnet18", "resnet34", "resnet50", "resnet50-v1", "resnet18-cifar", "resnet50-cifar"]:
        model, state = build(arch)
        entry = {"shapes": {k: list(v.shape) for k, v in state.items()}}
        for mode in ["eval", "train"]:
            model.train(mode == "train")
            model.zero_grad()
            features = model(x)
            (features**2).mean().backward()
            grads = dict(model.named_parameters())
            names = ["conv1.weight", "bn1.bias", "layer2.0.downsample.0.weight", "layer4.0.bn2.weight"]
            entry[mode] = {"features": sample(features), "gradients": {n: sample(grads[n].grad) for n in names}}
        after = model.state_dict()
        names = ["bn1.running_mean", "layer3.0.bn1.running_var", "layer4.0.downsample.1.running_var"]
        entry["running"] = {n: sample(after[n]) for n in names}
        golden[arch] = entry
    Path(__file__).with_name("torchvision.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
