//! A backbone from one convention's names to another's, its numbers untouched; Keras's become what PyTorch's are ([`crate::keras`]).

use crate::keras;
use crate::load::{says_itself, usual_of};
use crate::names::{Account, Convention, Framework, recognise};
use crate::published;
use crate::weights::{self, WeightFile};
use crate::which_arch::{Told, arch_of, shapes_tell};
use crate::{Error, Result};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// Queries, keys and values: where their projection is one tensor here, others have three.
const FUSED: &str = ".attn.qkv.";
const APART: [&str; 3] = [".attn.q.", ".attn.k.", ".attn.v."];

/// The backbone's tensors under our names, every one with the bits that a file of PyTorch's has, and what became of each tensor of the file. `from`
/// names the convention; otherwise it is found.
///
/// # Errors
/// An unknown convention; names of none; Keras's numbers of which too little is said.
pub fn backbone(file: &WeightFile, from: Option<&str>) -> Result<(HashMap<String, Tensor>, Account)> {
    let names = file.tensors.keys().map(String::as_str);
    let account = match from {
        Some(name) => {
            let convention = Convention::named(name)?;
            convention.account(names).checked(Some(convention.name))?
        }
        None => recognise(names)?,
    };
    let tensors = account.backbone.iter().map(|(ours, theirs)| (ours.clone(), file.tensors[theirs].clone()));
    let mut tensors = tensors.collect();
    fuse_attention(&mut tensors)?;
    if account.convention.framework == Framework::Keras {
        keras::to_ours(&mut tensors, &file.metadata)?;
    }
    Ok((tensors, account))
}

/// The backbone of the file at `path` under the names of `to`. Its metadata are the file's, or, where they do not say the architecture and
/// how images are prepared and a configuration beside the file does, also those, as [`Encoder::save`](crate::Encoder::save) writes them: the
/// configuration does not go with the file.
///
/// # Errors
/// Those of [`weights::read`](crate::weights::read) and [`convert`]; a configuration that cannot be understood.
pub fn convert_file(path: &Path, from: Option<&str>, to: &Convention) -> Result<(WeightFile, Account)> {
    let file = weights::read(path, &Device::Cpu)?;
    let (mut converted, account) = convert(&file, from, to).map_err(|e| e.of(path))?;
    if says_itself(&file.metadata) || account.convention.framework == Framework::Keras {
        return Ok((converted, account));
    }
    let (said, network) = (published::beside(path)?, published::network::beside(path)?);
    let (ours, _) = backbone(&file, from)?;
    let told = Told::by(&account, &file.metadata).and(&network);
    // Of an architecture that is none of ours, or several, nothing can be said.
    if let Ok(arch) = arch_of(&ours, &account, told)
        && (said.is_some() || !shapes_tell(arch))
    {
        network.check(arch).map_err(|problem| Error::Arch { path: path.to_owned(), problem })?;
        converted.metadata.extend(said.unwrap_or_default().or(usual_of(arch, &ours)).metadata(arch));
    }
    Ok((converted, account))
}

/// The backbone of a file under the names of `to`, with the file's metadata. Of Keras's, and where the convention says of the architecture
/// what shapes do not, this also says the architecture and how images are prepared, as [`Encoder::save`](crate::Encoder::save) does: the
/// names would say another.
///
/// # Errors
/// An unknown convention; names of none; a tensor that is left over, or that `to` has no name for; Keras's convention as `to`.
pub fn convert(file: &WeightFile, from: Option<&str>, to: &Convention) -> Result<(WeightFile, Account)> {
    let (ours, account) = backbone(file, from)?;
    let mismatch = |problems: String| Error::Mismatch { what: format!("the names of {}", to.name), problems };
    if to.framework == Framework::Keras {
        return Err(mismatch(
            "in a Keras model more than the names differ; such models are read and not written".into(),
        ));
    }
    if !account.left.is_empty() {
        let left: Vec<String> = account.left.iter().take(8).map(|name| format!("`{name}`")).collect();
        return Err(mismatch(format!(
            "{} tensors are of no backbone and of no known head: {}",
            account.left.len(),
            left.join(", ")
        )));
    }
    let mut metadata = file.metadata.clone();
    if account.convention.framework == Framework::Keras {
        let arch = arch_of(&ours, &account, Told::by(&account, &metadata)).map_err(mismatch)?;
        metadata = keras::preprocessing(arch.image_size).metadata(arch);
    } else if !says_itself(&metadata)
        && let Ok(arch) = arch_of(&ours, &account, Told::by(&account, &metadata))
        && !shapes_tell(arch)
    {
        metadata.extend(usual_of(arch, &ours).metadata(arch));
    }
    let mut tensors = HashMap::with_capacity(ours.len());
    for (name, tensor) in ours {
        let mut put = |ours: &str, tensor: Tensor| -> Result<()> {
            let theirs = to.theirs(ours).ok_or_else(|| mismatch(format!("there is none for `{ours}`")))?;
            tensors.insert(theirs, tensor);
            Ok(())
        };
        if name.contains(FUSED) && to.rules.iter().any(|(ours, _)| ours.contains(APART[0])) {
            let d = tensor.dim(0)? / APART.len();
            for (i, part) in APART.iter().enumerate() {
                put(&name.replace(FUSED, part), tensor.narrow(0, i * d, d)?.contiguous()?)?;
            }
        } else {
            put(&name, tensor)?;
        }
    }
    Ok((WeightFile { tensors, metadata }, account))
}

/// Queries, keys and values that stand apart become one projection, in this order.
fn fuse_attention(tensors: &mut HashMap<String, Tensor>) -> Result<()> {
    let queries: Vec<String> = tensors.keys().filter(|name| name.contains(APART[0])).cloned().collect();
    for query in queries {
        let parts = APART.map(|part| query.replace(APART[0], part));
        let Some(three) = parts.iter().map(|part| tensors.get(part)).collect::<Option<Vec<_>>>() else {
            continue;
        };
        let whole = Tensor::cat(&three, 0)?;
        for part in &parts {
            tensors.remove(part);
        }
        tensors.insert(query.replace(APART[0], FUSED), whole);
    }
    Ok(())
}
