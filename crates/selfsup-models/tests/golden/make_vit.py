#!/usr/bin/env python3
"""Writes vit.json beside this script: what timm's vision transformer computes with weights made by formula.

    pip install torch==2.11.0 timm==1.0.31
    python3 make_vit.py

The network is `vit-mini-cifar`; numbers are made as in make_golden.py, and PyTorch computes in double precision. Images of 32 pixels are the
positional embeddings' own; the smaller ones get them resized bilinearly, which here is PyTorch's interpolation, as timm has a
bicubic one.
"""

import json

import numpy as np
import timm
import torch
import torch.nn.functional as F
from make_golden import sample, uniform
from pathlib import Path

BATCH = 3


def fill(name, shape):
    values = uniform(int(np.prod(shape)), sum(name.encode()))
    if len(shape) == 1:
        values = (1 if name.endswith("weight") else 0) + 0.2 * values
    else:
        values = values * (6 / np.prod(shape[1:])) ** 0.5
    return torch.from_numpy(values).float().double().reshape(shape)


def build(side):
    model = timm.models.vision_transformer.VisionTransformer(
        img_size=side, patch_size=4, embed_dim=96, depth=6, num_heads=3, num_classes=0, global_pool="token"
    ).double()
    full = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=3, num_classes=0, global_pool="token"
    )
    state = {name: fill(name, list(p.shape)) for name, p in full.state_dict().items()}
    shapes = {name: list(p.shape) for name, p in state.items()}
    grid = side // 4
    patches = state["pos_embed"][:, 1:].reshape(1, 8, 8, 96).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bilinear", align_corners=False)
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], patches.permute(0, 2, 3, 1).reshape(1, -1, 96)], 1)
    model.load_state_dict(state)
    return model.train(), shapes


def main():
    golden = {"timm": timm.__version__}
    for side in (32, 20):
        model, golden["shapes"] = build(side)
        pixels = np.floor(128 + 128 * uniform(BATCH * side * side * 3, 5)).astype(np.uint8)
        images = torch.from_numpy(pixels.reshape(BATCH, side, side, 3)).permute(0, 3, 1, 2)
        features = model((images.double() / 255 - 0.5) / 0.25)
        (features**2).mean().backward()
        grads = dict(model.named_parameters())
        names = ["patch_embed.proj.weight", "cls_token", "blocks.2.attn.qkv.weight", "blocks.5.mlp.fc1.bias", "norm.weight"]
        golden[str(side)] = {"features": sample(features), "gradients": {n: sample(grads[n].grad) for n in names}}
    Path(__file__).with_name("vit.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
