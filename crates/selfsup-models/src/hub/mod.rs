//! Encoders from the Hugging Face hub, by the cache that `huggingface_hub` keeps.
//!
//! ```no_run
//! # fn main() -> selfsup_models::Result<()> {
//! use selfsup_models::hub::Hub;
//! let weights = Hub::from_env().fetch(&"hf:timm/resnet18.a1_in1k".parse()?)?;
//! println!("{} of commit {}", weights.path.display(), weights.commit);
//! # Ok(())
//! # }
//! ```
//!
//! A file appears in the cache when it is whole and its hash is the hub's: until then it is an `.incomplete` one, from which a later try
//! goes on. The hub is asked each time whether the branch has moved, unless a whole commit is asked for; where it cannot be reached, what is
//! in the cache is taken, and said to be ([`Fetched::notice`]).
//!
//! The protocol is that of `huggingface_hub` (`file_download.py`): `GET /api/models/OWNER/NAME/revision/REVISION`,
//! `HEAD` and `GET /OWNER/NAME/resolve/COMMIT/FILE`.

mod cache;
mod choose;
mod download;
mod env;
mod http;
mod part;
mod problem;
mod spec;

pub use spec::{HubSpec, MAIN};

use crate::weights::{MOST_JSON, shards};
use crate::{Error, Result};
use cache::{ModelCache, create_parent};
use choose::choose;
use download::Download;
use http::Client;
use problem::{Kind, Problem};
use serde::Deserialize;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Where the hub is, unless `HF_ENDPOINT` says otherwise.
pub const ENDPOINT: &str = "https://huggingface.co";

/// How images are prepared stands here.
pub(crate) const CONFIGS: &[&str] = &["config.json", "preprocessor_config.json"];

/// A hub, the cache of its files, and how it is spoken with.
#[derive(Debug, Clone)]
pub struct Hub {
    client: Client,
    cache: PathBuf,
    offline: bool,
    progress: Progress,
}

/// How far a file has come.
#[derive(Debug, Clone, Copy)]
pub struct Transfer<'a> {
    /// Its name.
    pub file: &'a str,
    /// Bytes that are here.
    pub done: u64,
    /// Bytes that it has, if the hub says.
    pub total: Option<u64>,
}

/// A model's weights on this machine.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The weights, or the index of their shards, which lie beside it, as does the model's configuration.
    pub path: PathBuf,
    /// The commit that they are of.
    pub commit: String,
    /// Why the hub was not asked, if it should have been, and which configuration the cache may lack therefore.
    pub notice: Option<String>,
}

/// Who is told of a transfer.
#[derive(Clone, Default)]
struct Progress(Option<Arc<Tell>>);

