"""Golden values and gradients from PyTorch for this crate's tests.

    python make_golden.py        (torch 2.11, safetensors; writes *.safetensors beside itself)

Everything is on the CPU from a fixed seed, in f32 or, where it says so, f64. Tensors are stored in this project's layouts: images NHWC,
convolution weights [kh, kw, c/g, k].
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent


def nhwc(t):
    return t.detach().permute(0, 2, 3, 1).contiguous()


def hwio(t):
    return t.detach().permute(2, 3, 1, 0).contiguous()


def conv2d():
    out = {}
    cases = {  # name: x NCHW, weight OIHW, stride, padding, dilation, groups
        "plain": ((2, 4, 7, 6), (5, 4, 3, 3), 1, 1, 1, 1),
        "strided": ((2, 4, 7, 6), (5, 4, 3, 3), 2, 1, 1, 1),
        "stem": ((1, 3, 11, 12), (4, 3, 7, 7), 2, 3, 1, 1),
        "dilated": ((2, 4, 7, 6), (6, 2, 3, 3), 1, 2, 2, 2),
        "depthwise": ((2, 4, 7, 6), (4, 1, 3, 3), 2, 1, 1, 4),
    }
    for name, (x_shape, w_shape, stride, padding, dilation, groups) in cases.items():
        x = torch.randn(x_shape, requires_grad=True)
        weight = torch.randn(w_shape, requires_grad=True)
        y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
        dy = torch.randn_like(y)
        y.backward(dy)
        parts = {"x": nhwc(x), "y": nhwc(y), "dy": nhwc(dy), "dx": nhwc(x.grad)}
        parts |= {"weight": hwio(weight), "dweight": hwio(weight.grad)}
        out |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(out, HERE / "conv2d.safetensors")


def batch_norm():
    c = 5
    x, residual, dy = (torch.randn(3, c, 4, 6) for _ in range(3))
    x = x * 2 + 1
    weight, bias, mean, var = torch.randn(c), torch.randn(c), torch.randn(c), torch.rand(c) + 0.5
    out = {"x": nhwc(x), "residual": nhwc(residual), "dy": nhwc(dy)}
    out |= {"weight": weight, "bias": bias, "mean": mean, "var": var}
    for name in ["plain", "relu", "residual_relu"]:
        for mode in ["train", "eval"]:
            leaves = [t.clone().requires_grad_() for t in (x, weight, bias, residual)]
            running_mean, running_var = mean.clone(), var.clone()
            y = F.batch_norm(leaves[0], running_mean, running_var, leaves[1], leaves[2], mode == "train", 0.1, 1e-5)
            if name == "residual_relu":
                y = y + leaves[3]
            if name != "plain":
                y = F.relu(y)
            y.backward(dy)
            parts = {"y": nhwc(y), "dx": nhwc(leaves[0].grad), "dweight": leaves[1].grad, "dbias": leaves[2].grad}
            if name == "residual_relu":
                parts["dresidual"] = nhwc(leaves[3].grad)
            if mode == "train":
                parts |= {"running_mean": running_mean, "running_var": running_var}
            out |= {f"{name}.{mode}.{part}": tensor for part, tensor in parts.items()}
    save_file(out, HERE / "batch_norm.safetensors")


def max_pool2d():
    out = {}
    cases = {  # name: x, kernel, stride, padding
        "stem": (torch.randn(2, 3, 9, 8), 3, 2, 1),
        "halves": (torch.randn(2, 3, 7, 8), 2, 2, 0),
        "ties": (torch.randint(0, 3, (2, 3, 6, 5)).float(), 3, 1, 1),
    }
    for name, (x, kernel, stride, padding) in cases.items():
        x.requires_grad_()
        y = F.max_pool2d(x, kernel, stride, padding)
        dy = torch.randn_like(y)
        y.backward(dy)
        parts = {"x": nhwc(x), "y": nhwc(y), "dy": nhwc(dy), "dx": nhwc(x.grad)}
        out |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(out, HERE / "max_pool2d.safetensors")


def softmax():
    x, dy = torch.randn(5, 37) * 3, torch.randn(5, 37)
    out = {"x": x, "dy": dy}
    for name, f in {"softmax": F.softmax, "log_softmax": F.log_softmax}.items():
        leaf = x.clone().requires_grad_()
        y = f(leaf, -1)
        y.backward(dy)
        out |= {f"{name}.y": y.detach(), f"{name}.dx": leaf.grad}
    save_file(out, HERE / "softmax.safetensors")


def layer_norm():
    x = (torch.randn(2, 3, 37) * 2 + 1).requires_grad_()
    weight, bias = (torch.randn(37, requires_grad=True) for _ in range(2))
    y = F.layer_norm(x, (37,), weight, bias, 1e-5)
    dy = torch.randn_like(y)
    y.backward(dy)
    out = {"x": x.detach(), "weight": weight.detach(), "bias": bias.detach(), "y": y.detach(), "dy": dy}
    out |= {"dx": x.grad, "dweight": weight.grad, "dbias": bias.grad}
    save_file(out, HERE / "layer_norm.safetensors")


def images(make, cases):
    """Golden values of operations on x alone, in NHWC: cases are name → (x's shape, operation)."""
    out = {}
    for name, (shape, f) in cases.items():
        x = torch.randn(shape, requires_grad=True)
        y = f(x)
        dy = torch.randn_like(y)
        y.backward(dy)
        parts = {"x": nhwc(x), "y": nhwc(y), "dy": nhwc(dy), "dx": nhwc(x.grad)}
        out |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(out, HERE / f"{make.__name__}.safetensors")


def avg_pool2d():
    cases = {
        "halves": ((2, 3, 7, 8), lambda x: F.avg_pool2d(x, 2)),
        "padded": ((2, 3, 9, 8), lambda x: F.avg_pool2d(x, 3, 2, 1)),
        "inside": ((2, 3, 6, 5), lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
    }
    images(avg_pool2d, cases)


def resize_bilinear():
    def to(size, align_corners=False):
        shape = (2, 3, 6, 5)
        return shape, lambda x: F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    cases = {"larger": to((11, 9)), "smaller": to((2, 3)), "corners": to((11, 3), True), "one": to((1, 1), True)}
    images(resize_bilinear, cases)


def gelu():
    x, dy = torch.randn(200) * 3, torch.randn(200)
    out = {"x": x, "dy": dy}
    functions = {
        "exact": F.gelu,
        "tanh": lambda x: F.gelu(x, approximate="tanh"),
        "quick": lambda x: x * torch.sigmoid(1.702 * x),
    }
    for name, f in functions.items():
        leaf = x.clone().requires_grad_()
        y = f(leaf)
        y.backward(dy)
        out |= {f"{name}.y": y.detach(), f"{name}.dx": leaf.grad}
    save_file(out, HERE / "gelu.safetensors")


def linear():
    tensors = {"x": torch.randn(2, 7, 19), "weight": torch.randn(11, 19), "bias": torch.randn(11)}
    dy = torch.randn(2, 7, 11)
    out = tensors | {"dy": dy}
    for name, activation in {"none": lambda z: z, "relu": F.relu, "gelu": F.gelu}.items():
        leaves = {key: tensor.clone().requires_grad_() for key, tensor in tensors.items()}
        y = activation(F.linear(**{"input" if key == "x" else key: leaf for key, leaf in leaves.items()}))
        y.backward(dy)
        out |= {f"{name}.y": y.detach()} | {f"{name}.d{key}": leaf.grad for key, leaf in leaves.items()}
    save_file(out, HERE / "linear.safetensors")


def conv2d_with():
    """Convolution, bias, residual and ReLU, in f64."""
    out = {}
    cases = {  # name: x NCHW, weight OIHW, stride, padding, dilation, groups; the second is done as Winograd's
        "plain": ((2, 4, 7, 6), (5, 4, 3, 3), 2, 1, 1, 1),
        "winograd": ((2, 16, 6, 5), (17, 16, 3, 3), 1, 1, 1, 1),
        "image": ((2, 3, 6, 7), (5, 3, 3, 3), 1, 1, 1, 1),
        "depthwise": ((2, 4, 7, 6), (4, 1, 3, 3), 1, 1, 1, 4),
        "pixel": ((1, 6, 1, 1), (8, 3, 1, 1), 1, 0, 1, 2),
    }
    for name, (x_shape, w_shape, *parameters) in cases.items():
        leaves = [torch.randn(shape, dtype=torch.float64) for shape in (x_shape, w_shape, w_shape[:1])]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        sums = F.conv2d(*leaves, *parameters)
        residual = torch.randn_like(sums).requires_grad_()
        y = F.relu(sums + residual)
        dy = torch.randn_like(y)
        dx, dweight, dbias, dresidual = torch.autograd.grad(y, [*leaves, residual], dy)
        x, weight, bias = leaves
        parts = {"x": nhwc(x), "weight": hwio(weight), "bias": bias.detach(), "residual": nhwc(residual)}
        parts |= {"y": nhwc(y), "dy": nhwc(dy)}
        parts |= {"dx": nhwc(dx), "dweight": hwio(dweight), "dbias": dbias, "dresidual": nhwc(dresidual)}
        out |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(out, HERE / "conv2d_with.safetensors")


def conv_transpose2d():
    """In f64. A weight [c, k/g, kh, kw] is stored as [kh, kw, k/g, c]."""
    out = {}
    cases = {  # name: x NCHW, weight, stride, padding, output padding, groups, dilation
        "plain": ((2, 4, 4, 5), (4, 3, 3, 3), 1, 1, 0, 1, 1),
        "doubling": ((2, 4, 4, 3), (4, 5, 4, 4), 2, 1, 0, 1, 1),
        "unseen": ((1, 3, 3, 4), (3, 2, 2, 2), 3, 0, 2, 1, 1),
        "grouped": ((2, 4, 4, 5), (4, 3, 3, 3), 2, 2, 1, 2, 2),
        "depthwise": ((2, 4, 4, 5), (4, 1, 3, 3), 2, 1, 1, 4, 1),
    }
    for name, (x_shape, w_shape, *parameters) in cases.items():
        x, weight = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in (x_shape, w_shape))
        y = F.conv_transpose2d(x, weight, None, *parameters)
        dy = torch.randn_like(y)
        dx, dweight = torch.autograd.grad(y, [x, weight], dy)
        parts = {"x": nhwc(x), "weight": hwio(weight), "y": nhwc(y), "dy": nhwc(dy)}
        parts |= {"dx": nhwc(dx), "dweight": hwio(dweight)}
        out |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(out, HERE / "conv_transpose2d.safetensors")


# One stream of random numbers runs through all of them: new ones go to the end.
GOLDEN = [conv2d, batch_norm, max_pool2d, softmax, layer_norm, avg_pool2d, resize_bilinear, gelu, linear]
GOLDEN += [conv2d_with, conv_transpose2d]

if __name__ == "__main__":
    torch.manual_seed(0)
    for make in GOLDEN:
        make()
