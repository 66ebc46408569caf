#!/usr/bin/env python3
"""Writes stages.json beside this script: names, shapes and what stands behind every stage of the deeper and wider torchvision ResNets.

    pip install torch==2.11.0 torchvision==0.26.0
    python3 make_stages.py

Weights and images are those of make_golden.py; evaluation, in double precision.
"""

import json
from pathlib import Path

import torch
from make_golden import BATCH, IMAGE, build, sample, uniform

ARCHS = ["resnet18", "resnet34", "resnet50", "resnet50-v1", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"]


def main():
    pixels = (128 + 128 * uniform(BATCH * IMAGE * IMAGE * 3, 5)).astype("uint8")
    images = torch.from_numpy(pixels.reshape(BATCH, IMAGE, IMAGE, 3)).permute(0, 3, 1, 2)
    x = (images.double() / 255 - 0.5) / 0.25
    golden = {}
    for arch in ARCHS:
        model, state = build(arch)
        model.eval()
        stages = {}
        with torch.no_grad():
            y = model.maxpool(model.relu(model.bn1(model.conv1(x))))
            stages["stem"] = sample(y.permute(0, 2, 3, 1).contiguous())
            for i in range(1, 5):
                y = getattr(model, f"layer{i}")(y)
                stages[f"layer{i}"] = sample(y.permute(0, 2, 3, 1).contiguous())
            stages["features"] = sample(model(x))
        shapes = {k: list(v.shape) for k, v in state.items()}
        golden[arch] = {"shapes": shapes, "stages": stages}
    Path(__file__).with_name("stages.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
