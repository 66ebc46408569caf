//! Encoders as others load them: weights under a library's names, and the configuration by which it builds the network and prepares
//! images.
//!
//! | library | networks | `config.json` is |
//! |---|---|---|
//! | [`Library::Timm`] | residual networks with ImageNet's stem, vision transformers | what `timm.create_model("hf-hub:…")` reads |
//! | [`Library::Transformers`] | the same but the wide ones | that of `ResNetModel`, `ViTModel` |
//! | [`Library::Code`] | residual networks of every stem | that of the network in `modeling_selfsup.py`, which is published beside it and that transformers loads with `trust_remote_code=True` |
//!
//! Features are those of [`Encoder::forward`]: timm's `forward` without classifier, transformers' `pooler_output` of residual networks
//! and the first of `last_hidden_state` of vision transformers.

use crate::names::Convention;
use crate::resnet::{Block, ResNetConfig, Stem};
use crate::vit::{self, VitConfig};
use crate::weights::WeightFile;
use crate::{Colors, CropMode, Encoder, Error, Interpolation, Network, Preprocessing, Result, convert};
use candle_core::{DType, Tensor};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The network of [`Library::Code`].
const MODELING: &str = include_str!("modeling_selfsup.py");

/// Who is to load a published encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// timm (pytorch-image-models).
    Timm,
    /// transformers, with its own networks.
    Transformers,
    /// transformers, with a network whose code is published beside the weights.
    Code,
}

/// The files of a published encoder.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Who loads it.
    pub library: Library,
    /// `model.safetensors`.
    pub weights: WeightFile,
    /// `config.json`.
    pub config: Value,
    /// `preprocessor_config.json`, which transformers reads.
    pub preprocessor: Value,
    /// `modeling_selfsup.py`.
    pub code: Option<&'static str>,
}

impl Library {
    /// Every library, the one that is chosen first where it can be.
    pub const ALL: [Library; 3] = [Library::Timm, Library::Transformers, Library::Code];

    /// The hub's name of it (`library_name` of a model card).
    pub fn name(self) -> &'static str {
        match self {
            Library::Timm => "timm",
            Library::Transformers | Library::Code => "transformers",
        }
    }

    /// The first that has the network.
    pub fn of(encoder: &Encoder) -> Result<Self> {
        let mut reasons = Vec::new();
        for library in Self::ALL {
            match configuration(encoder, library) {
                Ok(_) => return Ok(library),
                Err(Error::Publish { why, .. }) if reasons.contains(&why) => {}
                Err(Error::Publish { why, .. }) => reasons.push(why),
                Err(other) => return Err(other),
            }
        }
        let arch = encoder.arch().name.to_owned();
        Err(Error::Publish { arch, library: "any library", why: reasons.join("; ") })
    }
}

/// What is published of an encoder; `metadata` goes into the weight file.
///
/// # Errors
/// [`Error::Publish`] where the library has no such network, or prepares no such images.
pub fn publication(
    encoder: &Encoder,
    library: Library,
    metadata: &BTreeMap<String, String>,
) -> Result<Publication> {
    let config = configuration(encoder, library)?;
    let mut file = encoder.to_file(metadata)?;
    // Without it transformers refuses the file.
    file.metadata.insert("format".into(), "pt".into());
    let names = match (library, encoder.network()) {
        (Library::Transformers, Network::ResNet(_)) => "hf-resnet",
        (Library::Transformers, Network::Vit(_)) => "hf-vit",
        _ => "timm",
    };
    let (mut weights, _) = convert(&file, None, Convention::named(names)?)?;
    // PyTorch counts batches beside the running statistics, uses the count for nothing here, and misses it loudly.
    let means = weights.tensors.keys().filter_map(|name| name.strip_suffix("running_mean"));
    let counts: Vec<String> = means.map(|norm| format!("{norm}num_batches_tracked")).collect();
    for name in counts {
        weights.tensors.insert(name, Tensor::zeros((), DType::I64, encoder.device())?);
    }
    let code = (library == Library::Code).then_some(MODELING);
    Ok(Publication { library, weights, config, preprocessor: preprocessor(encoder), code })
}

