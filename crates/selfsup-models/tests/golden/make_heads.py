#!/usr/bin/env python3
"""Writes heads.json beside this script: logits of networks with their own classifiers, as PyTorch computes them.

    pip install torch==2.11.0 torchvision==0.26.0 timm==1.0.31 transformers==5.24.0
    python3 make_heads.py

Weights and images are made as in make_golden.py, filled by the names and shapes that each library has; evaluation, in double precision.
Transformers' names are those of its files.
"""

import json
import tempfile
from pathlib import Path

import timm
import torch
import torchvision
from make_golden import BATCH, fill, sample, uniform
from safetensors.torch import load_file, save_file
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

CLASSES = 7


def saved(model):
    """A transformers model's tensors by the names in its files."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def refill(model, state):
    """The model as it reads other tensors from its file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        save_file(state, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        return type(model).from_pretrained(folder)


def main():
    basic = ResNetConfig(embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=CLASSES)
    vit = dict(img_size=32, patch_size=4, embed_dim=96, depth=6, num_heads=3)
    small = ViTConfig(
        image_size=32,
        patch_size=4,
        hidden_size=96,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=384,
        layer_norm_eps=1e-6,
        num_labels=CLASSES,
    )
    models = {
        "torchvision resnet18 40": torchvision.models.resnet18(num_classes=CLASSES),
        "timm vit-mini-cifar 32": timm.models.vision_transformer.VisionTransformer(**vit, num_classes=CLASSES, global_pool="token"),
        "hf-resnet resnet18 40": ResNetForImageClassification(basic),
        "hf-vit vit-mini-cifar 32": ViTForImageClassification(small),
    }
    golden = {}
    for key, model in models.items():
        convention, _, side = key.split()
        side = int(side)
        names = saved(model) if convention.startswith("hf") else model.state_dict()
        state = {n: fill(n, t) for n, t in names.items() if not n.endswith("num_batches_tracked")}
        if convention.startswith("hf"):
            counters = {n: t for n, t in names.items() if n.endswith("num_batches_tracked")}
            model = refill(model, state | counters)
        else:
            model.load_state_dict(state, strict=False)
        model = model.double().eval()
        pixels = torch.from_numpy((128 + 128 * uniform(BATCH * side * side * 3, 5)).astype("uint8"))
        x = (pixels.reshape(BATCH, side, side, 3).permute(0, 3, 1, 2).double() / 255 - 0.5) / 0.25
        with torch.no_grad():
            logits = model(x)
        logits = logits.logits if hasattr(logits, "logits") else logits
        golden[key] = {"shapes": {n: list(t.shape) for n, t in state.items()}, "logits": sample(logits)}
    Path(__file__).with_name("heads.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
