//! What a report says of the machine and of the two sides' versions.

use serde::Serialize;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

/// The processor and what else runs on it.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// As the processor calls itself.
    pub cpu: String,
    /// Its architecture and vector extensions.
    pub features: Vec<&'static str>,
    /// Cores that the process may use.
    pub cores: usize,
    /// The operating system.
    pub os: &'static str,
    /// The load of the last minute, at the start.
    pub load: Option<f64>,
}

impl Machine {
    /// Asks the system.
    pub fn read() -> Self {
        Self {
            cpu: cpu().unwrap_or_else(|| "unknown processor".into()),
            features: features(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            os: std::env::consts::OS,
            load: load(),
        }
    }
}

fn cpu() -> Option<String> {
    if let Ok(text) = std::fs::read_to_string("/proc/cpuinfo") {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        return Some(line.split_once(':')?.1.trim().to_owned());
    }
    output("sysctl", &["-n", "machdep.cpu.brand_string"])
}

fn features() -> Vec<&'static str> {
    let mut features = vec![std::env::consts::ARCH];
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    {
        macro_rules! detect {
            ($($name:tt)*) => {
                $(if std::arch::is_x86_feature_detected!($name) { features.push($name); })*
            };
        }
        detect!("avx" "avx2" "fma" "avx512f" "avx512bw" "avx512dq" "avx512vl" "avx512vnni" "avx512bf16");
    }
    features
}

/// The system's load of the last minute, where it tells.
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The commit of the sources, with a `+` if they were changed since.
pub fn commit() -> String {
    let git = |args: &[&str]| output("git", &[&["-C", env!("CARGO_MANIFEST_DIR")], args].concat());
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) => {
            let changed =
                git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
            commit + if changed { "+" } else { "" }
        }
        None => "unknown".into(),
    }
}

/// What our side is made of.
pub fn versions() -> BTreeMap<String, String> {
    let lock = include_str!("../../Cargo.lock");
    let mut versions: BTreeMap<String, String> = ["candle-core", "gemm", "rayon", "mimalloc"]
        .into_iter()
        .filter_map(|name| {
            let entry = lock.split(&format!("name = \"{name}\"\nversion = \"")).nth(1)?;
            Some((name.to_owned(), entry.split('"').next()?.to_owned()))
        })
        .collect();
    versions.insert("selfsup".into(), env!("CARGO_PKG_VERSION").into());
    versions.insert("commit".into(), commit());
    if let Some(rustc) = output("rustc", &["--version"]) {
        versions.insert("rustc".into(), rustc);
    }
    versions
}

/// Environment variables that change either side's speed.
pub fn environment() -> BTreeMap<String, String> {
    const PREFIXES: &[&str] =
        &["OMP_", "KMP_", "GOMP_", "MKL_", "DNNL_", "ONEDNN_", "MALLOC_", "RAYON_", "TORCH"];
    let matters = |name: &str| PREFIXES.iter().any(|p| name.starts_with(p)) || name == "LD_PRELOAD";
    let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
    std::env::vars_os()
        .map(|(name, value)| (text(name), text(value)))
        .filter(|(name, _)| matters(name))
        .collect()
}

/// Today in UTC as YYYY-MM-DD.
pub fn today() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds / 86_400)
}

/// The date of a number of days since 1970-01-01: Hinnant's `civil_from_days`, which counts years from March on in
/// eras of 400.
fn date(days: u64) -> String {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|o| o.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn dates_around_leap_days() {
        for (days, expected) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (59, "1970-03-01"),
            (11_016, "2000-02-29"),
            (20_000, "2024-10-04"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(super::date(days), expected);
        }
    }

    #[test]
    fn our_side_is_told_in_full() {
        let versions = super::versions();
        for name in ["selfsup", "commit", "candle-core", "gemm"] {
            assert!(versions.contains_key(name), "{name}");
        }
    }
}
