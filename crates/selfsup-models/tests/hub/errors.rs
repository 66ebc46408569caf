//! What a user is told, and by whom.

use super::*;

#[test]
fn another_hosts_refusal_is_not_laid_to_the_token() {
    let world = World::new();
    world.server.fault("get", Fault::Status(403, vec![]));
    let error = world.hub().token(Some("t".into())).fetch(&spec("")).unwrap_err();
    says(&error, &["hf:owner/model.v1:model.safetensors", "to which the hub leads, answers 403"]);
    let text = error.to_string();
    assert!(!text.contains("token") && !text.contains(&world.server.endpoint), "{text}");
    // A cut is whose connection it was, and the rest is the hub's.
    world.server.fault("get", Fault::Cut(0));
    world.server.fault("get", Fault::Silent);
    world.server.fault("get", Fault::Silent);
    let text = world.fails().to_string();
    assert!(text.contains("cannot be reached") && !text.contains(&world.server.endpoint), "{text}");
    world.server.fault("head", Fault::Status(403, vec![]));
    says(&world.fails(), &["hf:owner/model.v1:model.safetensors", "private", "no token was sent"]);
}

#[test]
fn without_the_hub_it_is_the_cache_that_has_no_weights() {
    let config = b"{}";
    let server = Server::new(COMMIT, &[("config.json", config), (WEIGHTS, &bytes(100, 1))]);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&server.endpoint, cache.path()).patience(1, Duration::from_millis(1));
    hub.fetch(&spec("")).unwrap();
    fs::remove_file(cache.path().join("models--owner--model.v1/snapshots").join(COMMIT).join(WEIGHTS))
        .unwrap();
    for rest in ["", ":model.safetensors"] {
        let error = hub.clone().offline(true).fetch(&spec(rest)).unwrap_err();
        says(&error, &["the hub is not asked", "HF_HUB_OFFLINE", "only the cache is, which has no"]);
        assert!(!error.to_string().contains("it has no"), "{error}");
    }
}

#[test]
fn a_token_is_one_line_or_none() {
    let world = World::new();
    world.server.require("hf_secret");
    world.hub().token(Some("hf_\r\nsecret\n".into())).fetch(&spec("")).unwrap();
    world.server.seen();
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(&world.server.endpoint, cache.path()).patience(5, Duration::from_secs(60));
    let error = hub.token(Some("hf_\u{7}secret".into())).fetch(&spec("")).unwrap_err();
    says(&error, &["the token has characters", "HF_TOKEN"]);
    assert!(!error.to_string().contains("secret") && world.server.seen().is_empty());
}
