//! The speed of convolution on a ResNet-18's shapes, beside candle's own, in GFLOP/s, and of other operations in ms.
//!
//!     cargo run --release -p selfsup-kernels --example speed -- [BATCH] [REPEATS] [NAME]
//!
//! RAYON_NUM_THREADS sets the threads. NAME leaves out the operations whose names do not begin with it. The best of
//! the repeats is printed. Forward+backward of a convolution counts two products for the image layer, whose input
//! needs no gradient, and three for the others.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor, Var};
use selfsup_kernels::{
    Activation, AvgPool2dConfig, BatchNormConfig, Conv2dConfig, Gelu, avg_pool2d, batch_norm_train, conv2d,
    gelu, layer_norm, linear, log_softmax, max_pool2d, resize_bilinear, softmax,
};
use std::time::Instant;

/// As in the command: the system's allocator gives blocks of this size back at once, and faulting them in again
/// takes several times as long as the work.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// c, side of the image, k, stride; all 3×3 with padding 1.
const SHAPES: [(usize, usize, usize, usize); 6] = [
    (64, 32, 64, 1),
    (128, 16, 128, 1),
    (256, 8, 256, 1),
    (512, 4, 512, 1),
    (64, 32, 128, 2),
    (3, 32, 64, 1),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number =
        |i: usize, default: usize| arguments.get(i).map_or(default, |a| a.parse().expect("a number"));
    let (batch, repeats) = (number(0, 16), number(1, 3));
    let name = arguments.get(2).map_or("", |name| name.as_str());
    if "conv2d".starts_with(name) {
        convolutions(batch, repeats)?;
    }
    others(batch, repeats, name)
}

fn convolutions(batch: usize, repeats: usize) -> Result<()> {
    println!(
        "{:20} {:>10} {:>10} {:>12} {:>12}",
        "c×h→k /stride", "forward", "f+b", "candle f", "candle f+b"
    );
    for (c, side, k, stride) in SHAPES {
        let image = c == 3;
        let config = Conv2dConfig { stride, padding: 1, ..Default::default() };
        let nhwc = Var::randn(0f32, 1.0, (batch, side, side, c), &Device::Cpu)?;
        let hwio = Var::randn(0f32, 0.1, (3, 3, c, k), &Device::Cpu)?;
        let nchw = Var::from_tensor(&nhwc.permute((0, 3, 1, 2))?.contiguous()?)?;
        let oihw = Var::from_tensor(&hwio.permute((3, 2, 0, 1))?.contiguous()?)?;
        let input = |x: &Var| if image { x.as_detached_tensor() } else { x.as_tensor().clone() };
        let (nhwc, nchw) = (input(&nhwc), input(&nchw));
        let ours = || conv2d(&nhwc, &hwio, config).map_err(candle_core::Error::wrap);
        let candle = || nchw.conv2d(&oihw, 1, stride, 1, 1);
        let flop = (2 * batch * (side / stride).pow(2) * 9 * c * k) as f64;
        let products = if image { 2.0 } else { 3.0 };
        println!(
            "{:20} {:10.0} {:10.0} {:12.0} {:12.0}",
            format!("{c}×{side}→{k} /{stride}"),
            flop / best(repeats, ours)?,
            products * flop / best(repeats, || backward(ours()?))?,
            flop / best(repeats, candle)?,
            products * flop / best(repeats, || backward(candle()?))?,
        );
    }
    Ok(())
}

