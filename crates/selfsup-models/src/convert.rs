//! A backbone from one convention's names to another's, its numbers untouched.

use crate::names::{Account, Convention, recognise};
use crate::weights::WeightFile;
use crate::{Error, Result};
use candle_core::Tensor;
use std::collections::HashMap;

/// Queries, keys and values: where their projection is one tensor here, others have three.
const FUSED: &str = ".attn.qkv.";
const APART: [&str; 3] = [".attn.q.", ".attn.k.", ".attn.v."];

/// The backbone's tensors under our names, every one with the bits that the file has, and what became of each tensor of the file. `from`
/// names the convention; otherwise it is found.
///
/// # Errors
/// An unknown convention; names of none.
pub fn backbone(file: &WeightFile, from: Option<&str>) -> Result<(HashMap<String, Tensor>, Account)> {
    let names = file.tensors.keys().map(String::as_str);
    let account = match from {
        Some(name) => Convention::named(name)?.account(names).checked()?,
        None => recognise(names)?,
    };
    let tensors = account.backbone.iter().map(|(ours, theirs)| (ours.clone(), file.tensors[theirs].clone()));
    let mut tensors = tensors.collect();
    fuse_attention(&mut tensors)?;
    Ok((tensors, account))
}

/// The backbone of a file under the names of `to`, with the file's metadata.
///
/// # Errors
/// An unknown convention; names of none; a tensor that is left over, or that `to` has no name for.
pub fn convert(file: &WeightFile, from: Option<&str>, to: &Convention) -> Result<(WeightFile, Account)> {
    let (ours, account) = backbone(file, from)?;
    let mismatch = |problems: String| Error::Mismatch { what: format!("the names of {}", to.name), problems };
    if !account.left.is_empty() {
        let left: Vec<String> = account.left.iter().take(8).map(|name| format!("`{name}`")).collect();
        return Err(mismatch(format!(
            "{} tensors are of no backbone and of no known head: {}",
            account.left.len(),
            left.join(", ")
        )));
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
    Ok((WeightFile { tensors, metadata: file.metadata.clone() }, account))
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
