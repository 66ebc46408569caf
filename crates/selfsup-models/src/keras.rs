//! What the numbers of a Keras residual network mean, and how they become ours.
//!
//! [`crate::weights`] reads them and [`crate::names`] knows their names; what differs beside these is folded into the weights, so that the
//! encoder is an ordinary one. In evaluation all of it is exact but for rounding:
//!
//! | Keras | here |
//! |---|---|
//! | kernels `[kh, kw, c_in, c_out]`, dense ones `[in, out]` | `[c_out, c_in, kh, kw]`, `[out, in]`, as files hold them |
//! | convolutions have a bias b before the normalisation | running mean ← running mean − b |
//! | normalisations add their own ε, which the topology says (1e-3 with the older names, 1.001e-5 with today's) | running variance ← running variance + ε − 10⁻⁵ |
//! | channels are blue, green, red | the first convolution's input channels are turned round |
//! | 0…255 minus a mean, not divided by a deviation ("caffe mode") | [`Preprocessing`] with that mean over 255 and a deviation of 1/255 |
//! | a block's first 1×1 has the stride | architectures named `-v1` |
//!
//! Channels and mean are no part of a file. They follow from the names, which are those of `keras.applications`' residual networks, whose
//! published weights expect this (`keras.applications.resnet.preprocess_input`, of mode `caffe`). A network of the same names that was
//! trained otherwise would be read wrongly. Zeros that pad the first convolution are zeros behind the mean in both.
//!
//! In training a batch's own variance gets our ε; Keras's would differ.

use crate::layers::BATCH_NORM_EPS;
use crate::names::Account;
use crate::preprocessing::Preprocessing;
use crate::weights::keras::{EPSILON, STRIDED};
use crate::{Error, Result};
use candle_core::{DType, Tensor};
use std::collections::{BTreeMap, HashMap};

/// Mean of ImageNet's red, green and blue in 0…255, as Caffe's models had it.
const MEAN: [f32; 3] = [123.68, 116.779, 103.939];

/// How images are prepared.
pub fn preprocessing(image_size: usize) -> Preprocessing {
    Preprocessing::rgb(image_size, MEAN.map(|mean| mean / 255.0), [1.0 / 255.0; 3])
}

/// Whether the stride of a bottleneck is in its first convolution. A file that says no strides is taken as Keras's applications are.
pub fn strides_first(account: &Account, metadata: &BTreeMap<String, String>) -> bool {
    let Some(strided) = metadata.get(STRIDED) else { return true };
    let has_stride = |conv: &str| {
        account.backbone.iter().any(|(ours, theirs)| {
            let layer =
                theirs.strip_prefix(&account.prefix[..]).and_then(|name| name.strip_suffix("/kernel"));
            ours.starts_with("layer")
                && ours.ends_with(conv)
                && layer.is_some_and(|layer| strided.split(' ').any(|name| name == layer))
        })
    };
    has_stride(".conv1.weight") || !has_stride(".conv2.weight")
}

/// A backbone's tensors under our names, with Keras's numbers, become ours.
///
/// # Errors
/// Normalisations whose epsilon the metadata does not say, or that have several; a bias of another shape than its normalisation.
pub fn to_ours(tensors: &mut HashMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let more = epsilon(metadata)? - BATCH_NORM_EPS;
    let names: Vec<String> = tensors.keys().cloned().collect();
    for name in &names {
        let Some(norm) = norm_behind(name) else { continue };
        let mean = format!("{norm}.running_mean");
        // A bias without its normalisation is left over, and named where the file is loaded.
        let Some(running) = tensors.get(&mean) else { continue };
        let bias = &tensors[name];
        if bias.dims() != running.dims() {
            return Err(mismatch(format!(
                "`{name}` has shape {:?}, and its normalisation {:?}",
                bias.dims(),
                running.dims()
            )));
        }
        let folded = (running.to_dtype(DType::F32)? - bias.to_dtype(DType::F32)?)?;
        tensors.insert(mean, folded);
        tensors.remove(name);
    }
    for (name, tensor) in tensors.iter_mut() {
        if name.ends_with(".running_var") {
            *tensor = (tensor.to_dtype(DType::F64)? + more)?.to_dtype(DType::F32)?;
        } else if tensor.rank() == 4 {
            *tensor = tensor.permute((3, 2, 0, 1))?.contiguous()?;
        }
    }
    if let Some(first) = tensors.get_mut("conv1.weight")
        && let Ok((_, 3, _, _)) = first.dims4()
    {
        *first = first.index_select(&Tensor::new(&[2u32, 1, 0], first.device())?, 1)?;
    }
    Ok(())
}

/// The normalisation behind the convolution whose bias this is.
fn norm_behind(name: &str) -> Option<String> {
    let conv = name.strip_suffix(".bias")?;
    if let Some(block) = conv.strip_suffix("downsample.0") {
        return Some(format!("{block}downsample.1"));
    }
    let (block, last) = conv.rsplit_once('.').map_or(("", conv), |(block, last)| (block, last));
    let number = last.strip_prefix("conv")?;
    Some(if block.is_empty() { format!("bn{number}") } else { format!("{block}.bn{number}") })
}

fn epsilon(metadata: &BTreeMap<String, String>) -> Result<f64> {
    let said = metadata.get(EPSILON).map_or("", String::as_str);
    match said.parse::<f64>() {
        Ok(epsilon) if epsilon.is_finite() && epsilon > 0.0 => Ok(epsilon),
        _ if said.is_empty() => {
            Err(mismatch("its topology, which says the normalisations' epsilon, is missing".into()))
        }
        _ => Err(mismatch(format!(
            "its normalisations have the epsilons {said}; one positive number for all is expected"
        ))),
    }
}

fn mismatch(problems: String) -> Error {
    Error::Mismatch { what: "Keras's residual networks".into(), problems }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::recognise;

    /// Where the stride of a bottleneck is, the topology decides.
    #[test]
    fn strides_are_where_the_topology_says() {
        for prefix in ["", "resnet50/"] {
            let layers = ["conv1_conv", "conv3_block1_0_conv", "conv3_block1_1_conv", "conv3_block1_2_conv"];
            let names: Vec<String> = layers.iter().map(|layer| format!("{prefix}{layer}/kernel")).collect();
            let account = recognise(names.iter().map(String::as_str)).unwrap();
            assert_eq!(account.convention.name, "keras");
            let first = |strided: &str| {
                strides_first(&account, &BTreeMap::from([(STRIDED.to_owned(), strided.to_owned())]))
            };
            assert!(first("conv1_conv conv3_block1_0_conv conv3_block1_1_conv"), "{prefix}");
            assert!(!first("conv1_conv conv3_block1_0_conv conv3_block1_2_conv"), "{prefix}");
            assert!(first("conv1_conv"), "{prefix}: nothing is said of bottlenecks");
            assert!(strides_first(&account, &BTreeMap::new()), "{prefix}: as Keras's applications are");
        }
    }

    #[test]
    fn a_bias_goes_into_the_normalisation_behind_its_convolution() {
        for (bias, norm) in [
            ("conv1.bias", Some("bn1")),
            ("layer1.0.conv3.bias", Some("layer1.0.bn3")),
            ("layer4.11.downsample.0.bias", Some("layer4.11.downsample.1")),
            ("layer1.0.bn3.bias", None),
            ("layer1.0.downsample.1.bias", None),
            ("conv1.weight", None),
        ] {
            assert_eq!(norm_behind(bias).as_deref(), norm, "{bias}");
        }
    }
}
