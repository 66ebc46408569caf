#!/usr/bin/env python3
"""Writes positions.json beside this script: timm's resampling of positional embeddings, whose numbers are make_golden.py's `uniform` of key 9.

    pip install torch==2.11.0 torchvision==0.26.0 timm==1.0.31
    python3 make_positions.py
"""

import json
from pathlib import Path

import torch
from make_golden import uniform
from timm.layers import resample_abs_pos_embed

WIDTH = 2


def main():
    golden = {}
    for old, new in ((4, 7), (7, 4), (14, 24), (24, 14), (3, 3)):
        count = (1 + old * old) * WIDTH
        positions = torch.from_numpy(uniform(count, 9)).float().reshape(1, -1, WIDTH)
        golden[f"{old} {new}"] = resample_abs_pos_embed(positions, [new, new]).flatten().tolist()
    Path(__file__).with_name("positions.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
