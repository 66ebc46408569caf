//! `selfsup publish`: a folder of a run's encoder that can be uploaded as it is.

mod card;
mod license;

use crate::closing_table::ClosingTable;
use crate::failure::{Failure, OrUsage, Result};
use crate::output;
use anyhow::{Context, anyhow};
use candle_core::Device;
use card::Card;
use clap::{Args, ValueEnum};
use license::License;
use selfsup_data::{OpenOptions, open_labelled_parts};
use selfsup_models::hub::HubSpec;
use selfsup_models::publish::{self, publication};
use selfsup_models::{Encoder, weights};
use selfsup_train::{PretrainConfig, RunFolder, metrics};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// `publish`
#[derive(Debug, Args)]
pub struct PublishArgs {
    /// The run's folder
    pub run: PathBuf,
    /// The folder to write, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What it will be called on the hub [default: OWNER/ and the folder's name]
    #[arg(long, value_name = "OWNER/NAME", value_parser = repository)]
    pub repo: Option<String>,
    /// Who is to load it [default: the first that has the network]
    #[arg(long, value_enum, value_name = "LIBRARY")]
    pub library: Option<Library>,
    /// The licence's identifier on the hub, such as apache-2.0, cc-by-4.0 or other
    #[arg(long, value_name = "ID")]
    pub license: Option<String>,
    /// Of another licence: its name
    #[arg(long, value_name = "NAME", requires = "license")]
    pub license_name: Option<String>,
    /// Of another licence: where its text stands
    #[arg(long, value_name = "URL", requires = "license_name")]
    pub license_link: Option<String>,
    /// Labelled images of the card's table [default: the run's, whose table it may keep]
    #[arg(long, value_name = "SRC")]
    pub data: Option<String>,
    /// No table on the card
    #[arg(long, conflicts_with = "data")]
    pub no_probe: bool,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// Who loads a published encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Library {
    /// timm: residual networks with ImageNet's stem, vision transformers
    Timm,
    /// transformers' own networks
    Transformers,
    /// transformers, with code published beside the weights: residual networks of every stem
    Code,
}

/// Runs the command.
pub fn run(args: PublishArgs) -> Result {
    let (run, config) = RunFolder::open(&args.run).or_usage()?;
    let encoder = Encoder::load(&run.encoder(), &Device::Cpu).or_usage()?;
    let library = match args.library {
        Some(Library::Timm) => publish::Library::Timm,
        Some(Library::Transformers) => publish::Library::Transformers,
        Some(Library::Code) => publish::Library::Code,
        None => publish::Library::of(&encoder).or_usage()?,
    };
    free(&args.out).or_usage()?;
    let license =
        License::of(args.license.as_deref(), args.license_name.as_deref(), args.license_link.as_deref())?;
    let metadata = weights::read(&run.encoder(), &Device::Cpu)?.metadata;
    let published = publication(&encoder, library, &metadata).or_usage()?;
    let table = if args.no_probe { None } else { table(&args, &run, &encoder, &config)? };
    let steps = metadata.get("steps").and_then(|steps| steps.parse().ok());
    let card = Card {
        repo: args.repo.clone().unwrap_or_else(|| repository_of(&args.out)),
        license: license.as_ref(),
        library,
        encoder: &encoder,
        config: &config,
        steps: steps.context("the run's encoder does not say its steps").or_usage()?,
        records: metrics::read(&run.path().join("metrics.jsonl"))?,
        table: table.as_ref(),
    };

    // Beside its place, and renamed: half a folder is never uploaded.
    let parent = args.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let folder = tempfile::Builder::new().prefix(".publishing-").tempdir_in(parent)?;
    let write = |name: &str, text: &str| -> Result {
        std::fs::write(folder.path().join(name), text).with_context(|| format!("cannot write {name}"))?;
        Ok(())
    };
    let json = |value: &Value| serde_json::to_string_pretty(value).map(|text| text + "\n");
    weights::write(&folder.path().join("model.safetensors"), &published.weights)?;
    write("config.json", &json(&published.config)?)?;
    write("preprocessor_config.json", &json(&published.preprocessor)?)?;
    if let Some(code) = published.code {
        write("modeling_selfsup.py", code)?;
    }
    write("training.toml", &card.settings())?;
    if let Some((file, name)) = config.kept().1 {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}, which belongs to what is published", file.display()))?;
        write(name, &text)?;
    }
    write("README.md", &card.text())?;
    place(folder, &args.out)?;

    let repo = &card.repo;
    let out = args.out.display().to_string();
    output::print_line(format_args!(
        "{out}: {} for {}\nto upload it: hf upload {repo} {}\nto use it: selfsup probe hf:{repo} --data YOUR_IMAGES",
        encoder.arch().name,
        match library {
            publish::Library::Code => "transformers, with its code",
            _ => library.name(),
        },
        shell_word(&out),
    ))?;
    Ok(())
}

/// The run's own table, or one that is measured now.
fn table(
    args: &PublishArgs,
    run: &RunFolder,
    encoder: &Encoder,
    config: &PretrainConfig,
) -> Result<Option<ClosingTable>> {
    let kept = ClosingTable::kept(run.path(), encoder)?;
    let Some(data) = &args.data else {
        return match kept {
            Some(table) => Ok(Some(table)),
            None => ClosingTable::measure(encoder, config, &config.data, args.quiet),
        };
    };
    if let Some(table) = kept.filter(|table| table.data == *data) {
        return Ok(Some(table));
    }
    // What was asked for is there, or the command has failed.
    open_labelled_parts(data, None, &OpenOptions::default()).or_usage()?;
    match ClosingTable::measure(encoder, config, data, args.quiet)? {
        Some(table) => Ok(Some(table)),
        None => Err(Failure::Usage(anyhow!("no probe can be fitted on `{data}`"))),
    }
}

/// Fails if something is at the folder's place.
fn free(out: &Path) -> anyhow::Result<()> {
    if out.file_name().is_none() || out.is_symlink() {
        return Err(anyhow!("{} is no name of a new folder", out.display()));
    }
    match std::fs::read_dir(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(anyhow!("{}: {e}", out.display())),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(anyhow!("{} is not empty; publish into a folder of its own", out.display())),
        },
    }
}

/// The finished folder at its place, readable as any other.
fn place(folder: tempfile::TempDir, out: &Path) -> Result {
    if out.exists() {
        // It was empty, and still is, or this fails.
        std::fs::remove_dir(out).with_context(|| format!("cannot replace {}", out.display()))?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        for entry in std::fs::read_dir(folder.path())? {
            std::fs::set_permissions(entry?.path(), std::fs::Permissions::from_mode(0o644))?;
        }
    }
    let path = folder.keep();
    std::fs::rename(&path, out).map_err(|e| {
        let _ = std::fs::remove_dir_all(&path);
        Failure::Work(anyhow!("cannot write {}: {e}", out.display()))
    })
}

fn repository(text: &str) -> std::result::Result<String, String> {
    format!("hf:{text}")
        .parse::<HubSpec>()
        .ok()
        .filter(|spec| spec.repo == text)
        .map(|spec| spec.repo)
        .ok_or_else(|| "expected OWNER/NAME, of letters, digits, `-`, `_` and `.`".into())
}

/// `OWNER/` and a folder's name, if a repository may be called so.
fn repository_of(out: &Path) -> String {
    let name = out.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    repository(&format!("OWNER/{name}")).unwrap_or_else(|_| "OWNER/NAME".into())
}

/// A text as one word of a shell's line.
fn shell_word(text: &str) -> String {
    let plain = |char: char| char.is_alphanumeric() || "/._-+:@%".contains(char);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}