/// `config.json`.
fn configuration(encoder: &Encoder, library: Library) -> Result<Value> {
    let fail = |why: &str| {
        let (arch, library) = (encoder.arch().name.to_owned(), library.name());
        Err(Error::Publish { arch, library, why: why.to_owned() })
    };
    if encoder.preprocessing().colors != Colors::Rgb {
        return fail("the encoder sees lightness, and these libraries prepare red, green and blue");
    }
    match (library, encoder.network()) {
        (Library::Timm, Network::ResNet(net))
            if net.stem == Stem::ImageNet && net.width == 64 && net.block != Block::BottleneckV1 =>
        {
            let args = json!({});
            Ok(timm(encoder, encoder.arch().name, args, "avg", ["conv1", "fc"]))
        }
        (Library::Timm, Network::Vit(net)) => {
            let name = match (net.width, net.patch) {
                (384, 8) => "vit_small_patch8_224",
                (768, 8) => "vit_base_patch8_224",
                (384, _) => "vit_small_patch16_224",
                (768, _) => "vit_base_patch16_224",
                _ => "vit_tiny_patch16_224",
            };
            let args = json!({
                "img_size": net.image_size, "patch_size": net.patch, "embed_dim": net.width,
                "depth": net.depth, "num_heads": net.heads,
            });
            Ok(timm(encoder, name, args, "token", ["patch_embed.proj", "head"]))
        }
        (Library::Timm, _) => fail("timm has no such network"),
        (Library::Transformers, Network::ResNet(net)) => match layer_type(&net) {
            Some(layer_type) if net.stem == Stem::ImageNet => Ok(json!({
                "architectures": ["ResNetModel"], "model_type": "resnet", "num_channels": 3,
                "embedding_size": net.width, "hidden_sizes": channels(&net), "depths": net.stages,
                "layer_type": layer_type, "hidden_act": "relu", "downsample_in_first_stage": false,
                "downsample_in_bottleneck": net.block == Block::BottleneckV1,
            })),
            _ => fail("transformers has no such residual network"),
        },
        (Library::Transformers, Network::Vit(net)) => Ok(transformers_vit(&net)),
        (Library::Transformers, Network::ConvNet(_)) => fail("transformers has no such network"),
        (Library::Code, Network::ResNet(net)) => match layer_type(&net) {
            Some(layer_type) if net.block != Block::BottleneckV1 => Ok(json!({
                "architectures": ["SelfsupResNet"], "model_type": "selfsup-resnet",
                "auto_map": {
                    "AutoConfig": "modeling_selfsup.SelfsupResNetConfig", "AutoModel": "modeling_selfsup.SelfsupResNet",
                },
                "layer_type": layer_type, "depths": net.stages, "width": net.width,
                "stem": match net.stem { Stem::ImageNet => "imagenet", Stem::Cifar => "cifar", Stem::Halving => "halving" },
            })),
            _ => fail("its blocks are none of those that are published as code"),
        },
        (Library::Code, _) => fail("only residual networks are published as code"),
    }
}

fn timm(encoder: &Encoder, name: &str, args: Value, pool: &str, [first, last]: [&str; 2]) -> Value {
    let p = encoder.preprocessing();
    let features = encoder.feature_dim();
    json!({
        "architecture": name, "num_classes": 0, "num_features": features, "global_pool": pool, "model_args": args,
        "pretrained_cfg": {
            "tag": "selfsup", "custom_load": false, "input_size": [3, p.image_size, p.image_size],
            "fixed_input_size": pool == "token", "interpolation": p.interpolation, "crop_pct": crop_pct(p),
            "crop_mode": p.crop_mode,
            "mean": short(&p.mean), "std": short(&p.std), "num_classes": 0, "pool_size": null,
            "first_conv": first, "classifier": last,
        },
    })
}

/// The share by which timm comes to the side that images are resized to: ⌊image_size / share⌋, in f64.
fn crop_pct(p: &Preprocessing) -> f64 {
    let side = p.image_size as f64;
    let share = side / p.resize as f64;
    // Rounding may have made it a pixel less.
    if (side / share).floor() as usize == p.resize { share } else { side / (p.resize as f64 + 0.5) }
}

fn transformers_vit(net: &VitConfig) -> Value {
    json!({
        "architectures": ["ViTModel"], "model_type": "vit", "num_channels": 3, "image_size": net.image_size,
        "patch_size": net.patch, "hidden_size": net.width, "num_hidden_layers": net.depth,
        "num_attention_heads": net.heads, "intermediate_size": vit::MLP_RATIO * net.width, "hidden_act": "gelu",
        "layer_norm_eps": vit::EPS, "qkv_bias": true, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
    })
}

/// Images as evaluation takes them here: the shorter side or both resized, then the central square.
fn preprocessor(encoder: &Encoder) -> Value {
    let p = encoder.preprocessing();
    // PIL's numbers.
    let resample = match p.interpolation {
        Interpolation::Bilinear => 2,
        Interpolation::Bicubic => 3,
    };
    let size = match p.crop_mode {
        CropMode::Center => json!({ "shortest_edge": p.resize }),
        CropMode::Squash => json!({ "height": p.resize, "width": p.resize }),
    };
    json!({
        "image_processor_type": "BitImageProcessor", "do_convert_rgb": true, "do_resize": true,
        "size": size, "resample": resample,
        "do_center_crop": true, "crop_size": { "height": p.image_size, "width": p.image_size },
        "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": short(&p.mean), "image_std": short(&p.std),
    })
}

/// Numbers as they were written: .485, not what f32 makes of it in f64.
fn short(values: &[f32; 3]) -> Value {
    values
        .iter()
        .map(|value| serde_json::from_str::<Value>(&value.to_string()).unwrap_or(json!(value)))
        .collect()
}

fn layer_type(net: &ResNetConfig) -> Option<&'static str> {
    match net.block {
        Block::Basic => Some("basic"),
        Block::Bottleneck | Block::BottleneckV1 => Some("bottleneck"),
        Block::WideBottleneck => None,
    }
}

fn channels(net: &ResNetConfig) -> Vec<usize> {
    (0..net.stages.len()).map(|stage| (net.width << stage) * net.block.expansion()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timm_comes_to_the_same_side() {
        for side in [32, 224, 288] {
            for resize in side..=4 * side {
                let share =
                    crop_pct(&Preprocessing { resize, ..Preprocessing::rgb(side, [0.5; 3], [0.25; 3]) });
                assert_eq!((side as f64 / share).floor() as usize, resize, "{share} of {side}");
            }
        }
    }
}
