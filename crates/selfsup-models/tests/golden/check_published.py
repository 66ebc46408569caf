#!/usr/bin/env python3
"""Holds a published folder, ours or another's, against PyTorch: features by timm or transformers, from its files alone, against selfsup's own.

    pip install torch==2.11.0 torchvision==0.26.0 timm==1.0.31 transformers==5.24.0
    selfsup publish RUN --out FOLDER
    selfsup embed FOLDER --data IMAGES --out features.npy
    python3 check_published.py FOLDER IMAGES features.npy

IMAGES is a folder of images. Fails above 1e-4 of the features' root mean square where no preparation resizes them, PNGs of the encoder's own
size; above 1e-2 where one does: a level may be rounded the other way. (transformers' own crop of an odd rest lies a pixel beside timm's and
torchvision's, which is ours: features of such images differ by more.)
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

AS_THEY_ARE, RESIZED = 1e-4, 1e-2


def main():
    folder, images, features = sys.argv[1], Path(sys.argv[2]), np.load(sys.argv[3])
    ids = Path(sys.argv[3]).with_suffix(".ids.txt").read_text().split("\n")[:-1]
    pictures = [Image.open(images / name).convert("RGB") for name in ids]
    config = json.loads((Path(folder) / "config.json").read_text())
    with torch.no_grad():
        if "architecture" in config:
            import timm

            model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
            theirs = model(torch.stack([transform(picture) for picture in pictures]))
            shown = transform
            library = f"timm {timm.__version__}"
        else:
            import transformers

            processor = transformers.AutoImageProcessor.from_pretrained(folder)
            shown = lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0]
            model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
            out = model(**processor(pictures, return_tensors="pt"))
            vit = config["model_type"] == "vit"
            theirs = out.last_hidden_state[:, 0] if vit else out.pooler_output.flatten(1)
            library = f"transformers {transformers.__version__}, {type(model).__name__}"
    side = shown(pictures[0]).shape[-1]
    tolerance = AS_THEY_ARE if all(picture.size == (side, side) for picture in pictures) else RESIZED
    theirs = theirs.numpy().astype(np.float64)
    rms = np.sqrt((theirs**2).mean())
    worst = np.abs(theirs - features).max() / rms
    print(f"{folder}: {library}: {theirs.shape}, worst difference {worst:.1e} of the root mean square {rms:.3f}")
    if not worst < tolerance:
        sys.exit("they differ")


if __name__ == "__main__":
    main()
