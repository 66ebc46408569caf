"""The work of crates/selfsup-kernels/examples/speed.rs and benches/benches/kernels.rs in PyTorch.

    python kernels.py [BATCH] [REPEATS] [THREADS] [NAME]

f32 on the CPU, channels_last; the best of the repeats. Convolutions in GFLOP/s, the rest in ms. NAME leaves out the
operations whose names do not begin with it.
"""

import sys
import time

import torch
import torch.nn.functional as F

BATCH, REPEATS, THREADS = (int(a) for a in (sys.argv[1:4] + ["16", "3", "2"][len(sys.argv) - 1 :]))
NAME = sys.argv[4] if len(sys.argv) > 4 else ""
SHAPES = [(64, 32, 64, 1), (128, 16, 128, 1), (256, 8, 256, 1), (512, 4, 512, 1), (64, 32, 128, 2), (3, 32, 64, 1)]


def best(f):
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        f()
        times.append(time.perf_counter() - start)
    return min(times)


def images(*shape, grad=True):
    return torch.randn(shape).contiguous(memory_format=torch.channels_last).requires_grad_(grad)


def convolutions():
    for c, side, k, stride in SHAPES:
        x = images(BATCH, c, side, side, grad=c != 3)
        weight = images(k, c, 3, 3)
        flop = 2 * BATCH * (side // stride) ** 2 * 9 * c * k
        dy = torch.ones_like(F.conv2d(x, weight, None, stride, 1))

        def forward():
            with torch.no_grad():
                F.conv2d(x, weight, None, stride, 1)

        def both():
            x.grad = weight.grad = None
            F.conv2d(x, weight, None, stride, 1).backward(dy)

        products = 2 if c == 3 else 3
        print(f"{c}x{side}->{k} /{stride}: {flop / best(forward) / 1e9:.0f} {products * flop / best(both) / 1e9:.0f}")


def row(name, f, *leaves):
    """Forward, then forward+backward to the leaves, whose old gradients are dropped first."""
    if not name.startswith(NAME):
        return
    dy = torch.ones_like(f())

    def forward():
        with torch.no_grad():
            f()

    def both():
        for leaf in leaves:
            leaf.grad = None
        f().backward(dy)

    print(f"{name}: forward {best(forward) * 1e3:.2f} ms, f+b {best(both) * 1e3:.2f} ms")


def random(*shape):
    return torch.randn(shape, requires_grad=True)


def others():
    x, residual = images(BATCH, 64, 32, 32), images(BATCH, 64, 32, 32)
    bn = torch.nn.BatchNorm2d(64)
    row("batch_norm+relu B×32×32×64", lambda: F.relu(bn(x)), x, bn.weight, bn.bias)
    leaves = x, residual, bn.weight, bn.bias
    row("batch_norm+residual+relu B×32×32×64", lambda: F.relu(bn(x) + residual), *leaves)
    large = images(BATCH, 64, 112, 112)
    row("max_pool2d 3/2/1 B×112×112×64", lambda: F.max_pool2d(large, 3, 2, 1), large)
    row("avg_pool2d 2/2 B×112×112×64", lambda: F.avg_pool2d(large, 2), large)
    row("avg_pool2d 3/1/1 B×32×32×64", lambda: F.avg_pool2d(residual, 3, 1, 1), residual)
    resize = lambda x, size: F.interpolate(x, size, mode="bilinear")
    row("resize_bilinear B×32×32×64→64", lambda: resize(residual, 64), residual)
    image = images(BATCH, 3, 224, 224)
    row("resize_bilinear B×224×224×3→96", lambda: resize(image, 96), image)
    x = random(4096, 1000)
    row("softmax 4096×1000", lambda: F.softmax(x, -1), x)
    row("log_softmax 4096×1000", lambda: F.log_softmax(x, -1), x)
    # A small vision transformer's: 196 tokens an image, 384 wide, 6 heads.
    attention = random(6 * BATCH, 196, 196)
    row("softmax 6B×196×196", lambda: F.softmax(attention, -1), attention)
    tokens, weight, bias = random(BATCH, 196, 384), random(384), random(384)
    row("layer_norm B×196×384", lambda: F.layer_norm(tokens, (384,), weight, bias, 1e-6), tokens, weight, bias)
    hidden = random(BATCH, 196, 1536)
    row("gelu exact B×196×1536", lambda: F.gelu(hidden), hidden)
    row("gelu tanh B×196×1536", lambda: F.gelu(hidden, approximate="tanh"), hidden)
    row("gelu quick B×196×1536", lambda: hidden * torch.sigmoid(1.702 * hidden), hidden)
    up = tokens, random(1536, 384), random(1536)
    row("linear+gelu B×196×384→1536", lambda: F.gelu(F.linear(*up)), *up)
    down = hidden, random(384, 1536), random(384)
    row("linear B×196×1536→384", lambda: F.linear(*down), *down)
    projector = random(256, 2048), random(2048, 2048), random(2048)
    row("linear+relu 256×2048→2048", lambda: F.relu(F.linear(*projector)), *projector)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    if "conv2d".startswith(NAME):
        convolutions()
    others()
