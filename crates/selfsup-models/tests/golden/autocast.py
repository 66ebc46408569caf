#!/usr/bin/env python3
"""Prints how far PyTorch's autocast to bf16 is from f32 in a training pass of ResNet-18: features and gradients, relatively.

    pip install torch==2.11.0 torchvision==0.26.0
    python3 autocast.py

`training_in_bf16_is_near_that_in_f32` in torchvision.rs is held against it.
"""

import torch
import torchvision

torch.manual_seed(0)
model = torchvision.models.resnet18(weights=None)
model.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
model.maxpool = model.fc = torch.nn.Identity()
model = model.to(memory_format=torch.channels_last).train()


def run(x, bf16):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = model(x).float()
    features.square().sum().backward()
    return features.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


for seed in range(4):
    torch.manual_seed(seed)
    x = (torch.randint(0, 256, (8, 3, 16, 16)).float() / 255 - 0.5) / 0.25
    pairs = zip(run(x, False), run(x, True))
    print([f"{((wide - narrow).norm() / wide.norm()).item():.3f}" for wide, narrow in pairs])
