#!/usr/bin/env python3
"""Makes image files of many kinds, and beside each the pixels that Pillow reads from it.

    python make_golden.py [TO]

Needs Pillow and NumPy (made with Pillow 13.0 and NumPy 2.4). TO defaults to this script's folder. `golden.json` lists
each file with its reference (an RGB PNG) and how far a decoder may be off: 0 where the format is lossless; for JPEG and
lossy WebP a few levels, since decoders round and upsample chroma differently.

The reference follows the crate's rules: EXIF orientation applied, transparency laid over white
(round(c*a/255 + 255 - a)), 16 bits to 8 by rounding.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

OUT = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
ENTRIES = []


def picture(width, height, channels=3):
    """Smooth ramps with a bright and a dark corner: asymmetric under all turns and mirrors, kind to JPEG."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    u, v = x / (width - 1), y / (height - 1)
    planes = [255 * u, 255 * v, 255 * (1 - u) * (0.3 + 0.7 * v), 128 + 120 * np.sin(3 * u + 2 * v)]
    out = np.stack(planes[:channels], axis=-1)
    out[: height // 4, : width // 3] = [250, 240, 20, 40][:channels]
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def flat(image):
    """What the crate should see."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I"):
        gray = np.asarray(image).astype(np.int64)
        rgb = np.repeat(((gray * 255 + 32767) // 65535)[..., None], 3, axis=-1)
    elif "A" in image.mode or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
        c, a = rgba[..., :3], rgba[..., 3:]
        rgb = (c * a + 255 * (255 - a) + 127) // 255
    else:
        rgb = np.asarray(image.convert("RGB"))
    return Image.fromarray(rgb.astype(np.uint8), "RGB")


def add(name, data, tolerance=0, mean_tolerance=0.0, colour=None):
    (OUT / name).write_bytes(data)
    image = Image.open(io.BytesIO(data))
    expected = f"{name}.expected.png"
    flat(image).save(OUT / expected, optimize=True)
    ENTRIES.append(
        {"file": name, "expected": expected, "max": tolerance, "mean": mean_tolerance, "colour": colour}
    )


def encode(image, fmt, **options):
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def segments(jpeg):
    """(marker, start of the segment, end of it) up to the first scan's header."""
    at = 2
    while True:
        marker = jpeg[at + 1]
        if 0xD0 <= marker <= 0xD9:
            at += 2
            continue
        length = int.from_bytes(jpeg[at + 2 : at + 4], "big")
        yield marker, at, at + 2 + length
        if marker == 0xDA:
            return
        at += 2 + length


def without_adobe(jpeg):
    for marker, start, end in segments(jpeg):
        if marker == 0xEE:
            return jpeg[:start] + jpeg[end:]
    sys.exit("no Adobe marker")


def with_transform(jpeg, transform):
    for marker, start, _ in segments(jpeg):
        if marker == 0xEE:
            at = start + 4 + 11
            return jpeg[:at] + bytes([transform]) + jpeg[at + 1 :]
    sys.exit("no Adobe marker")


def with_ids(jpeg, ids):
    """Renames the components in the frame's and the scan's header."""
    jpeg = bytearray(jpeg)
    for marker, start, _ in segments(bytes(jpeg)):
        if marker in (0xC0, 0xC2):
            for i, new in enumerate(ids):
                jpeg[start + 10 + 3 * i] = new
        if marker == 0xDA:
            for i, new in enumerate(ids):
                jpeg[start + 5 + 2 * i] = new
    return bytes(jpeg)


def jpegs():
    rgb = Image.fromarray(picture(37, 29), "RGB")
    add("444.jpg", encode(rgb, "JPEG", quality=92, subsampling=0), 3, 0.5, "rgb8")
    add("422.jpg", encode(rgb, "JPEG", quality=92, subsampling=1), 10, 0.8, "rgb8")
    add("420.jpg", encode(rgb, "JPEG", quality=92, subsampling=2), 10, 0.8, "rgb8")
    add("progressive.jpg", encode(rgb, "JPEG", quality=92, subsampling=2, progressive=True), 10, 0.8, "rgb8")
    add("restart.jpg", encode(rgb, "JPEG", quality=92, subsampling=0, restart_marker_blocks=2), 3, 0.5, "rgb8")
    add("gray.jpg", encode(rgb.convert("L"), "JPEG", quality=92), 2, 0.3, "l8")
    adobe_rgb = encode(rgb, "JPEG", quality=92, keep_rgb=True)
    add("adobe-rgb.jpg", adobe_rgb, 2, 0.3, "rgb8")
    if b"Adobe" in adobe_rgb:
        add("adobe-rgb-ids-123.jpg", with_ids(adobe_rgb, [1, 2, 3]), 2, 0.3, "rgb8")
    # Four channels: Pillow writes them inverted, as Adobe does.
    cmyk = encode(Image.fromarray(picture(37, 29, 4), "CMYK"), "JPEG", quality=95)
    add("cmyk.jpg", cmyk, 3, 0.5, "cmyk8")
    add("cmyk-no-adobe.jpg", without_adobe(cmyk), 3, 0.5, "cmyk8")
    # YCCK: the same file with planes that are luma, chroma and black, and Adobe's transform 2.
    ycc = np.asarray(Image.fromarray(picture(37, 29), "RGB").convert("YCbCr"))
    k = picture(37, 29, 4)[..., 3:]
    planes = 255 - np.concatenate([ycc, k], axis=-1)
    ycck = encode(Image.fromarray(planes, "CMYK"), "JPEG", quality=95)
    add("ycck.jpg", with_transform(ycck, 2), 4, 0.6, "cmyk8")


def orientations():
    small = Image.fromarray(picture(11, 7), "RGB")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        add(f"orientation-{orientation}.jpg", encode(small, "JPEG", quality=95, subsampling=0, exif=exif), 3, 0.6)
    exif = Image.Exif()
    exif[0x0112] = 6
    add("orientation-6.png", encode(small, "PNG", exif=exif))
    add("orientation-6.webp", encode(small, "WEBP", lossless=True, exif=exif))
    add("orientation-6.tif", encode(small, "TIFF", exif=exif))


def pngs():
    rgb = Image.fromarray(picture(19, 13), "RGB")
    palette = rgb.quantize(13)
    add("palette.png", encode(palette, "PNG"))
    add("palette-1-bit.png", encode(rgb.quantize(2), "PNG", bits=1))
    add("palette-2-bit.png", encode(rgb.quantize(4), "PNG", bits=2))
    add("palette-transparent.png", encode(palette, "PNG", transparency=bytes(range(0, 260, 20))))
    add("bilevel.png", encode(rgb.convert("1"), "PNG"))
    add("gray.png", encode(rgb.convert("L"), "PNG"), colour="l8")
    add("gray-transparent.png", encode(rgb.convert("L"), "PNG", transparency=20))
    add("rgb-transparent.png", encode(rgb, "PNG", transparency=(250, 240, 20)))
    rgba = np.concatenate([picture(19, 13), picture(19, 13, 4)[..., 3:]], axis=-1)
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 255
    add("rgba.png", encode(Image.fromarray(rgba, "RGBA"), "PNG"), colour="rgba8")
    add("gray-alpha.png", encode(Image.fromarray(rgba, "RGBA").convert("LA"), "PNG"), colour="la8")
    gray = np.arange(19 * 13, dtype=np.uint16).reshape(13, 19) * 265
    add("gray-16-bit.png", encode(Image.fromarray(gray), "PNG"), colour="l16")


def others():
    rgb = Image.fromarray(picture(19, 13), "RGB")
    rgba = np.concatenate([picture(19, 13), picture(19, 13, 4)[..., 3:]], axis=-1)
    rgba = Image.fromarray(rgba, "RGBA")
    turned = rgb.transpose(Image.Transpose.ROTATE_180)
    add("lossless.webp", encode(rgb, "WEBP", lossless=True))
    add("lossy.webp", encode(rgb, "WEBP", quality=90), 8, 1.5)
    add("alpha.webp", encode(rgba, "WEBP", lossless=True, exact=True))
    add("animated.webp", encode(rgb, "WEBP", save_all=True, append_images=[turned], lossless=True))
    add("rgb.bmp", encode(rgb, "BMP"))
    add("palette.bmp", encode(rgb.quantize(13), "BMP"))
    add("gray.bmp", encode(rgb.convert("L"), "BMP"))
    add("bilevel.bmp", encode(rgb.convert("1"), "BMP"))
    add("palette.gif", encode(rgb.quantize(13), "GIF"))
    add("interlaced.gif", encode(rgb.quantize(13), "GIF", interlace=True))
    add("transparent.gif", encode(rgb.quantize(13), "GIF", transparency=3))
    add("animated.gif", encode(rgb.quantize(13), "GIF", save_all=True, append_images=[turned.quantize(13)]))
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        add(f"{compression}.tif", encode(rgb, "TIFF", compression=compression))
    add("gray.tif", encode(rgb.convert("L"), "TIFF"))
    add("bilevel.tif", encode(rgb.convert("1"), "TIFF"))
    add("rgba.tif", encode(rgba, "TIFF"))
    # The decoder rounds its product of ink and black down, Pillow to the nearest.
    add("cmyk.tif", encode(Image.fromarray(picture(19, 13, 4), "CMYK"), "TIFF"), 1, 0.6)
    gray = np.arange(19 * 13, dtype=np.uint16).reshape(13, 19) * 265
    add("gray-16-bit.tif", encode(Image.fromarray(gray), "TIFF"))


jpegs()
orientations()
pngs()
others()
(OUT / "golden.json").write_text(json.dumps(ENTRIES, indent=1) + "\n")
print(len(ENTRIES), "files,", sum(f.stat().st_size for f in OUT.iterdir() if f.is_file()), "bytes")
