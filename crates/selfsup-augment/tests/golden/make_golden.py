"""Makes the golden images that tests/golden.rs compares with.

    python make_golden.py        (torchvision 0.26, Pillow 13; any machine gives the same files)

`source.png` is a small synthetic picture; each case of `cases.json` names an operation with its parameters,
the file with the reference's result, and which backend of torchvision made it: `pil` (8-bit arithmetic of
Pillow) or `tensor` (torchvision.transforms.v2 on uint8 tensors).
"""

import json
import pathlib

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

HERE = pathlib.Path(__file__).parent
WIDTH, HEIGHT = 45, 37
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def source():
    """Smooth colour with hard edges, plain and extreme areas and some noise."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    image = np.stack([255 * x / (WIDTH - 1), 255 * y / (HEIGHT - 1), 127 + 120 * np.sin(x / 4) * np.cos(y / 5)], -1)
    image[5:15, 5:17] = [250, 30, 40]
    image[8:20, 14:26] = [0, 0, 0]
    image[20:30, 28:40] = [255, 255, 255]
    image[22:34, 3:13] = [90, 90, 90]
    image[25:28, 10:38] = [20, 200, 230]
    image[:, 40:] += rng.normal(0, 60, image[:, 40:].shape)
    image[30:] += rng.normal(0, 25, image[30:].shape)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def cases():
    for factor in (0.3, 1.7):
        yield "brightness", "pil", {"factor": factor}, lambda i, factor: F.adjust_brightness(i, factor)
    for factor in (0.0, 0.35, 1.8):
        yield "contrast", "pil", {"factor": factor}, lambda i, factor: F.adjust_contrast(i, factor)
        yield "saturation", "pil", {"factor": factor}, lambda i, factor: F.adjust_saturation(i, factor)
    for turn in (-0.5, -0.2, 0.07, 0.5):
        yield "hue", "tensor", {"turn": turn}, lambda i, turn: F.adjust_hue(i, turn)
    yield "chain", "pil", {"factors": [0.7, 1.4, 1.3]}, lambda i, factors: F.adjust_saturation(
        F.adjust_contrast(F.adjust_brightness(i, factors[0]), factors[1]), factors[2]
    )
    yield "grayscale", "pil", {}, lambda i: F.rgb_to_grayscale(i, num_output_channels=3)
    for threshold in (0, 128, 255):
        yield "solarize", "pil", {"threshold": threshold}, lambda i, threshold: F.solarize(i, threshold)
    for kernel_size, sigma in ((3, 0.5), (9, 1.3), (23, 2.0), (23, 0.1), (35, 6.0)):
        yield "blur", "tensor", {"kernel_size": kernel_size, "sigma": sigma}, lambda i, kernel_size, sigma: (
            F.gaussian_blur(i, [kernel_size, kernel_size], [sigma, sigma])
        )
    yield "flip", "pil", {}, F.horizontal_flip
    for name in MODES:
        for box, size in (((3, 2, 31, 40), [16, 16]), ((6, 9, 11, 8), [24, 24]), ((0, 0, 37, 45), [11, 29])):
            yield "resized_crop", "pil", {"box": box, "size": size, "interpolation": name}, lambda i, box, size, interpolation: (
                F.resized_crop(i, *box, size=size, interpolation=MODES[interpolation], antialias=True)
            )
    for size in (20, 50):
        yield "resize", "pil", {"size": size}, lambda i, size: F.resize(i, [size], antialias=True)
    for size in (21, 30):
        yield "center_crop", "pil", {"size": size}, lambda i, size: F.center_crop(i, [size, size])
    yield "center_view", "pil", {"size": 24}, lambda i, size: F.center_crop(F.resize(i, [size], antialias=True), [size, size])
    # What timm's `create_transform` does for a `crop_pct` of .875 and bicubic interpolation, its defaults.
    timm_eval = lambda i, size, resize: F.center_crop(F.resize(i, [resize], MODES["bicubic"], antialias=True), [size, size])
    yield "timm_eval", "pil", {"size": 28, "resize": 32}, timm_eval
    # The same by its `crop_mode` "squash".
    timm_squash = lambda i, size, resize: F.center_crop(F.resize(i, [resize, resize], MODES["bicubic"], antialias=True), [size, size])
    yield "timm_squash", "pil", {"size": 28, "resize": 32}, timm_squash


def main():
    image = source()
    image.save(HERE / "source.png", optimize=True)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    listed = []
    for number, (op, backend, params, function) in enumerate(cases()):
        result = function(image if backend == "pil" else tensor, **params)
        if backend == "tensor":
            result = Image.fromarray(result.permute(1, 2, 0).contiguous().numpy())
        file = f"{number:02}-{op}.png"
        result.save(HERE / file, optimize=True)
        listed.append({"op": op, "backend": backend, "file": file, "params": params})
    lines = ",\n".join(json.dumps(case) for case in listed)
    (HERE / "cases.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