fn others(batch: usize, repeats: usize, only: &str) -> Result<()> {
    let random = |shape: &[usize]| Var::randn(0f32, 1.0, shape, &Device::Cpu);
    let row = |name: &str, f: &dyn Fn() -> selfsup_kernels::Result<Tensor>| -> Result<()> {
        if !name.starts_with(only) {
            return Ok(());
        }
        let f = || f().map_err(candle_core::Error::wrap);
        let (forward, both) = (best(repeats, f)? / 1e6, best(repeats, || backward(f()?))? / 1e6);
        let candle = candles_part(repeats, &f()?)? / 1e6;
        println!("{name}: forward {forward:.2} ms, f+b {both:.2} ms, {candle:.2} of it candle's");
        Ok(())
    };
    let (x, weight, bias) = (random(&[batch, 32, 32, 64])?, random(&[64])?, random(&[64])?);
    let residual = random(&[batch, 32, 32, 64])?;
    let config = BatchNormConfig { relu: true, ..Default::default() };
    row("batch_norm+relu B×32×32×64", &|| Ok(batch_norm_train(&x, &weight, &bias, None, config)?.y))?;
    row("batch_norm+residual+relu B×32×32×64", &|| {
        Ok(batch_norm_train(&x, &weight, &bias, Some(&residual), config)?.y)
    })?;
    let large = random(&[batch, 112, 112, 64])?;
    row("max_pool2d 3/2/1 B×112×112×64", &|| max_pool2d(&large, 3, 2, 1))?;
    let halves = AvgPool2dConfig::new(2);
    row("avg_pool2d 2/2 B×112×112×64", &|| avg_pool2d(&large, halves))?;
    let overlapping = AvgPool2dConfig { kernel: 3, stride: 1, padding: 1, count_include_pad: true };
    row("avg_pool2d 3/1/1 B×32×32×64", &|| avg_pool2d(&residual, overlapping))?;
    row("resize_bilinear B×32×32×64→64", &|| resize_bilinear(&residual, 64, 64, false))?;
    let image = random(&[batch, 224, 224, 3])?;
    row("resize_bilinear B×224×224×3→96", &|| resize_bilinear(&image, 96, 96, false))?;
    let x = random(&[4096, 1000])?;
    row("softmax 4096×1000", &|| softmax(&x))?;
    row("log_softmax 4096×1000", &|| log_softmax(&x))?;
    // A small vision transformer's: 196 tokens an image, 384 wide, 6 heads.
    let x = random(&[6 * batch, 196, 196])?;
    row("softmax 6B×196×196", &|| softmax(&x))?;
    let tokens = random(&[batch, 196, 384])?;
    let (weight, bias) = (random(&[384])?, random(&[384])?);
    row("layer_norm B×196×384", &|| layer_norm(&tokens, &weight, &bias, 1e-6))?;
    let hidden = random(&[batch, 196, 1536])?;
    row("gelu exact B×196×1536", &|| gelu(&hidden, Gelu::Exact))?;
    row("gelu tanh B×196×1536", &|| gelu(&hidden, Gelu::Tanh))?;
    row("gelu quick B×196×1536", &|| gelu(&hidden, Gelu::Quick))?;
    let (weight, bias) = (random(&[1536, 384])?, random(&[1536])?);
    let act = Activation::Gelu(Gelu::Exact);
    row("linear+gelu B×196×384→1536", &|| linear(&tokens, &weight, Some(&bias), act))?;
    let (weight, bias) = (random(&[384, 1536])?, random(&[384])?);
    row("linear B×196×1536→384", &|| linear(&hidden, &weight, Some(&bias), Activation::None))?;
    let (x, weight, bias) = (random(&[256, 2048])?, random(&[2048, 2048])?, random(&[2048])?);
    row("linear+relu 256×2048→2048", &|| linear(&x, &weight, Some(&bias), Activation::Relu))?;
    Ok(())
}

/// candle seeds the backward pass with ones of y's shape, as a loss's own backward pass would.
fn backward(y: Tensor) -> Result<Tensor> {
    y.backward()?;
    Ok(y)
}

/// The time of candle's own part of a backward pass: it seeds it with ones, and adds each gradient to new zeros.
fn candles_part(repeats: usize, y: &Tensor) -> Result<f64> {
    let gradients = y.backward()?;
    let mut gradients: Vec<Tensor> =
        gradients.get_ids().filter_map(|id| gradients.get_id(*id).cloned()).collect();
    // The two largest; the others are of channels.
    gradients.sort_by_key(|gradient| std::cmp::Reverse(gradient.elem_count()));
    gradients.truncate(2);
    let vars = gradients.iter().map(Var::from_tensor).collect::<Result<Vec<_>>>()?;
    let (first, last) = (&vars[0], &vars[vars.len() - 1]);
    let prepared =
        Prepared { shape: y.shape().clone(), first: gradients[0].clone(), second: gradients.get(1).cloned() };
    let y = first.apply_op2(last, prepared)?;
    best(repeats, || backward(y.clone()))
}

/// An operation whose gradients are there already.
struct Prepared {
    shape: Shape,
    first: Tensor,
    second: Option<Tensor>,
}

impl CustomOp2 for Prepared {
    fn name(&self) -> &'static str {
        "prepared"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0; self.shape.elem_count()]), self.shape.clone()))
    }

    fn bwd(
        &self,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(self.first.clone()), self.second.clone()))
    }
}

/// The shortest time of a call in nanoseconds.
fn best(repeats: usize, f: impl Fn() -> Result<Tensor>) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..=repeats {
        let start = Instant::now();
        std::hint::black_box(f()?);
        best = best.min(start.elapsed().as_nanos() as f64);
    }
    Ok(best)
}
