"""SimCLR's augmentation in lightly (PIL), beside selfsup-augment, on one thread.

    cargo build --release -p selfsup-augment --example throughput
    python benches/peers/augment.py [--image PHOTO.jpg] [--rounds 5]

Both sides run in turn, `--rounds` times. The same work: `decode` a 500×375 JPEG; `simclr`: decode it and make
two normalised views of 224×224 with blur; `cifar`: two normalised views of 32×32 without blur from a decoded
image. Without `--image`, scikit-learn's `china.jpg` is cropped and resized to 500×375 at quality 92.
Prints microseconds an image, and the ratios' median and range over the rounds.

lightly 1.6, torch 2.11, torchvision 0.26, Pillow 13 were used for the figures in the book.
"""

import argparse
import io
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

ROOT = pathlib.Path(__file__).parents[2]


def photo():
    from sklearn.datasets import load_sample_image

    path = pathlib.Path(tempfile.mkdtemp()) / "photo.jpg"
    image = Image.fromarray(load_sample_image("china.jpg"))
    image.crop((0, 0, 569, 427)).resize((500, 375), Image.LANCZOS).save(path, quality=92)
    return path


def measure(call, seconds):
    """Mean microseconds a call."""
    call()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call()
        calls += 1
    return (time.perf_counter() - start) * 1e6 / calls


def lightly(data, seconds):
    large = SimCLRTransform(input_size=224)
    small = SimCLRTransform(input_size=32, cj_strength=0.5, gaussian_blur=0.0)
    decode = lambda: Image.open(io.BytesIO(data)).convert("RGB")
    image = decode().crop((62, 0, 437, 375)).resize((32, 32))
    return {
        "decode": measure(decode, seconds),
        "simclr": measure(lambda: large(decode()), seconds),
        "cifar": measure(lambda: small(image), seconds),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "target/release/examples/throughput")
    args = parser.parse_args()
    torch.set_num_threads(1)
    image = args.image or photo()
    data = image.read_bytes()
    rounds = []
    for _ in range(args.rounds):
        theirs = lightly(data, args.seconds)
        ours = json.loads(subprocess.check_output([args.binary, image, str(args.seconds)]))
        rounds.append((theirs, ours))
    print(f"{'':8}{'lightly µs':>12}{'selfsup µs':>12}{'ratio':>8}  range")
    for name in rounds[0][0]:
        theirs, ours = ([r[side][name] for r in rounds] for side in (0, 1))
        ratios = [a / b for a, b in zip(theirs, ours)]
        print(
            f"{name:8}{statistics.median(theirs):12.0f}{statistics.median(ours):12.1f}"
            f"{statistics.median(ratios):8.1f}  {min(ratios):.1f}-{max(ratios):.1f}"
        )


if __name__ == "__main__":
    main()
