#!/usr/bin/env python3
"""The time from a command to the first features: ResNet-50, two images of 224 pixels, both programs anew each time, in turn.

    pip install torch==2.11.0 torchvision==0.26.0 numpy pillow
    cargo build --release -p selfsup-cli
    python3 benches/peers/first_feature.py target/release/selfsup [--rounds 7]

The weights are random, written by torch.save; the features of both are compared.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PYTORCH = """
import numpy, torch, torchvision
from PIL import Image
model = torchvision.models.resnet50()
model.load_state_dict(torch.load("resnet50.pth"))
model.fc = torch.nn.Identity()
model.eval()
images = numpy.stack([numpy.asarray(Image.open(f"images/{i}.png")) for i in range(2)])
x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
with torch.inference_mode():
    features = model((x - mean[:, None, None]) / std[:, None, None])
numpy.save("theirs.npy", features.numpy())
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("selfsup", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    import numpy as np
    import torch
    import torchvision
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), folder / "resnet50.pth")
        (folder / "images").mkdir()
        for i in range(2):
            pixels = np.random.default_rng(i).integers(0, 256, (224, 224, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        (folder / "theirs.py").write_text(PYTORCH)
        ours = [args.selfsup.resolve(), "embed", "resnet50.pth", "--data", "images", "--out", "ours.npy", "--quiet"]
        times = {"selfsup": [], "pytorch": []}
        for round in range(-1, args.rounds):  # the first warms the disk's cache
            for name, command in (("selfsup", ours), ("pytorch", [sys.executable, "theirs.py"])):
                start = time.perf_counter()
                subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
                if round >= 0:
                    times[name].append(time.perf_counter() - start)
        a, b = np.load(folder / "ours.npy"), np.load(folder / "theirs.npy")
        print(f"worst difference {np.abs(a - b).max():.1e}, root mean square {np.sqrt((b**2).mean()):.2f}")
    for name, seconds in times.items():
        print(f"{name}: median {statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f})")
    ratios = [b / a for a, b in zip(times["selfsup"], times["pytorch"])]
    print(f"ratio: median {statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})")


if __name__ == "__main__":
    main()
