#!/usr/bin/env python3
"""Writes names.json beside this script: the names and shapes of small models' tensors as the libraries themselves have them.

    pip install torch==2.11.0 torchvision==0.26.0 timm==1.0.31 lightly==1.6.0 transformers==5.24.0
    python3 make_names.py
"""

import json
import tempfile
from pathlib import Path

import timm
import torch
import torchvision
from safetensors.torch import load_file
from lightly.models.modules import SimCLRProjectionHead
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel, ViTConfig, ViTForImageClassification, ViTModel


class Lightly(torch.nn.Module):
    """As in lightly's examples."""

    def __init__(self):
        super().__init__()
        resnet = torchvision.models.resnet18()
        self.backbone = torch.nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = SimCLRProjectionHead(512, 512, 128)


def main():
    basic = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    bottleneck = ResNetConfig(depths=[3, 4, 6, 3])
    small = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    models = {
        "torchvision resnet18": torchvision.models.resnet18(),
        "timm resnet18": timm.create_model("resnet18"),
        "timm resnet50": timm.create_model("resnet50"),
        "timm wide_resnet50_2": timm.create_model("wide_resnet50_2"),
        "timm vit-tiny-16": timm.create_model("vit_tiny_patch16_224"),
        "lightly resnet18": Lightly(),
        "hf-resnet resnet18": ResNetModel(basic),
        "hf-resnet resnet50": ResNetForImageClassification(bottleneck),
        "hf-vit-5 vit-tiny-16": ViTModel(small),
        "hf-vit-5 vit-tiny-16 head": ViTForImageClassification(small),
    }
    states = {key: model.state_dict() for key, model in models.items()}
    # transformers 5 has other names in memory than in its files.
    for key, of in (("hf-vit vit-tiny-16", "hf-vit-5 vit-tiny-16"), ("hf-vit vit-tiny-16 head", "hf-vit-5 vit-tiny-16 head")):
        with tempfile.TemporaryDirectory() as folder:
            models[of].save_pretrained(folder)
            states[key] = load_file(Path(folder) / "model.safetensors")
    names = {key: {n: list(t.shape) for n, t in state.items()} for key, state in states.items()}
    Path(__file__).with_name("names.json").write_text(json.dumps(names) + "\n")


if __name__ == "__main__":
    main()
