//! What `config.json` beside a weight file says of its network and tensors do not show: transformers' (`model_type`) or timm's
//! (`architecture`). Networks that differ in nothing else have the same tensors, and other features.

use super::CONFIG;
use crate::arch::Arch;
use crate::backbone::Network;
use crate::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// What is said.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NetworkSaid {
    /// A bottleneck's stride is in its first convolution.
    pub strides_first: bool,
    /// Heads of attention.
    pub heads: Option<usize>,
    /// What no network here computes.
    otherwise: Vec<String>,
    /// timm's name of the network.
    timm: Option<String>,
}

impl NetworkSaid {
    /// Fails if the network is another than its tensors let it seem.
    pub(crate) fn check(&self, arch: &Arch) -> std::result::Result<(), String> {
        let mut otherwise = self.otherwise.clone();
        if let Some(name) = self.timm.as_ref().filter(|name| !is_timms(name, arch)) {
            otherwise.push(format!("architecture {name}"));
        }
        match otherwise[..] {
            [] => Ok(()),
            _ => Err(format!(
                "its tensors are those of {0}, but {CONFIG} beside it says {1}, which makes other features of them; --arch {0} takes them as {0} \
                 all the same",
                arch.name,
                otherwise.join(" and "),
            )),
        }
    }
}

/// What is said beside a weight file; nothing where there is no such file or another program's.
pub(crate) fn beside(weights: &Path) -> Result<NetworkSaid> {
    let path = weights.parent().unwrap_or(Path::new(".")).join(CONFIG);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData) => {
            return Ok(NetworkSaid::default());
        }
        Err(source) => return Err(Error::Io { path, source }),
    };
    Ok(serde_json::from_str(&text).map_or_else(|_| NetworkSaid::default(), |json| read(&json)))
}

fn read(json: &Value) -> NetworkSaid {
    let text = |json: &Value, name: &str| json.get(name).and_then(Value::as_str).map(str::to_owned);
    let number = |json: &Value, name: &str| json.get(name).and_then(Value::as_u64).map(|n| n as usize);
    let is = |name: &str| json.get(name).and_then(Value::as_bool).unwrap_or(false);
    let mut said = NetworkSaid::default();
    let mut only = |name: &str, usual: &str| {
        if let Some(value) = text(json, name).filter(|value| value != usual) {
            said.otherwise.push(format!("{name} {value}"));
        }
    };
    match text(json, "model_type").as_deref() {
        Some("vit" | "vit_mae" | "vit_msn") => {
            only("hidden_act", "gelu");
            said.heads = number(json, "num_attention_heads");
            // Ours is 10⁻⁶; of variances as trained networks have them smaller ones are as good.
            if let Some(eps) = json.get("layer_norm_eps").and_then(Value::as_f64).filter(|eps| *eps > 1e-5) {
                said.otherwise.push(format!("layer_norm_eps {eps}"));
            }
        }
        Some("resnet") => {
            only("hidden_act", "relu");
            said.strides_first = is("downsample_in_bottleneck");
            if is("downsample_in_first_stage") {
                said.otherwise.push("downsample_in_first_stage true".into());
            }
        }
        Some(_) => {}
        None => {
            said.timm = text(json, "architecture");
            if let Some(arguments) = json.get("model_args").filter(|_| said.timm.is_some()) {
                said.heads = number(arguments, "num_heads");
                let names = arguments.as_object().into_iter().flat_map(|arguments| arguments.keys());
                let strange = names.filter(|name| !SHOWN.contains(&&name[..]));
                said.otherwise.extend(strange.map(|name| format!("model_args.{name} {}", arguments[name])));
            }
        }
    }
    said
}

/// timm's arguments that tensors show, or that change nothing of the features.
const SHOWN: [&str; 11] = [
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "num_classes",
    "in_chans",
    "qkv_bias",
    "mlp_ratio",
    "dynamic_img_size",
    "drop_path_rate",
];

