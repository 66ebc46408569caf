//! A head of one's own on a frozen encoder: two layers, trained by cross-entropy with AdamW.
//!
//! ```sh
//! cargo run --release -p selfsup-probe --example custom_head -- hf:timm/resnet18.a1_in1k my_photos/
//! ```

use candle_core::{D, DType, Device, Tensor};
use selfsup_data::{OpenOptions, open_labelled_parts};
use selfsup_kernels::{log_softmax, relu};
use selfsup_models::params::ParamBuilder;
use selfsup_models::{Linear, Mode};
use selfsup_optim::{OptimizerConfig, Param};
use selfsup_probe::{ExtractConfig, Frozen, Labelled, extract};
use std::sync::Arc;

const HIDDEN: usize = 128;
const STEPS: usize = 300;

/// d → 128 → classes, with ReLU between.
struct Head {
    hidden: Linear,
    out: Linear,
}

impl Head {
    fn new(d: usize, classes: usize, build: &ParamBuilder) -> selfsup_models::Result<Self> {
        let hidden = Linear::new(d, HIDDEN, true, &build.part("hidden"))?;
        Ok(Self { hidden, out: Linear::new(HIDDEN, classes, true, &build.part("out"))? })
    }

    fn forward(&self, features: &Tensor) -> selfsup_models::Result<Tensor> {
        self.out.forward(&relu(&self.hidden.forward(features, Mode::Train)?)?, Mode::Train)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [encoder, images] = &args[..] else { return Err("usage: custom_head ENCODER IMAGES".into()) };
    print!("{}", run(encoder, images)?);
    Ok(())
}

/// The accuracy on the test part.
pub fn run(encoder: &str, images: &str) -> Result<String, Box<dyn std::error::Error>> {
    let frozen = Frozen::Encoder(selfsup_models::load(encoder)?.encoder);
    let parts = open_labelled_parts(images, None, &OpenOptions::default())?;
    let classes = parts.train.classes().to_vec();
    let features = |part| extract(&frozen, Arc::new(part), &ExtractConfig::default(), &mut |_| ());
    let (train, test) = (features(parts.train)?, features(parts.test)?);
    let (train, test) = (train.labelled("train", &classes)?, test.labelled("test", &classes)?);

    let build = ParamBuilder::new(0, &Device::Cpu);
    let head = Head::new(train.dim(), classes.len(), &build)?;
    let params = build.finish();
    let params = params.trainable().map(|t| Param { name: t.name.clone(), var: t.var.clone() }).collect();
    let config = OptimizerConfig::adamw(1e-3);
    let mut optimizer = config.build(config.groups(params))?;
    let (x, labels) = tensors(&train)?;
    for _ in 0..STEPS {
        let loss = log_softmax(&head.forward(&x)?)?.gather(&labels, 1)?.mean_all()?.neg()?;
        optimizer.step(&loss.backward()?, config.lr())?;
    }

    let (x, labels) = tensors(&test)?;
    let right = head.forward(&x)?.argmax(D::Minus1)?.eq(&labels.squeeze(1)?)?;
    let share = right.to_dtype(DType::F32)?.mean_all()?.to_scalar::<f32>()?;
    Ok(format!("{:.1} % of {} test images\n", 100.0 * share, test.len()))
}

/// Features `[n, d]` and classes `[n, 1]`.
fn tensors(features: &Labelled<'_>) -> candle_core::Result<(Tensor, Tensor)> {
    let n = features.len();
    let x = Tensor::from_slice(features.values(), (n, features.dim()), &Device::Cpu)?;
    Ok((x, Tensor::from_slice(features.labels(), (n, 1), &Device::Cpu)?))
}
