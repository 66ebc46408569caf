//! The hub's client against a server on loopback, with everything that goes wrong on the way.

mod configuration;
mod cuts;
mod errors;
mod hostile;
mod loaded;
mod server;
mod shared;

use selfsup_models::hub::{Fetched, Hub, HubSpec};
use selfsup_models::{Error, Result};
use server::{Fault, REPO, Server};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT: &str = "89abcdef0123456789abcdef0123456789abcdef";
const WEIGHTS: &str = "model.safetensors";

/// Some bytes that are like no others.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A server with weights of a length, and a cache.
struct World {
    server: Server,
    cache: TempDir,
    weights: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let weights = bytes(300_000, 1);
        let server = Server::new(COMMIT, &[("README.md", b"# model"), (WEIGHTS, &weights)]);
        Self { server, cache: tempfile::tempdir().unwrap(), weights }
    }

    fn hub(&self) -> Hub {
        Hub::new(&self.server.endpoint, self.cache.path()).patience(3, Duration::from_millis(1))
    }

    fn fetch(&self) -> Result<Fetched> {
        self.hub().fetch(&spec(""))
    }

    fn model(&self) -> PathBuf {
        self.cache.path().join("models--owner--model.v1")
    }

    /// Fetches, and checks that the bytes are right.
    fn whole(&self) {
        let fetched = self.fetch().unwrap();
        assert!(fs::read(&fetched.path).unwrap() == self.weights, "the bytes are not the file's");
        assert_eq!((fetched.commit.as_str(), fetched.notice), (COMMIT, None));
    }

    /// Fails, and checks that nobody can take what came for the file.
    fn fails(&self) -> Error {
        let error = self.fetch().unwrap_err();
        self.has_nothing();
        error
    }

    fn has_nothing(&self) {
        assert!(!self.model().join("snapshots").join(COMMIT).join(WEIGHTS).exists());
        let blobs = fs::read_dir(self.model().join("blobs")).into_iter().flatten().flatten();
        for blob in blobs {
            let name = blob.file_name().into_string().unwrap();
            assert!(name.ends_with(".incomplete"), "the cache has {name}");
        }
        assert!(matches!(self.hub().offline(true).fetch(&spec("")), Err(Error::Hub { .. })));
    }

    fn incomplete(&self) -> PathBuf {
        self.model().join("blobs").join(format!("{:x}.incomplete", Sha256::digest(&self.weights)))
    }
}

fn spec(rest: &str) -> HubSpec {
    format!("hf:{REPO}{rest}").parse().unwrap()
}

fn says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

#[test]
fn weights_lie_where_python_looks_for_them() {
    let world = World::new();
    let fetched = world.fetch().unwrap();
    assert_eq!(fetched.path, world.model().join("snapshots").join(COMMIT).join(WEIGHTS));
    let blob = format!("{:x}", Sha256::digest(&world.weights));
    assert_eq!(fs::read(world.model().join("blobs").join(&blob)).unwrap(), world.weights);
    assert_eq!(fs::read_to_string(world.model().join("refs/main")).unwrap(), COMMIT);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&fetched.path).unwrap(), Path::new("../../blobs").join(blob));
    world.server.seen();

    world.whole();
    let seen = world.server.seen();
    assert_eq!(seen.len(), 1, "only the branch is asked for again: {seen:?}");
}

#[test]
fn a_commit_with_its_file_is_not_asked_for_again() {
    let world = World::new();
    let spec = spec(&format!("@{COMMIT}:{WEIGHTS}"));
    world.hub().fetch(&spec).unwrap();
    world.server.seen();
    world.hub().fetch(&spec).unwrap();
    assert!(world.server.seen().is_empty());
}

#[test]
fn another_commit_than_was_asked_for_is_refused() {
    let world = World::new();
    world.server.lie("sha", NEXT);
    let error = world.hub().fetch(&spec(&format!("@{COMMIT}"))).unwrap_err();
    says(&error, &[COMMIT, &format!("it says {NEXT}")]);
}