/// Whether timm's network of a name computes what the architecture does: `resnet50` and `tv_resnet50`, but not `resnetblur50`;
/// `vit_base_patch16_224` and `deit_base_patch16_384`, but not `vit_base_patch16_rpn_224`.
fn is_timms(name: &str, arch: &Arch) -> bool {
    let name = name.split('.').next().unwrap_or_default();
    match arch.config {
        Network::ResNet(_) => {
            let name = ["tv_", "gluon_", "ssl_", "swsl_"]
                .into_iter()
                .find_map(|of| name.strip_prefix(of))
                .unwrap_or(name);
            name.strip_suffix("_v1b").unwrap_or(name) == arch.name
        }
        Network::Vit(_) => {
            let mut parts = name.split('_');
            let kind = parts.next().is_some_and(|kind| ["vit", "deit"].contains(&kind));
            let size = parts.next().is_some_and(|size| ["tiny", "small", "base"].contains(&size));
            let patch = parts.next().is_some_and(|patch| patch.starts_with("patch"));
            let side = parts.next().is_some_and(|side| side.parse::<usize>().is_ok());
            kind && size && patch && side
        }
        Network::ConvNet(_) => name == arch.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch;

    fn check(json: &str, name: &str) -> std::result::Result<(), String> {
        read(&serde_json::from_str(json).unwrap()).check(arch(name).unwrap())
    }

    #[test]
    fn what_networks_compute_otherwise_is_named() {
        for (json, name, part) in [
            (r#"{"model_type": "vit", "hidden_act": "relu"}"#, "vit-tiny-16", "hidden_act relu"),
            (r#"{"model_type": "vit", "layer_norm_eps": 0.01}"#, "vit-tiny-16", "layer_norm_eps 0.01"),
            (r#"{"model_type": "resnet", "hidden_act": "gelu"}"#, "resnet50", "hidden_act gelu"),
            (
                r#"{"model_type": "resnet", "downsample_in_first_stage": true}"#,
                "resnet50",
                "downsample_in_first_stage true",
            ),
            (r#"{"architecture": "resnetblur50"}"#, "resnet50", "architecture resnetblur50"),
            (r#"{"architecture": "resnet50"}"#, "resnet34", "architecture resnet50"),
            (r#"{"architecture": "vit_base_patch16_rpn_224"}"#, "vit-base-16", "architecture vit_base"),
            (r#"{"architecture": "vit_base_patch16_clip_224"}"#, "vit-base-16", "architecture vit_base"),
            (
                r#"{"architecture": "vit_tiny_patch16_224", "model_args": {"act_layer": "relu"}}"#,
                "vit-tiny-16",
                r#"model_args.act_layer "relu""#,
            ),
        ] {
            let error = check(json, name).unwrap_err();
            assert!(error.contains(part) && error.contains(&format!("--arch {name}")), "{error}");
        }
    }

    #[test]
    fn what_networks_are_called_is_known() {
        for (json, name) in [
            (r#"{"model_type": "vit", "hidden_act": "gelu", "layer_norm_eps": 1e-12}"#, "vit-tiny-16"),
            (
                r#"{"model_type": "resnet", "hidden_act": "relu", "downsample_in_first_stage": false}"#,
                "resnet50",
            ),
            (r#"{"architecture": "resnet50.a1_in1k"}"#, "resnet50"),
            (r#"{"architecture": "tv_resnet34"}"#, "resnet34"),
            (r#"{"architecture": "gluon_resnet18_v1b"}"#, "resnet18"),
            (r#"{"architecture": "wide_resnet50_2"}"#, "wide_resnet50_2"),
            (r#"{"architecture": "vit_base_patch16_224"}"#, "vit-base-16"),
            (r#"{"architecture": "vit_small_patch16_224_in21k"}"#, "vit-small-16"),
            (r#"{"architecture": "deit_tiny_patch16_224"}"#, "vit-tiny-16"),
            (r#"{"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": 32}}"#, "vit-mini-cifar"),
            (r#"{"architecture": "vgg16_bn"}"#, "vgg16_bn"),
            // Another program's.
            (r#"{"model_type": "bert", "hidden_act": "relu"}"#, "resnet50"),
            (r#"[1, 2]"#, "resnet50"),
            (r#"{"model_args": {"act_layer": "relu"}}"#, "resnet50"),
        ] {
            check(json, name).unwrap_or_else(|e| panic!("{json}: {e}"));
        }
    }

    #[test]
    fn what_chooses_an_architecture_is_read() {
        let read = |json: &str| read(&serde_json::from_str(json).unwrap());
        assert_eq!(read(r#"{"model_type": "vit", "num_attention_heads": 12}"#).heads, Some(12));
        assert_eq!(read(r#"{"architecture": "a", "model_args": {"num_heads": 6}}"#).heads, Some(6));
        assert!(read(r#"{"model_type": "resnet", "downsample_in_bottleneck": true}"#).strides_first);
        assert_eq!(read(r#"{"model_type": "resnet"}"#), NetworkSaid::default());
    }
}
