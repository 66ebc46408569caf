//! One side's run, and what its checkpoints are worth.

use crate::interrupt;
use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use selfsup_data::LabelledParts;
use selfsup_models::{Encoder, weights};
use selfsup_probe::{ExtractConfig, Frozen, Kind, ProbeConfig, extract};
use selfsup_train::PretrainConfig;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

/// Between two looks at a child.
const TICK: Duration = Duration::from_millis(50);
/// The backbone's tensors in a checkpoint.
const PREFIX: &str = "model.encoder.";

/// Whose run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// `selfsup pretrain`.
    Selfsup,
    /// `peers/pretrain.py`.
    Lightly,
}

impl Side {
    /// Ours first.
    pub const BOTH: [Side; 2] = [Side::Selfsup, Side::Lightly];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Side::Selfsup => "selfsup",
            Side::Lightly => "lightly",
        }
    }
}

/// A run's checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// The method.
    pub method: String,
    /// Whose.
    pub side: Side,
    /// Of weights, data order and views.
    pub seed: u64,
    /// In order of time.
    pub points: Vec<Point>,
    /// SHA-256 of the resolved configuration.
    pub config_sha256: String,
}

/// A checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Updates so far.
    pub step: u64,
    /// Views seen.
    pub views: u64,
    /// From the start of the process to the file.
    pub seconds: f64,
    /// kNN top-1 on the test part, in 0…1.
    pub knn: f64,
}

/// What a run needs.
pub struct Run<'a> {
    pub side: Side,
    pub config: PretrainConfig,
    pub folder: PathBuf,
    pub selfsup: &'a Path,
    pub python: &'a Path,
    pub images: &'a Path,
}

impl Run<'_> {
    fn result(&self) -> PathBuf {
        self.folder.join("result.json")
    }

    /// The track of a run that is done already.
    pub fn done(&self) -> Result<Option<Track>> {
        let path = self.result();
        if !path.exists() {
            return Ok(None);
        }
        let track: Track = serde_json::from_reader(File::open(&path)?)
            .with_context(|| format!("{} is damaged", path.display()))?;
        if track.config_sha256 != self.config.sha256() {
            bail!("{} is of other settings; give another --out, or delete its folder", path.display());
        }
        Ok(Some(track))
    }

    /// Runs from the beginning. None after Ctrl-C.
    pub fn run(&self) -> Result<Option<Track>> {
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::create_dir_all(&self.folder)?;
        let config = self.folder.join("config.toml");
        fs::write(&config, self.config.to_toml())?;
        let out = self.folder.join("run");
        let mut command = match self.side {
            Side::Selfsup => {
                let mut command = Command::new(self.selfsup);
                command.args(["pretrain", self.config.method.name(), "--no-probe"]);
                command
            }
            Side::Lightly => {
                let mut command = Command::new(self.python);
                command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/pretrain.py"));
                command.arg("--images").arg(self.images);
                command
            }
        };
        let log = self.folder.join("log.txt");
        let file = File::create(&log)?;
        command.arg("--config").arg(&config).arg("--out").arg(&out);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let start = SystemTime::now();
        let program = command.get_program().to_owned();
        let mut child =
            Guard(command.spawn().with_context(|| format!("cannot start {}", program.display()))?);
        let status = loop {
            if let Some(status) = child.0.try_wait()? {
                break status;
            }
            if interrupt::requested() {
                return Ok(None);
            }
            thread::sleep(TICK);
        };
        if !status.success() {
            bail!("{} ended with {status}; {} says why", program.display(), log.display());
        }
        self.points(&out.join("checkpoints"), start).map(Some)
    }

    /// The checkpoints, not yet measured.
    fn points(&self, folder: &Path, start: SystemTime) -> Result<Track> {
        let mut points = Vec::new();
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let step = name.to_str().and_then(|n| n.strip_prefix("step-")?.strip_suffix(".safetensors"));
            let Some(step) = step.and_then(|digits| digits.parse::<u64>().ok()) else { continue };
            let seconds = entry.metadata()?.modified()?.duration_since(start)?.as_secs_f64();
            let views = 2 * step * self.config.batch_size as u64;
            points.push(Point { step, views, seconds, knn: f64::NAN });
        }
        points.sort_by_key(|point| point.step);
        if points.is_empty() {
            bail!("{} holds no checkpoint", folder.display());
        }
        Ok(Track {
            method: self.config.method.name().into(),
            side: self.side,
            seed: self.config.seed,
            points,
            config_sha256: self.config.sha256(),
        })
    }

    /// Probes every checkpoint, writes the result down and deletes the checkpoints.
    pub fn measure(&self, mut track: Track, parts: &LabelledParts) -> Result<Track> {
        let checkpoints = self.folder.join("run/checkpoints");
        for point in &mut track.points {
            point.knn = self.knn(&checkpoints.join(format!("step-{:08}.safetensors", point.step)), parts)?;
            eprintln!("  {:8.1} s, step {}: {:.1} %", point.seconds, point.step, 100.0 * point.knn);
            if interrupt::requested() {
                return Ok(track);
            }
        }
        fs::write(self.result(), serde_json::to_string_pretty(&track)? + "\n")?;
        fs::remove_dir_all(self.folder.join("run"))?;
        Ok(track)
    }

    fn knn(&self, path: &Path, parts: &LabelledParts) -> Result<f64> {
        let arch = selfsup_models::arch(&self.config.arch)?;
        let encoder = Encoder::untrained(arch, self.config.preprocessing(), 0, &Device::Cpu)?;
        let own = weights::read(path, &Device::Cpu)?.tensors;
        let own = own.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(PREFIX)?.to_owned(), t)));
        encoder.params().load_file(&own.collect(), &path.display().to_string())?;
        let frozen = Frozen::Encoder(encoder);
        let features = |data: &selfsup_data::Dataset| {
            extract(&frozen, Arc::new(data.clone()), &ExtractConfig::default(), &mut |_| ())
        };
        let (train, test) = (features(&parts.train)?, features(&parts.test)?);
        let config = ProbeConfig { kinds: vec![Kind::Knn], seeds: vec![0], ..ProbeConfig::default() };
        let results = selfsup_probe::run(&train, &test, parts.train.classes(), &config)?;
        results.first().map(|row| row.mean).ok_or_else(|| anyhow!("the probe has no result"))
    }
}

/// A child that does not outlive us.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Either fails when the child has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