#[test]
fn a_branch_that_moved_is_followed() {
    let world = World::new();
    world.whole();
    let new = bytes(1000, 2);
    world.server.commit("main", NEXT, &[(WEIGHTS, &new)]);
    let fetched = world.fetch().unwrap();
    assert_eq!((fetched.commit.as_str(), fs::read(fetched.path).unwrap()), (NEXT, new));
    // The old one is still there by its commit, and another branch by its name.
    let old = world.hub().fetch(&spec(&format!("@{COMMIT}"))).unwrap();
    assert_eq!(fs::read(old.path).unwrap(), world.weights);
    world.server.commit("refs/pr/7", COMMIT, &[(WEIGHTS, &world.weights)]);
    assert_eq!(world.hub().fetch(&spec("@refs/pr/7")).unwrap().commit, COMMIT);
    assert_eq!(fs::read_to_string(world.model().join("refs/refs/pr/7")).unwrap(), COMMIT);
}

#[test]
fn only_the_hub_gets_the_token() {
    let world = World::new();
    world.server.require("hf_secret");
    world.hub().token(Some("hf_secret".into())).fetch(&spec("")).unwrap();
    let seen = world.server.seen();
    let with = |cdn: bool| {
        seen.iter()
            .filter(|r| r.cdn == cdn)
            .map(|r| r.headers.contains_key("authorization"))
            .collect::<Vec<_>>()
    };
    assert_eq!((with(false), with(true)), (vec![true; 3], vec![false]));
    assert!(seen.iter().all(|r| r.headers["user-agent"].starts_with("selfsup/")));
}

#[test]
fn a_mirror_may_lead_to_the_hub() {
    let world = World::new();
    let hub = Server::new(COMMIT, &[(WEIGHTS, &world.weights)]);
    world.server.mirror(&hub.endpoint);
    world.server.require("mirrors");
    let fetched = world.hub().token(Some("mirrors".into())).fetch(&spec("")).unwrap();
    assert!(fs::read(fetched.path).unwrap() == world.weights, "the bytes are not the file's");
    let seen = hub.seen();
    assert_eq!(seen.iter().filter(|r| !r.cdn).count(), 2, "HEAD and GET are sent on: {seen:?}");
    assert!(seen.iter().all(|r| !r.headers.contains_key("authorization")), "the token is the mirror's");

    let circle = World::new();
    circle.server.mirror(&circle.server.endpoint);
    says(&circle.fails(), &["redirects"]);
    assert!(circle.server.seen().len() < 20);
}

#[test]
fn who_may_not_is_told_what_to_do() {
    let world = World::new();
    world.server.require("hf_secret");
    says(&world.fails(), &["hf:owner/model.v1", "private", "HF_TOKEN"]);
    let wrong = world.hub().token(Some("other".into())).fetch(&spec("")).unwrap_err();
    says(&wrong, &["the token that was sent gives no access"]);
    assert_eq!(world.server.seen().len(), 2, "what will not succeed is not tried again");
    let gated = World::new();
    gated.server.fault("head", Fault::Status(403, vec![("X-Error-Code", "GatedRepo".into())]));
    says(&gated.fails(), &["gated", "accept its terms"]);
}

#[test]
fn what_is_not_there_is_named() {
    let world = World::new();
    let fetch = |rest: &str| world.hub().fetch(&spec(rest)).unwrap_err();
    says(&fetch("@v9"), &["hf:owner/model.v1@v9", "no such branch, tag or commit"]);
    says(&fetch(":model.safetensor"), &["no file `model.safetensor`", "is it `model.safetensors`?"]);
    let other = world.hub().fetch(&"hf:owner/none".parse().unwrap()).unwrap_err();
    says(&other, &["hf:owner/none", "no such model"]);
}

#[test]
fn a_busy_server_is_asked_again() {
    let world = World::new();
    world.server.fault("list", Fault::Status(503, vec![]));
    world.server.fault("list", Fault::Silent);
    world.server.fault("head", Fault::Status(429, vec![("Retry-After", "0".into())]));
    world.server.fault("get", Fault::Status(500, vec![]));
    world.server.fault("get", Fault::Status(502, vec![]));
    world.whole();
}

