//! Which architecture a file's tensors are of.

use crate::arch::{ARCHS, Arch};
use crate::backbone::{Backbone, Network};
use crate::keras;
use crate::names::{Account, Framework};
use crate::params::ParamBuilder;
use crate::published::network::NetworkSaid;
use crate::resnet::Block;
use candle_core::Tensor;
use std::collections::{BTreeMap, HashMap};

/// What is known of a network and tensors do not show.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    /// A bottleneck's stride is in its first convolution.
    strides_first: bool,
    /// A vision transformer's heads.
    heads: Option<usize>,
}

impl Told {
    /// What the names of a file tell, and its metadata.
    pub(crate) fn by(account: &Account, metadata: &BTreeMap<String, String>) -> Self {
        let is_keras = account.convention.framework == Framework::Keras;
        Self { strides_first: is_keras && keras::strides_first(account, metadata), heads: None }
    }

    /// The same with what the configuration beside it says.
    pub(crate) fn and(self, said: &NetworkSaid) -> Self {
        Self { strides_first: self.strides_first || said.strides_first, heads: said.heads.or(self.heads) }
    }
}

/// MoCo v3's small transformer has as many heads as the one of twice its width.
fn heads_of_convention(account: &Account, config: &Network) -> Option<usize> {
    match config {
        Network::Vit(vit) if account.convention.name == "moco-v3" && vit.width == 384 => Some(12),
        _ => None,
    }
}

/// The architecture that has the most of the tensors, by name and shape, if one alone has; of those that differ in what tensors do not show
/// the one that was told, or the usual one.
pub(crate) fn arch_of(
    tensors: &HashMap<String, Tensor>,
    account: &Account,
    told: Told,
) -> Result<&'static Arch, String> {
    let mut scores = Vec::new();
    let usual =
        ARCHS.iter().enumerate().filter(|(i, arch)| !ARCHS[..*i].iter().any(|a| differ_in_heads(a, arch)));
    for arch in usual.map(|(_, arch)| arch).filter(|arch| may_stride(arch, told.strides_first)) {
        let build = ParamBuilder::shapes();
        Backbone::new(&arch.config, &build).map_err(|e| e.to_string())?;
        scores.push((fitting(&build.file_shapes(), tensors), arch));
    }
    let most = scores.iter().map(|(score, _)| *score).max().unwrap_or_default();
    let best: Vec<&'static Arch> =
        scores.into_iter().filter(|(score, _)| *score == most).map(|(_, arch)| arch).collect();
    let arch = match best[..] {
        [arch] => arch,
        _ if most == 0 => {
            return Err("its tensors have the shapes of no architecture here; residual networks, vision transformers, AlexNet and VGG-16 are \
                        read"
                .into());
        }
        _ => {
            let names: Vec<&str> = best.iter().map(|arch| arch.name).collect();
            let names = names.join(" and of ");
            // Those of a network that has more of them, or others.
            return Err(match most == tensors.len() {
                true => format!("its tensors are those of {names}; say which by --arch"),
                false => {
                    format!("its tensors are those of no architecture here; those of {names} are nearest")
                }
            });
        }
    };
    let (Network::Vit(vit), Some(heads)) =
        (arch.config, told.heads.or_else(|| heads_of_convention(account, &arch.config)))
    else {
        return Ok(arch);
    };
    let with = ARCHS.iter().find(|other| {
        (*other == arch || differ_in_heads(arch, other))
            && matches!(other.config, Network::Vit(config) if config.heads == heads)
    });
    with.ok_or_else(|| {
        format!(
            "its tensors are those of {} but for {heads} heads of attention, which a configuration says, in place of {}; \
             --arch {} takes them so all the same",
            arch.name, vit.heads, arch.name
        )
    })
}

/// Whether an architecture is the usual one of its tensors' shapes.
pub(crate) fn shapes_tell(arch: &Arch) -> bool {
    let usual = ARCHS.iter().take_while(|other| *other != arch).all(|other| !differ_in_heads(other, arch));
    usual && may_stride(arch, false)
}

/// Whether two architectures' tensors have the same shapes and mean something else.
fn differ_in_heads(a: &Arch, b: &Arch) -> bool {
    match (a.config, b.config) {
        (Network::Vit(mut x), Network::Vit(y)) if x.heads != y.heads => {
            x.heads = y.heads;
            x == y
        }
        _ => false,
    }
}

/// Whether an architecture's bottlenecks, if it has any, have their stride in the first convolution, or not.
fn may_stride(arch: &Arch, first: bool) -> bool {
    match arch.config {
        Network::ResNet(config) => match config.block {
            Block::Basic => true,
            Block::BottleneckV1 => first,
            Block::Bottleneck | Block::WideBottleneck => !first,
        },
        Network::ConvNet(_) | Network::Vit(_) => true,
    }
}

/// How many tensors are there with the shape that the model has, less those that it lacks.
fn fitting(shapes: &[(String, Vec<usize>)], tensors: &HashMap<String, Tensor>) -> usize {
    let fits = |name: &str, shape: &[usize]| tensors.get(name).is_some_and(|there| there.dims() == shape);
    let count = shapes.iter().filter(|(name, shape)| fits(name, shape)).count();
    // Of a smaller network all tensors may stand in a larger one's file.
    count.saturating_sub(tensors.len().abs_diff(shapes.len()))
}
