//! `selfsup inspect`: what is inside a weight file, a run folder or an untrained architecture.

use crate::failure::{OrUsage, Result};
use crate::frozen;
use crate::output;
use crate::table::{plain, render};
use anyhow::Context;
use candle_core::Device;
use clap::Args;
use selfsup_models::params::ParamBuilder;
use selfsup_models::{Backbone, arch, weights};
use selfsup_train::{RunFolder, metrics};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// `inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A run folder, a weight file or a folder with one, hf:OWNER/NAME, or random:ARCH
    pub what: String,
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// What `inspect` says.
#[derive(Serialize)]
struct Report {
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<Run>,
    metadata: BTreeMap<String, String>,
    parameters: usize,
    tensors: Vec<TensorInfo>,
}

#[derive(Serialize)]
struct Run {
    config: Value,
    config_sha256: String,
    last_record: Option<metrics::Record>,
}

#[derive(Serialize)]
struct TensorInfo {
    name: String,
    shape: Vec<usize>,
    dtype: &'static str,
}

/// Runs the command.
pub fn run(args: InspectArgs) -> Result {
    let report = match args.what.strip_prefix("random:") {
        Some(name) => untrained(name).or_usage()?,
        None => file(&args.what)?,
    };
    if args.json {
        output::print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print(&report)?;
    }
    Ok(())
}

/// A run folder (its encoder and its settings) or a weight file.
fn file(text: &str) -> Result<Report> {
    let path = frozen::file(text, false)?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let content = weights::read(&path, &Device::Cpu).or_usage()?;
    let mut tensors: Vec<TensorInfo> = content
        .tensors
        .iter()
        .map(|(name, t)| TensorInfo {
            name: name.clone(),
            shape: t.dims().to_vec(),
            dtype: t.dtype().as_str(),
        })
        .collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Report {
        what: path.display().to_string(),
        file_sha256: Some(Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect()),
        // Folders of others hold weights, too.
        run: RunFolder::is_one(Path::new(text)).then(|| run_of(Path::new(text))).transpose()?,
        metadata: content.metadata,
        parameters: content.tensors.values().map(|t| t.elem_count()).sum(),
        tensors,
    })
}

fn run_of(folder: &Path) -> Result<Run> {
    let (folder, config) = RunFolder::open(folder).or_usage()?;
    let last_record = metrics::read(&folder.path().join("metrics.jsonl"))?.pop();
    Ok(Run { config: serde_json::to_value(&config)?, config_sha256: config.sha256(), last_record })
}

fn untrained(name: &str) -> selfsup_models::Result<Report> {
    let arch = arch(name)?;
    let build = ParamBuilder::new(0, &Device::Cpu);
    Backbone::new(&arch.config, &build)?;
    let mut tensors = Vec::new();
    for (name, tensor) in build.finish().to_file()? {
        tensors.push(TensorInfo { name, shape: tensor.dims().to_vec(), dtype: tensor.dtype().as_str() });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Report {
        what: format!("{name}, untrained"),
        file_sha256: None,
        run: None,
        metadata: BTreeMap::from([("arch".to_owned(), arch.name.to_owned())]),
        parameters: tensors.iter().map(|t| t.shape.iter().product::<usize>()).sum(),
        tensors,
    })
}

fn print(report: &Report) -> Result {
    output::print_line(&report.what)?;
    if let Some(hash) = &report.file_sha256 {
        output::print_line(format_args!("sha256 {hash}"))?;
    }
    for (key, value) in report.metadata.iter().filter(|(key, _)| *key != "config") {
        output::print_line(format_args!("{}: {}", plain(key), plain(value)))?;
    }
    output::print_line(format_args!("{} numbers in {} tensors\n", report.parameters, report.tensors.len()))?;
    let head = ["tensor", "shape", "dtype"].map(str::to_owned).to_vec();
    let rows = report.tensors.iter().map(|t| vec![t.name.clone(), format!("{:?}", t.shape), t.dtype.into()]);
    output::print(render(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    if let Some(run) = &report.run {
        if let Some(last) = &run.last_record {
            output::print_line(format_args!(
                "\nlast logged: step {}, epoch {:.2}, loss {:.4}",
                last.step, last.epoch, last.loss
            ))?;
        }
        output::print_line(format_args!("\nconfig.toml, sha256 {}:", run.config_sha256))?;
        let config: toml::Value = serde_json::from_value(run.config.clone())?;
        output::print(toml::to_string(&config)?)?;
    }
    Ok(())
}
