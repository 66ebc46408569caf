#!/usr/bin/env python3
"""Pillow's speed at decoding 500x375 JPEGs of four kinds, and the files for `cargo bench --bench data`.

    python benches/peers/decode.py && cargo bench -p selfsup-bench --bench data -- decode

Needs Pillow and NumPy. The files go to `selfsup-jpegs` in the folder for temporary files, where the bench looks for
them. The picture is made of noise at three scales, from a fixed seed, so that it compresses as a busy photograph does.
Each file is timed with `load()`, the decoder alone, and with `convert("RGB")`, as torchvision's image folders read it
(which copies). One thread; the best and the median of 40 runs.
"""

import io
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, __version__

WIDTH, HEIGHT = 500, 375
KINDS = {
    "q75-420": {"quality": 75},
    "q90-420": {"quality": 90},
    "q90-444": {"quality": 90, "subsampling": 0},
    "q90-420-progressive": {"quality": 90, "progressive": True},
}
RUNS, IMAGES = 40, 8


def plane(seed):
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (24, 32)).astype(np.uint8)
    middle = rng.uniform(-30, 30, (94, 125)).astype(np.float32)
    enlarge = lambda a: np.asarray(Image.fromarray(a).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), float)
    return enlarge(coarse) + enlarge(middle) + rng.normal(0, 6, (HEIGHT, WIDTH))


def rates(work):
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        for _ in range(IMAGES):
            work()
        seconds.append((time.perf_counter() - start) / IMAGES)
    return f"best {1 / min(seconds):.0f}/s, median {1 / statistics.median(seconds):.0f}/s"


def main():
    folder = Path(tempfile.gettempdir()) / "selfsup-jpegs"
    folder.mkdir(exist_ok=True)
    picture = np.clip(np.stack([plane(1), plane(2), plane(3)], -1), 0, 255).astype(np.uint8)
    print(f"Pillow {__version__}")
    for name, options in KINDS.items():
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "JPEG", **options)
        data = out.getvalue()
        (folder / f"{name}.jpg").write_bytes(data)
        load = rates(lambda: Image.open(io.BytesIO(data)).load())
        convert = rates(lambda: Image.open(io.BytesIO(data)).convert("RGB"))
        print(f"{name} ({len(data)} bytes): load {load}; convert {convert}")


if __name__ == "__main__":
    main()
