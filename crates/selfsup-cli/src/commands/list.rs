//! `selfsup methods` and `selfsup archs`: what can be trained, and with what.

use crate::failure::Result;
use crate::output;
use crate::table::render;
use candle_core::Device;
use clap::Args;
use selfsup_models::params::ParamBuilder;
use selfsup_models::{ARCHS, Arch, Backbone};
use selfsup_train::{METHODS, PretrainConfig};
use serde_json::{Value, json};

/// `methods` and `archs`
#[derive(Debug, Args)]
pub struct JsonArgs {
    /// One JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

/// Methods with paper, year and the defaults on the shipped data.
pub fn methods(args: JsonArgs) -> Result {
    if args.json {
        let list = METHODS.iter().map(|m| {
            let defaults = PretrainConfig::resolve(m.name, &[])?;
            let mut value = serde_json::to_value(m)?;
            value["defaults"] = serde_json::to_value(defaults)?;
            Ok(value)
        });
        let list = list.collect::<anyhow::Result<Vec<Value>>>()?;
        output::print_line(serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    let head = ["method", "year", "idea", "paper"].map(str::to_owned).to_vec();
    let rows = METHODS
        .iter()
        .map(|m| vec![m.name.into(), m.year.to_string(), m.idea.into(), format!("{}, {}", m.title, m.paper)]);
    output::print(render(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    output::print_line("\ndefaults: selfsup pretrain METHOD --dry-run")?;
    Ok(())
}

/// Architectures with widths and sizes.
pub fn archs(args: JsonArgs) -> Result {
    let mut list = Vec::new();
    for arch in ARCHS {
        list.push((arch, parameters(arch)?));
    }
    if args.json {
        let list: Vec<Value> = list
            .iter()
            .map(|(a, count)| {
                json!({"name": a.name, "feature_dim": a.config.feature_dim(), "parameters": count,
                    "image_size": a.image_size, "source": a.source})
            })
            .collect();
        output::print_line(serde_json::to_string_pretty(&list)?)?;
        return Ok(());
    }
    let head = ["arch", "features", "parameters", "image size"].map(str::to_owned).to_vec();
    let rows = list.iter().map(|(a, count)| {
        vec![a.name.into(), a.config.feature_dim().to_string(), count.to_string(), a.image_size.to_string()]
    });
    output::print(render(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))?;
    Ok(())
}

fn parameters(arch: &Arch) -> selfsup_models::Result<usize> {
    let build = ParamBuilder::zeros(&Device::Cpu);
    Backbone::new(&arch.config, &build)?;
    Ok(build.finish().trainable_count())
}
