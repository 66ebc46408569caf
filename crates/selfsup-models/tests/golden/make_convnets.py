#!/usr/bin/env python3
"""Writes convnets.json beside this script: what AlexNets and VGGs compute with weights made by formula.

    pip install torch==2.11.0 torchvision==0.26.0
    python3 make_convnets.py

Weights and images are those of make_golden.py, everything in double precision. torchvision has three of the networks; the others are
put together here of PyTorch's layers, as gidariss/FeatureLearningRotNet (architectures/AlexNet.py) and facebookresearch/deepcluster
(models/alexnet.py) have them, with torchvision's adaptive pooling, which at their 224 pixels changes nothing. The names
are torchvision's.
"""

import json
from pathlib import Path

import torch
import torchvision
from make_golden import fill, sample, uniform
from torch import nn

CLASSES = 10
BATCH = 2
# Height and width. AlexNet's last maps are 1×1, 2×3 and 4×8, VGG's 2×3, on the way to 6×6 and 7×7.
SIZES = {"alexnet": [(63, 63), (100, 130), (160, 288)], "vgg16": [(64, 96)]}
TRAINED, TRAINED_SIZE, TRAINED_BATCH = "alexnet_bn", (63, 95), 6


def sobel():
    gray, filters = nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 3, padding=1)
    gray.weight.data.fill_(1 / 3)
    filters.weight.data[0, 0] = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
    filters.weight.data[1, 0] = torch.tensor([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])
    gray.bias.data.zero_(), filters.bias.data.zero_()
    return nn.Sequential(gray, filters)


class Net(nn.Module):
    def __init__(self, features, grid, classifier, sobel=None):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(grid), classifier
        self.before = sobel

    def forward(self, x):
        x = x if self.before is None else self.before(x)
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def alexnet(widths, channels=3):
    layers = []
    for i, (k, kernel, stride) in enumerate(zip(widths, (11, 5, 3, 3, 3), (4, 1, 1, 1, 1))):
        layers += [nn.Conv2d(channels, k, kernel, stride, 2 if kernel > 3 else 1), nn.BatchNorm2d(k), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if i in (0, 1, 4) else []
        channels = k
    return nn.Sequential(*layers)


def rotnet():
    layers = [nn.Identity()]  # Flatten
    for c in (256 * 36, 4096):
        layers += [nn.Linear(c, 4096, bias=False), nn.BatchNorm1d(4096), nn.ReLU()]
    return Net(alexnet((64, 192, 384, 256, 256)), 6, nn.Sequential(*layers[:7], nn.Linear(4096, CLASSES)))


def deepcluster(channels):
    classifier = [nn.Identity(), nn.Linear(256 * 36, 4096), nn.ReLU(), nn.Identity(), nn.Linear(4096, 4096), nn.ReLU()]
    features = alexnet((96, 256, 384, 384, 256), channels)
    classifier = nn.Sequential(*classifier, nn.Linear(4096, CLASSES))
    return Net(features, 6, classifier, sobel() if channels == 2 else None)


MODELS = {
    "alexnet": lambda: torchvision.models.alexnet(num_classes=CLASSES),
    "alexnet_bn": rotnet,
    "alexnet_2012_bn": lambda: deepcluster(3),
    "alexnet_2012_bn_sobel": lambda: deepcluster(2),
    "vgg16": lambda: torchvision.models.vgg16(num_classes=CLASSES, init_weights=False),
    "vgg16_bn": lambda: torchvision.models.vgg16_bn(num_classes=CLASSES, init_weights=False),
}


def head_name(state):
    return max((k for k in state if k.startswith("classifier.")), key=lambda k: int(k.split(".")[1])).rpartition(".")[0]


def build(name):
    model = MODELS[name]()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("before.") and not k.endswith("num_batches_tracked")}
    head = head_name(state)
    # The head is called as torchvision calls it, whatever its place.
    as_ours = lambda k: k.replace(head + ".", "classifier.6.") if k.startswith(head + ".") else k
    model.load_state_dict({k: fill(as_ours(k), v) for k, v in state.items()}, strict=False)
    backbone = len([k for k in state if not k.startswith(head + ".")])
    return model.double().eval(), backbone


def images(count, height, width):
    pixels = (128 + 128 * uniform(count * height * width * 3, 5)).astype("uint8")
    pixels = torch.from_numpy(pixels.reshape(count, height, width, 3)).permute(0, 3, 1, 2)
    return (pixels.double() / 255 - 0.5) / 0.25


def stages(model, x):
    """Behind each ReLU, in the order of the layers, and the logits."""
    found = []
    hook = lambda module, args, y: found.append(sample((y.permute(0, 2, 3, 1) if y.dim() == 4 else y).contiguous()))
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
            module.register_forward_hook(hook)
        if isinstance(module, nn.Dropout):
            module.p = 0
    with torch.no_grad():
        logits = model(x)
    return {"layers": found, "logits": sample(logits)}


def trained(name, size):
    model, _ = build(name)
    model.train()
    model.classifier = model.classifier[:-1]
    features = model(images(TRAINED_BATCH, *size))
    (features**2).mean().backward()
    grads = dict(model.named_parameters())
    gradients = [
        "features.0.weight",
        "features.5.weight",
        "features.8.weight",
        "features.14.weight",
        "features.15.bias",
        "classifier.1.weight",
        "classifier.4.weight",
        "classifier.5.bias",
    ]
    running = ["features.1.running_mean", "features.12.running_var", "classifier.2.running_mean", "classifier.5.running_var"]
    after = model.state_dict()
    return {
        "features": sample(features),
        "gradients": {k: sample(grads[k].grad) for k in gradients},
        "running": {k: sample(after[k]) for k in running},
    }


def main():
    golden = {}
    for name in MODELS:
        model, backbone = build(name)
        golden[name] = {"tensors": backbone}
        for size in SIZES[name.partition("_")[0]]:
            for module in model.modules():
                module._forward_hooks.clear()
            golden[name]["%d %d" % size] = stages(model, images(BATCH, *size))
        del model
    golden[TRAINED]["trained"] = trained(TRAINED, TRAINED_SIZE)
    Path(__file__).with_name("convnets.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
