//! `selfsup pretrain` beside the same method in lightly and PyTorch, from their start to their weights: kNN accuracy against
//! wall time.
//!
//! Both sides are programs that get one configuration file and keep their backbone several times in a run. When a
//! checkpoint was written, counted from the process' start, is its time: start-up, decoding, augmentation and loss are in
//! it, the measuring, which comes afterwards, is not. One kNN probe measures both sides' weights. The sides run in turn,
//! never at once, and which of them begins turns from seed to seed. A run that is done is not done again.

mod plot;
mod report;
mod run;

use crate::args::{RaceArgs, Usage};
use crate::interrupt;
use anyhow::{Context, Result, bail};
use report::Report;
use run::{Run, Side, Track};
use selfsup_data::{Dataset, LabelledParts, OpenOptions, Source, open_labelled_parts};
use selfsup_train::{PretrainConfig, parse_setting};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use toml::{Table, Value};

/// Races.
pub fn run(args: &RaceArgs) -> Result<ExitCode> {
    let selfsup = args.selfsup()?;
    let parts = open_labelled_parts(&args.data, None, &OpenOptions::default())
        .map_err(|e| Usage(format!("--data {}: {e}", args.data)))?;
    let mut plan = Vec::new();
    for method in &args.methods {
        for seed in 0..args.seeds {
            let config =
                config(args, method, seed, parts.train.len()).map_err(|e| Usage(format!("{e:#}")))?;
            let mut sides = Side::BOTH;
            sides.rotate_left((seed % 2) as usize);
            plan.extend(sides.map(|side| (side, config.clone())));
        }
    }
    interrupt::install()?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let images = args.out.join("images.npy");
    if !images.exists() {
        write_images(&parts.train, &images)?;
    }
    let mut report = Report::new(args);
    let total = plan.len();
    for (i, (side, config)) in plan.into_iter().enumerate() {
        let folder = args.out.join(format!("{}-{}-{}", config.method.name(), side.name(), config.seed));
        let run = Run { side, config, folder, selfsup: &selfsup, python: &args.python, images: &images };
        eprintln!("[{}/{total}] {}", i + 1, run.folder.display());
        let Some(track) = race(&run, &parts)? else {
            eprintln!("interrupted; the same command goes on from there");
            return Ok(ExitCode::from(130));
        };
        report.add(track);
        report.write(&args.out)?;
    }
    println!("{}", report.markdown());
    Ok(ExitCode::SUCCESS)
}

/// A run's track: the one on disk, or run and measured now. None after Ctrl-C.
fn race(run: &Run, parts: &LabelledParts) -> Result<Option<Track>> {
    if let Some(track) = run.done()? {
        return Ok(Some(track));
    }
    let Some(track) = run.run()? else { return Ok(None) };
    let track = run.measure(track, parts)?;
    Ok((!interrupt::requested()).then_some(track))
}

/// The command's settings over the method's defaults. The peer normalises the batch as one, as lightly's MoCo does.
fn config(args: &RaceArgs, method: &str, seed: u64, images: usize) -> Result<PretrainConfig> {
    let mut own = Table::from_iter([
        ("data".to_owned(), Value::from(args.data.clone())),
        ("arch".to_owned(), args.arch.clone().into()),
        ("epochs".to_owned(), i64::try_from(args.epochs)?.into()),
        ("seed".to_owned(), i64::try_from(seed)?.into()),
        ("device".to_owned(), "cpu".into()),
    ]);
    if method.starts_with("moco") {
        own.insert("method".into(), Table::from_iter([("bn_groups".to_owned(), 1.into())]).into());
    }
    let mut layers = vec![own];
    for setting in &args.settings {
        layers.push(parse_setting(setting)?);
    }
    let steps = {
        let config = PretrainConfig::resolve(method, &layers)?;
        config.epochs * (images / config.batch_size) as u64
    };
    let keep = steps / args.checkpoints.get();
    if keep == 0 {
        bail!("--checkpoints {} are more than the run's {steps} steps", args.checkpoints);
    }
    layers.push(Table::from_iter([("keep_every_steps".to_owned(), i64::try_from(keep)?.into())]));
    Ok(PretrainConfig::resolve(method, &layers)?)
}

/// The training images as NumPy's format has them, u8 `[n, h, w, 3]`: the peer reads them without decoding.
fn write_images(data: &Dataset, path: &Path) -> Result<()> {
    let mut pixels = Vec::new();
    let mut size = None;
    for i in 0..data.len() {
        let image = data.decoded(i)?.image;
        let of_this = (image.height(), image.width());
        if *size.get_or_insert(of_this) != of_this {
            bail!(Usage("the peer reads images of one size only; these differ".into()));
        }
        pixels.extend_from_slice(image.as_raw());
    }
    let (h, w) = size.context("there are no images")?;
    let mut header =
        format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({}, {h}, {w}, 3), }}", data.len());
    // Magic, version and length take ten bytes; the data begin at a multiple of 64.
    let padding = (10 + header.len() + 1).next_multiple_of(64) - (10 + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    file.write_all(b"\x93NUMPY\x01\x00")?;
    file.write_all(&u16::try_from(header.len())?.to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    file.write_all(&pixels)?;
    file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(())
}
