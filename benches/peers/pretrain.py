"""SimCLR or MoCo v2 in lightly and PyTorch, by a configuration of `selfsup pretrain`: the peer of `selfsup-bench race`.

    python benches/peers/pretrain.py --config config.toml --images images.npy --out DIR

`images.npy` holds the images, u8 [n, h, w, 3]. The augmentation, the heads, the loss with its memory bank and the momentum update
are lightly's, the rest is PyTorch's, channels_last, all cores. Both views go through the network as one batch, and
vectors are exempt from weight decay, as selfsup has it. What the configuration asks for and this cannot do is an
error. Every `keep_every_steps` steps the backbone goes to `DIR/checkpoints/step-NNNNNNNN.safetensors`, under the
names that selfsup's own checkpoints have.
"""

import argparse
import copy
import math
import os
import pathlib
import tomllib

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules.heads import MoCoProjectionHead, SimCLRProjectionHead
from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum
from lightly.transforms.multi_view_transform import MultiViewTransform
from lightly.transforms.simclr_transform import SimCLRViewTransform
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models.resnet import BasicBlock

# The stride of the stem's 3×3 convolution, blocks a stage, channels of the first.
ARCHS = {"resnet10-mini": (2, [1, 1, 1, 1], 32), "resnet18-cifar": (1, [2, 2, 2, 2], 64)}


def only(value, expected, name):
    if value != expected:
        raise SystemExit(f"{name} = {value!r} is not done here, only {expected!r}")


def backbone(arch):
    """torchvision's ResNet with another stem, under torchvision's names."""
    stride, stages, width = ARCHS[arch]
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(3, width, 3, stride, 1, bias=False))
    model.add_module("bn1", nn.BatchNorm2d(width))
    model.add_module("relu", nn.ReLU(inplace=True))
    c = width
    for i, blocks in enumerate(stages):
        k = width << i
        stage = nn.Sequential()
        for j in range(blocks):
            step = 2 if i > 0 and j == 0 else 1
            shortcut = None
            if step != 1 or c != k:
                shortcut = nn.Sequential(nn.Conv2d(c, k, 1, step, bias=False), nn.BatchNorm2d(k))
            stage.append(BasicBlock(c, k, step, shortcut))
            c = k
        model.add_module(f"layer{i + 1}", stage)
    model.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flatten", nn.Flatten(1))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model, c


def view_transform(config):
    """lightly's, with the strengths of the configuration; those it does not name are off."""
    side = config["image_size"]
    options = {
        "input_size": side, "hf_prob": 0.0, "cj_prob": 0.0, "random_gray_scale": 0.0, "gaussian_blur": 0.0,
        "normalize": config["normalization"],
    }  # fmt: skip
    for t in config["method"]["augmentation"]:
        match t["name"]:
            case "random_resized_crop":
                only(t["size"], side, "size")
                only(t["scale"][1], 1.0, "the largest scale")
                only(t["ratio"], [3 / 4, 4 / 3], "ratio")
                options["min_scale"] = t["scale"][0]
            case "horizontal_flip":
                options["hf_prob"] = t["p"]
            case "color_jitter":
                options |= {
                    "cj_prob": t["p"], "cj_strength": 1.0, "cj_bright": t["brightness"],
                    "cj_contrast": t["contrast"], "cj_sat": t["saturation"], "cj_hue": t["hue"],
                }  # fmt: skip
            case "grayscale":
                options["random_gray_scale"] = t["p"]
            case "gaussian_blur":
                options |= {"gaussian_blur": t["p"], "sigmas": tuple(t["sigma"])}
            case name:
                raise SystemExit(f"{name} is not done here")
    if "min_scale" not in options:
        raise SystemExit("an augmentation without random_resized_crop is not done here")
    return SimCLRViewTransform(**options)


class Views(torch.utils.data.Dataset):
    def __init__(self, images, transform):
        self.images, self.transform = images, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.images[i]))


class SimClr(nn.Module):
    def __init__(self, config):
        super().__init__()
        method, projector = config["method"], config["method"]["projector"]
        only(projector["batch_norm"], "all", "projector.batch_norm")
        self.encoder, dim = backbone(config["arch"])
        hidden = projector["hidden_dim"] or dim
        self.projector = SimCLRProjectionHead(dim, hidden, projector["out_dim"], projector["layers"])
        self.criterion = NTXentLoss(method["temperature"])

    def loss(self, views):
        z1, z2 = self.projector(self.encoder(torch.cat(views))).chunk(2)
        return self.criterion(z1, z2)

    def after_update(self):
        pass