#[test]
fn a_server_is_not_asked_for_ever() {
    let world = World::new();
    for _ in 0..9 {
        world.server.fault("get", Fault::Status(500, vec![]));
    }
    says(&world.fails(), &["500"]);
    assert_eq!(world.server.gets().iter().filter(|r| r.cdn).count(), 3);
}

#[test]
fn a_server_is_waited_for_as_it_says() {
    let world = World::new();
    world.server.fault("list", Fault::Status(429, vec![("Retry-After", "1".into())]));
    let start = Instant::now();
    world.whole();
    assert!(start.elapsed() >= Duration::from_secs(1));
    let world = World::new();
    world.server.fault("head", Fault::Status(429, vec![("RateLimit", "\"api\";r=0;t=1".into())]));
    let start = Instant::now();
    world.whole();
    assert!(start.elapsed() >= Duration::from_secs(1));
    // Longer than anybody should wait without knowing.
    let world = World::new();
    world.server.fault("list", Fault::Status(429, vec![("Retry-After", "3600".into())]));
    says(&world.fails(), &["429"]);
    assert_eq!(world.server.seen().len(), 1);
}

#[test]
fn a_cut_download_goes_on_where_it_was_cut() {
    let world = World::new();
    world.server.fault("get", Fault::Cut(100_000));
    world.server.fault("get", Fault::Cut(70_000));
    world.whole();
    let ranges: Vec<Option<String>> =
        world.server.gets().iter().filter(|r| r.cdn).map(|r| r.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".into()), Some("bytes=170000-".into())]);
}

#[test]
fn a_half_download_is_never_used_and_the_next_goes_on() {
    let world = World::new();
    world.server.fault("get", Fault::Cut(120_000));
    world.server.fault("get", Fault::Cut(0));
    world.server.fault("get", Fault::Cut(0));
    says(&world.fails(), &["cannot be reached"]);
    assert_eq!(fs::read(world.incomplete()).unwrap(), world.weights[..120_000]);
    world.server.seen();

    world.whole();
    let gets: Vec<_> = world.server.gets().into_iter().filter(|r| r.cdn).collect();
    assert_eq!(gets.len(), 1);
    assert_eq!(gets[0].headers["range"], "bytes=120000-");
    assert!(!world.incomplete().exists());
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    // All of it is taken as it comes; a wrong part is asked for again, and not found out by its hash alone.
    for (fault, requests) in [(Fault::NoRanges, 2), (Fault::WrongRange, 3)] {
        let world = World::new();
        world.server.fault("get", Fault::Cut(100_000));
        world.server.fault("get", fault);
        world.whole();
        assert_eq!(world.server.gets().iter().filter(|r| r.cdn).count(), requests);
    }
}

#[test]
fn what_an_earlier_process_left_is_not_believed() {
    let world = World::new();
    fs::create_dir_all(world.incomplete().parent().unwrap()).unwrap();
    // Other bytes; more of them than the file has; all of the file already.
    for left in [bytes(50_000, 9), bytes(400_000, 9), bytes(300_000, 9), world.weights.clone()] {
        let _ = fs::remove_dir_all(world.model().join("snapshots"));
        let _ = fs::remove_file(
            world.model().join("blobs").join(format!("{:x}", Sha256::digest(&world.weights))),
        );
        fs::write(world.incomplete(), left).unwrap();
        world.whole();
    }
}

#[test]
fn other_bytes_than_announced_are_not_kept() {
    let world = World::new();
    world.server.fault("get", Fault::Corrupt);
    world.whole();

    let world = World::new();
    world.server.fault("get", Fault::Corrupt);
    world.server.fault("get", Fault::Corrupt);
    let error = world.fails();
    assert!(matches!(error, Error::HubHash { .. }));
    says(&error, &[WEIGHTS, &format!("{:x}", Sha256::digest(&world.weights)), "not kept"]);
    world.whole();

    let world = World::new();
    for _ in 0..3 {
        world.server.fault("get", Fault::TooLong(10));
    }
    says(&world.fails(), &["more bytes than the file has"]);
}

#[test]
fn a_small_file_has_gits_hash() {
    let world = World::new();
    world.server.small(WEIGHTS);
    world.server.fault("get", Fault::Corrupt);
    world.server.fault("get", Fault::Corrupt);
    assert!(matches!(world.fails(), Error::HubHash { .. }));
    world.server.fault("get", Fault::Cut(1000));
    world.whole();
}

#[test]
fn an_empty_file_is_whole_at_once() {
    let server = Server::new(COMMIT, &[("empty.pth", b"")]);
    let cache = tempfile::tempdir().unwrap();
    let fetched = Hub::new(&server.endpoint, cache.path()).fetch(&spec("")).unwrap();
    assert_eq!(fs::read(fetched.path).unwrap(), b"");
}

#[test]
fn without_the_hub_the_cache_serves() {
    let world = World::new();
    says(&world.hub().offline(true).fetch(&spec("")).unwrap_err(), &["HF_HUB_OFFLINE", "nothing"]);
    assert!(world.server.seen().is_empty(), "offline means that nobody is asked");
    world.whole();
    let offline = world.hub().offline(true).fetch(&spec("")).unwrap();
    assert_eq!(fs::read(offline.path).unwrap(), world.weights);
    assert!(offline.notice.unwrap().contains("HF_HUB_OFFLINE"));

    for _ in 0..3 {
        world.server.fault("list", Fault::Status(503, vec![]));
    }
    let kept = world.fetch().unwrap();
    assert_eq!(kept.commit, COMMIT);
    assert!(kept.notice.unwrap().contains("503"));
    // Nobody listens there.
    let gone = Hub::new("http://127.0.0.1:1", world.cache.path()).patience(2, Duration::from_millis(1));
    assert!(gone.fetch(&spec("")).unwrap().notice.unwrap().contains("cannot be reached"));
    says(&gone.fetch(&"hf:owner/other".parse().unwrap()).unwrap_err(), &["cannot be reached", "127.0.0.1:1"]);
    // Whoever may not see it any more is told so.
    world.server.require("t");
    assert!(world.fetch().is_err());
}

#[test]
fn a_model_in_shards_comes_whole() {
    let (a, b) = (bytes(2000, 3), bytes(3000, 4));
    let index = br#"{"metadata": {}, "weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "a.safetensors"}}"#;
    let files: &[(&str, &[u8])] = &[
        ("part/model.safetensors.index.json", index),
        ("part/a.safetensors", &a),
        ("part/b.safetensors", &b),
        ("part/config.json", b"{}"),
        ("config.json", b"[]"),
    ];
    let server = Server::new(COMMIT, files);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&server.endpoint, cache.path()).patience(1, Duration::from_millis(1));
    let spec = spec(":part/model.safetensors.index.json");
    // The second shard does not come: an index alone is no model.
    for _ in 0..3 {
        server.fault("get", Fault::Cut(usize::MAX));
    }
    server.fault("get", Fault::Status(500, vec![]));
    hub.fetch(&spec).unwrap_err();
    assert!(hub.clone().offline(true).fetch(&spec).is_err());

    let fetched = hub.fetch(&spec).unwrap();
    let folder = fetched.path.parent().unwrap();
    assert_eq!(fs::read(folder.join("a.safetensors")).unwrap(), a);
    assert_eq!(fs::read(folder.join("b.safetensors")).unwrap(), b);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{}");
    assert!(!folder.parent().unwrap().join("config.json").exists(), "what was not asked for stays away");
    assert!(hub.offline(true).fetch(&spec).is_ok());
}

#[test]
fn many_ask_and_one_fetches() {
    let world = World::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| world.whole());
        }
    });
    assert_eq!(world.server.gets().iter().filter(|r| r.cdn).count(), 1);
}

#[test]
fn progress_is_told_from_where_it_begins() {
    let world = World::new();
    world.server.fault("get", Fault::Cut(100_000));
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let hub = world.hub().on_progress(move |t| {
        tell.lock().unwrap().push((t.file.to_owned(), t.done, t.total));
    });
    hub.fetch(&spec("")).unwrap();
    let told = told.lock().unwrap();
    assert!(told.iter().all(|(file, _, total)| file == WEIGHTS && *total == Some(300_000)));
    assert!(told.is_sorted_by_key(|t| t.1), "it never goes back");
    assert_eq!(told.last().unwrap().1, 300_000);
}
