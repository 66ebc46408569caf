"""Files of torch.save for tests/pytorch.rs: `python make_pytorch.py`, with PyTorch 2.11. Every tensor is counted up from its first number."""

import argparse
import collections
import os
import pathlib

import torch

HERE = pathlib.Path(__file__).parent / "pytorch"


def count(shape, first, dtype):
    n = int(torch.tensor(shape).prod()) if shape else 1
    return (torch.arange(n, dtype=torch.float64) + first).to(dtype).reshape(shape)


def checkpoint():
    whole = count((4, 6), 100, torch.float32)
    state = collections.OrderedDict()
    state["module.conv.weight"] = torch.nn.Parameter(count((2, 3, 3, 3), 0, torch.float32))
    state["module.f64"] = count((3,), 0.5, torch.float64)
    state["module.f16"] = count((3,), 0.5, torch.float16)
    state["module.bf16"] = count((3,), 0.5, torch.bfloat16)
    state["module.i64"] = count((), 7, torch.int64)
    state["module.i32"] = count((2,), -1, torch.int32)
    state["module.i16"] = count((2,), -1, torch.int16)
    state["module.i8"] = count((2,), -1, torch.int8)
    state["module.u8"] = count((2,), 254, torch.uint8)
    state["module.bool"] = torch.tensor([True, False])
    state["module.empty"] = torch.zeros(0, 5)
    state["module.transposed"] = whole.t()
    state["module.part"] = whole[1:3, 2:5]
    state["module.same"] = whole
    optimizer = {"state": {0: {"momentum_buffer": count((2,), 3, torch.float32)}}, "param_groups": [{"lr": 0.1}]}
    args = argparse.Namespace(arch="resnet50", lr=0.03, betas=(0.9, 0.99))
    return {"epoch": 200, "arch": "resnet50", "best": 0.5, "args": args, "state_dict": state, "optimizer": optimizer}


class Command:
    def __reduce__(self):
        return os.system, ("echo this must never be seen",)


def main():
    HERE.mkdir(exist_ok=True)
    for old in (False, True):
        form = "legacy" if old else "zip"
        save = lambda value, name: torch.save(
            value, HERE / f"{name}-{form}.pth", _use_new_zipfile_serialization=not old
        )
        save(checkpoint(), "checkpoint")
        save({"weight": count((2,), 0, torch.float32), "more": Command()}, "command")
        save(torch.nn.Linear(2, 1), "module")
        save({"epoch": 3}, "empty")


main()
