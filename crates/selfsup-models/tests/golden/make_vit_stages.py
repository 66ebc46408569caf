#!/usr/bin/env python3
"""Writes vit_stages.json beside this script: what stands behind the blocks of timm's vision transformers, features and logits, with
weights made by formula.

    pip install torch==2.11.0 timm==1.0.31
    python3 make_vit_stages.py

Weights are those of make_vit.py, the image is one of 224 pixels, which the positional embeddings are for; evaluation, in double precision.
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch
from make_golden import sample, uniform
from make_vit import fill

SIDE, CLASSES = 224, 10
SOME = (0, 5, 11)
BLOCKS = {"vit-tiny-16": range(12), "vit-small-16": SOME, "vit-small-8": SOME, "vit-base-16": SOME, "vit-base-8": SOME}


def main():
    pixels = np.floor(128 + 128 * uniform(SIDE * SIDE * 3, 5)).reshape(1, SIDE, SIDE, 3)
    x = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    golden = {}
    for name, blocks in BLOCKS.items():
        _, size, patch = name.split("-")
        model = timm.create_model(f"vit_{size}_patch{patch}_224", num_classes=CLASSES)
        state = {k: fill(k, list(v.shape)) for k, v in model.state_dict().items()}
        model.load_state_dict(state)
        model = model.double().eval()
        found = {}
        for i in blocks:
            # The class token comes first, and is the features in the end.
            keep = lambda module, args, y, i=i: found.update({str(i): sample(y[:, 1:].contiguous())})
            model.blocks[i].register_forward_hook(keep)
        with torch.no_grad():
            features = model.forward_features(x)
            found["features"] = sample(features[:, 0])
            found["logits"] = sample(model.forward_head(features))
        golden[name] = {"tensors": len(state) - 2, **found}
    Path(__file__).with_name("vit_stages.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
