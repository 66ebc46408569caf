"""The work of crates/selfsup-kernels/examples/speed.rs and benches/benches/kernels.rs in PyTorch.

    python kernels.py [BATCH] [REPEATS] [THREADS]

f32 on the CPU, channels_last; the best of the repeats. Convolutions in GFLOP/s, the rest in ms.
"""

import sys
import time

import torch
import torch.nn.functional as F

BATCH, REPEATS, THREADS = (int(a) for a in (sys.argv[1:] + ["16", "3", "2"][len(sys.argv) - 1 :]))
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


def batch_norm_relu():
    x = images(BATCH, 64, 32, 32)
    bn = torch.nn.BatchNorm2d(64)
    dy = torch.ones_like(x)

    def both():
        x.grad = None
        F.relu(bn(x)).backward(dy)

    print(f"batch_norm+relu f+b {BATCH}x64x32x32: {best(both) * 1e3:.1f} ms")


def max_pool():
    x = images(BATCH, 64, 112, 112)
    dy = torch.ones_like(F.max_pool2d(x, 3, 2, 1))

    def both():
        x.grad = None
        F.max_pool2d(x, 3, 2, 1).backward(dy)

    print(f"max_pool2d 3/2/1 f+b {BATCH}x64x112x112: {best(both) * 1e3:.1f} ms")


def log_softmax():
    x = torch.randn(4096, 1000, requires_grad=True)
    dy = torch.ones_like(x)

    def both():
        x.grad = None
        F.log_softmax(x, -1).backward(dy)

    print(f"log_softmax f+b 4096x1000: {best(both) * 1e3:.1f} ms")


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    convolutions()
    batch_norm_relu()
    max_pool()
    log_softmax()