type Tell = dyn Fn(&Transfer<'_>) + Send + Sync;

impl Progress {
    fn call(&self, transfer: &Transfer<'_>) {
        if let Some(tell) = &self.0 {
            tell(transfer);
        }
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Progress(…)" } else { "Progress" })
    }
}

impl Hub {
    /// A hub at an address, with the cache in a folder, and without a token.
    pub fn new(endpoint: &str, cache: &Path) -> Self {
        let client = Client::new(endpoint.to_owned());
        Self { client, cache: cache.to_owned(), offline: false, progress: Progress::default() }
    }

    /// With this token, which only the hub itself is sent; without line breaks, and without spaces around it.
    pub fn token(mut self, token: Option<String>) -> Self {
        self.client.token = token.and_then(|token| clean(&token));
        self
    }

    /// From the cache alone.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// A request that may succeed later is made so often at most (5), and `pause` after the first, twice as long after each (1 s); a
    /// server that says how long to wait is listened to.
    pub fn patience(mut self, tries: u32, pause: Duration) -> Self {
        (self.client.tries, self.client.pause) = (tries.max(1), pause);
        self
    }

    /// Who is told how far a file has come.
    pub fn on_progress(mut self, tell: impl Fn(&Transfer<'_>) + Send + Sync + 'static) -> Self {
        self.progress = Progress(Some(Arc::new(tell)));
        self
    }

    /// A model's weights, from the cache or from the hub: the file that is asked for, or the one that the model has
    /// (`encoder.safetensors`, `model.safetensors` or its index, `pytorch_model.bin` or its index, or else its only weight file). The shards
    /// of an index come with it, and so do `config.json` and `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Hub`], which says whether model, revision or file are missing, or the hub out of reach, or what it asks for;
    /// [`Error::HubHash`] for bytes that are not the hub's; [`Error::Io`]; [`Error::WeightFile`] for an index that is none.
    pub fn fetch(&self, spec: &HubSpec) -> Result<Fetched> {
        let cache = ModelCache::new(&self.cache, spec);
        if self.offline {
            return self.cached(
                spec,
                &cache,
                "the hub is not asked, as HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE says; only the cache is",
            );
        }
        if spec.is_commit()
            && let Some(file) = &spec.file
            && let Some(path) = whole(&cache, &spec.revision, file)
            && unknown(&cache, &spec.revision, file).is_empty()
        {
            return Ok(Fetched { path, commit: spec.revision.clone(), notice: None });
        }
        let listing = match self.listing(spec) {
            Ok(listing) => listing,
            Err(problem) => {
                let why = self.client.error(&spec.to_string(), problem.0);
                let kept =
                    problem.1.then(|| self.cached(spec, &cache, &format!("{why}; taken from the cache")));
                return kept.and_then(Result::ok).ok_or(why);
            }
        };
        let files: Vec<&str> = listing.siblings.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        let file = choose(spec, &files, "it")?;
        let commit = &listing.sha;
        let kept = whole(&cache, commit, &file).is_some();
        // Before the weights: who finds those in the cache must not take them for whole without what says how to use them.
        for config in CONFIGS.iter().map(|name| beside(&file, name)) {
            if files.contains(&config.as_str()) {
                self.file(spec, &cache, commit, &config)?;
            } else {
                cache.set_absent(commit, &config);
            }
        }
        let path = self.file(spec, &cache, commit, &file)?;
        for shard in shards(&path)?.into_iter().flatten() {
            self.file(spec, &cache, commit, &beside(&file, &shard))?;
        }
        match cache.set_commit(spec, commit) {
            // A cache that others keep serves as long as it has all.
            Err(_) if kept => (),
            set => set?,
        }
        Ok(Fetched { path, commit: commit.clone(), notice: None })
    }

    /// What the cache has of a revision.
    fn cached(&self, spec: &HubSpec, cache: &ModelCache, notice: &str) -> Result<Fetched> {
        let fail = |problem: String| Error::Hub { what: spec.to_string(), problem };
        let commit = cache
            .commit(spec)
            .ok_or_else(|| fail(format!("{notice}, which has nothing of it ({})", self.cache.display())))?;
        let files = cache.files(&commit);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let file = choose(spec, &files, &format!("{notice}, which"))?;
        let path = whole(cache, &commit, &file)
            .ok_or_else(|| fail(format!("{notice}, which has only a part of {file}")))?;
        let unknown = unknown(cache, &commit, &file);
        let notice = match unknown.is_empty() {
            true => notice.to_owned(),
            false => format!(
                "{notice}, which does not have {}: images may be prepared otherwise than the model expects",
                unknown.join(" and ")
            ),
        };
        Ok(Fetched { path, commit, notice: Some(notice) })
    }

    /// A revision's commit and files; with the problem, whether the hub was out of reach.
    fn listing(&self, spec: &HubSpec) -> std::result::Result<Listing, (Problem, bool)> {
        let revision = spec.revision.replace('/', "%2F");
        let answer = self.client.get(&format!("/api/models/{}/revision/{revision}", spec.repo));
        let answer = answer.map_err(|problem| {
            let away = match &problem.kind {
                Kind::Unreachable(_) => true,
                Kind::Status(status, _) => status.is_server_error() || status.as_u16() == 429,
                Kind::Nonsense(_) | Kind::Token => false,
            };
            (problem, away)
        })?;
        let nonsense = |why: String| (Problem::nonsense(why), false);
        let listing: Listing = serde_json::from_slice(&answer).map_err(|e| nonsense(e.to_string()))?;
        if listing.sha.is_empty() || !listing.sha.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(nonsense(format!("`{}` is no commit", listing.sha)));
        }
        if spec.is_commit() && listing.sha != spec.revision {
            return Err(nonsense(format!("of the commit that was asked for it says {}", listing.sha)));
        }
        Ok(listing)
    }

    /// One file of a commit, fetched if it is not here.
    fn file(&self, spec: &HubSpec, cache: &ModelCache, commit: &str, file: &str) -> Result<PathBuf> {
        if let Some(path) = cache.file(commit, file) {
            return Ok(path);
        }
        let at = format!("/{}/resolve/{commit}/{file}", spec.repo);
        let what = HubSpec { file: Some(file.to_owned()), ..spec.clone() }.to_string();
        let info = self.client.head(&at).map_err(|problem| self.client.error(&what, problem))?;
        if let Some(said) = info.commit.as_deref().filter(|said| *said != commit) {
            let problem = Problem::nonsense(format!("the file is of commit {said}, not of {commit}"));
            return Err(self.client.error(&what, problem));
        }
        if let Some(size) = info.size.filter(|size| file.ends_with(".json") && *size > MOST_JSON as u64) {
            let problem = format!("JSON of {size} bytes; at most {MOST_JSON} are read");
            return Err(Error::Hub { what, problem });
        }
        let blob = cache.blob(&info.etag);
        let _lock = cache.lock(&info.etag)?;
        if !blob.is_file() {
            create_parent(&blob)?;
            let incomplete = blob.with_file_name(format!("{}.incomplete", info.etag));
            let (client, progress) = (&self.client, &self.progress);
            Download { client, path: &at, what: &what, info: &info, progress }.run(&incomplete, &blob)?;
        }
        cache.link(&info.etag, commit, file)
    }
}

/// What the hub says of a model at a revision.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// A file of a commit with its shards, if all of it is here.
fn whole(cache: &ModelCache, commit: &str, file: &str) -> Option<PathBuf> {
    let path = cache.file(commit, file)?;
    let shards = shards(&path).ok()?.unwrap_or_default();
    shards.iter().all(|shard| cache.file(commit, &beside(file, shard)).is_some()).then_some(path)
}

/// The configurations beside a file of which nobody knows here whether the commit has them.
fn unknown(cache: &ModelCache, commit: &str, file: &str) -> Vec<String> {
    let configs = CONFIGS.iter().map(|name| beside(file, name));
    configs
        .filter(|config| cache.file(commit, config).is_none() && !cache.is_absent(commit, config))
        .collect()
}

/// A token as it is meant: where lines end in an environment or a file is chance.
fn clean(token: &str) -> Option<String> {
    let token = token.replace(['\r', '\n'], "");
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// A file in the folder of another.
fn beside(file: &str, name: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    }
}
