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
from make_convnets import alexnet, rotnet as rotnet_model, sobel
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


class Named(torch.nn.Module):
    """A network of children under names of one's own."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)


def deepcluster():
    """As a checkpoint of facebookresearch/deepcluster has it (main.py, models/alexnet.py)."""
    features = torch.nn.DataParallel(alexnet((96, 256, 384, 384, 256), channels=2))
    classifier = torch.nn.Sequential(*[torch.nn.Identity()] * 7)
    classifier[1], classifier[4] = torch.nn.Linear(256 * 36, 4096), torch.nn.Linear(4096, 4096)
    net = Named(features=features, classifier=classifier, top_layer=torch.nn.Linear(4096, 10000), sobel=sobel())
    return Named(state_dict_=net)


def rotnet():
    """As one of gidariss/FeatureLearningRotNet has it (algorithms/Algorithm.py, architectures/AlexNet.py)."""
    net = rotnet_model()
    layers, blocks = list(net.features), []
    while layers:
        size = 3 if isinstance(layers[0], torch.nn.Conv2d) else 1
        block, layers = layers[:size], layers[size:]
        blocks.append(torch.nn.Sequential(*block) if size == 3 else block[0])
    blocks += [torch.nn.Sequential(*part) for part in (list(net.classifier)[:7], list(net.classifier)[7:])]
    return Named(network=Named(_feature_blocks=torch.nn.ModuleList(blocks)))


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
    with torch.device("meta"):  # of which there is nothing but shapes
        models |= {
            "torchvision alexnet": torchvision.models.alexnet(),
            "torchvision vgg16": torchvision.models.vgg16(init_weights=False),
            "torchvision vgg16_bn": torchvision.models.vgg16_bn(init_weights=False),
            "rotnet alexnet_bn": rotnet(),
        }
    models["deepcluster alexnet_2012_bn_sobel"] = deepcluster()
    states = {key: model.state_dict() for key, model in models.items()}
    # transformers 5 has other names in memory than in its files.
    for key, of in (("hf-vit vit-tiny-16", "hf-vit-5 vit-tiny-16"), ("hf-vit vit-tiny-16 head", "hf-vit-5 vit-tiny-16 head")):
        with tempfile.TemporaryDirectory() as folder:
            models[of].save_pretrained(folder)
            states[key] = load_file(Path(folder) / "model.safetensors")
    names = {key: {n.replace("state_dict_.", "state_dict."): list(t.shape) for n, t in state.items()} for key, state in states.items()}
    Path(__file__).with_name("names.json").write_text(json.dumps(names) + "\n")


if __name__ == "__main__":
    main()