class Moco(nn.Module):
    def __init__(self, config):
        super().__init__()
        method, projector = config["method"], config["method"]["projector"]
        for name, value in {"momentum_ramp": False, "symmetric": False, "bn_groups": 1}.items():
            only(method[name], value, f"method.{name}")
        only(projector["batch_norm"], "none", "projector.batch_norm")
        self.encoder, dim = backbone(config["arch"])
        hidden = projector["hidden_dim"] or dim
        self.projector = MoCoProjectionHead(dim, hidden, projector["out_dim"], projector["layers"])
        self.key_encoder, self.key_projector = copy.deepcopy(self.encoder), copy.deepcopy(self.projector)
        deactivate_requires_grad(self.key_encoder)
        deactivate_requires_grad(self.key_projector)
        self.momentum = method["momentum"]
        self.criterion = NTXentLoss(method["temperature"], (method["queue"], projector["out_dim"]))

    def loss(self, views):
        queries = self.projector(self.encoder(views[0]))
        with torch.no_grad():
            shuffled, order = batch_shuffle(views[1])
            keys = batch_unshuffle(self.key_projector(self.key_encoder(shuffled)), order)
        return self.criterion(queries, keys)

    def after_update(self):
        update_momentum(self.encoder, self.key_encoder, self.momentum)
        update_momentum(self.projector, self.key_projector, self.momentum)


def optimizer(model, config):
    params = [p for p in model.parameters() if p.requires_grad]
    decay = config["weight_decay"]
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    match config["name"]:
        case "adamw":
            return torch.optim.AdamW(
                groups, config["lr"], betas=(config["beta1"], config["beta2"]), eps=config["eps"], fused=True
            )
        case "sgd":
            return torch.optim.SGD(
                groups, config["lr"], momentum=config["momentum"], nesterov=config["nesterov"], fused=True
            )
        case name:
            raise SystemExit(f"the optimizer {name} is not done here")


def rate_factor(schedule, done, total, steps_per_epoch):
    only(schedule["name"], "cosine", "schedule.name")
    warmup = round(schedule["warmup_epochs"] * steps_per_epoch)
    if done < warmup:
        return (done + 1) / warmup
    share = (done - warmup) / max(total - warmup, 1)
    last = schedule["final_factor"]
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * share))


def save(model, folder, step):
    state = model.encoder.state_dict()
    tensors = {
        f"model.encoder.{name}": t.contiguous() for name, t in state.items() if "num_batches_tracked" not in name
    }
    path = folder / f"step-{step:08}.safetensors"
    save_file(tensors, path.with_suffix(".writing"))
    os.replace(path.with_suffix(".writing"), path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--config", "--images", "--out"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    args = parser.parse_args()
    config = tomllib.loads(args.config.read_text())
    only(config["dtype"], "f32", "dtype")
    only(config["clip_grad_norm"], 0.0, "clip_grad_norm")
    if config["arch"] not in ARCHS:
        raise SystemExit(f"{config['arch']} is not done here, only {', '.join(ARCHS)}")
    methods = {"simclr": SimClr, "moco-v2": Moco}
    if config["method"]["name"] not in methods:
        raise SystemExit(f"{config['method']['name']} is not done here, only {', '.join(methods)}")
    folder = args.out / "checkpoints"
    folder.mkdir(parents=True)

    torch.manual_seed(config["seed"])
    torch.set_num_threads(os.cpu_count())
    model = methods[config["method"]["name"]](config).to(memory_format=torch.channels_last)
    optim = optimizer(model, config["optimizer"])
    images = np.load(args.images, mmap_mode="r")
    loader = torch.utils.data.DataLoader(
        Views(images, MultiViewTransform([view_transform(config)] * 2)),
        batch_size=config["batch_size"],
        shuffle=True,
        drop_last=True,
        num_workers=config["workers"],
        persistent_workers=config["workers"] > 0,
    )
    steps_per_epoch, done = len(loader), 0
    total = config["epochs"] * steps_per_epoch
    for _ in range(config["epochs"]):
        for views in loader:
            factor = rate_factor(config["schedule"], done, total, steps_per_epoch)
            for group in optim.param_groups:
                group["lr"] = config["optimizer"]["lr"] * factor
            loss = model.loss([view.to(memory_format=torch.channels_last) for view in views])
            optim.zero_grad(set_to_none=True)
            loss.backward()
            optim.step()
            model.after_update()
            done += 1
            if done % config["log_every_steps"] == 0:
                print(f"{done}/{total} loss {loss.item():.3f}", flush=True)
            if config["keep_every_steps"] and done % config["keep_every_steps"] == 0:
                save(model, folder, done)


if __name__ == "__main__":
    main()
