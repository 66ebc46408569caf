//! What a server says that means no good.

use super::*;

#[test]
fn what_a_server_calls_things_never_leaves_the_cache() {
    let world = World::new();
    world.server.lie("X-Linked-Etag", "\"../../../../evil\"");
    // Four folders up from a model's blobs is two from the cache.
    let cache = world.cache.path().join("outer/inner");
    let fetched = Hub::new(&world.server.endpoint, &cache).fetch(&spec("")).unwrap();
    assert!(fs::read(fetched.path).unwrap() == world.weights);
    for (folder, inside) in
        [(world.cache.path().to_owned(), "outer"), (world.cache.path().join("outer"), "inner")]
    {
        let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(names, [inside]);
    }
    let world = World::new();
    world.server.lie("sha", "../../../evil");
    says(&world.fails(), &["no commit"]);
    let world = World::new();
    world.server.lie("X-Repo-Commit", NEXT);
    says(&world.fails(), &[NEXT]);
    let world = World::new();
    world.server.lie("Location", "nowhere at all");
    says(&world.fails(), &["redirects to"]);
}

#[test]
fn a_circle_of_redirects_ends() {
    let world = World::new();
    let circle = format!("/{REPO}/resolve/{COMMIT}/{WEIGHTS}");
    world.server.lie("Location", &circle);
    says(&world.fails(), &["redirects"]);
}

#[test]
fn shards_are_files_beside_their_index() {
    let hostile = br#"{"weight_map": {"x": "../../../evil"}}"#;
    let server = Server::new(COMMIT, &[("model.safetensors.index.json", hostile)]);
    let error = Hub::new(&server.endpoint, tempfile::tempdir().unwrap().path())
        .fetch(&"hf:owner/model.v1".parse().unwrap());
    says(&error.unwrap_err(), &["../../../evil", "not a file beside it"]);
}

#[test]
fn an_index_or_a_configuration_has_no_gigabytes() {
    let large = |file: &str| {
        let server = Server::new(COMMIT, &[(file, b"{}"), (WEIGHTS, b"weights")]);
        server.lie("X-Linked-Size", "3000000000");
        let cache = tempfile::tempdir().unwrap();
        let error = Hub::new(&server.endpoint, cache.path()).fetch(&spec(&format!(":{file}"))).unwrap_err();
        says(&error, &[file, "JSON of 3000000000 bytes; at most"]);
        assert!(server.gets().is_empty());
    };
    large("config.json");
    large("model.safetensors.index.json");

    // What is in the cache already is not read either.
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--owner--model.v1");
    let snapshot = model.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir(model.join("refs")).unwrap();
    fs::write(model.join("refs/main"), COMMIT).unwrap();
    let offline = |spaces: usize| {
        let index = format!("{{\"weight_map\": {{}}{}}}", " ".repeat(spaces));
        fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
        Hub::new("http://127.0.0.1:1", cache.path()).offline(true).fetch(&spec(""))
    };
    offline(16 << 10).unwrap();
    says(&offline(16 << 20).unwrap_err(), &["only a part of model.safetensors.index.json"]);
}
