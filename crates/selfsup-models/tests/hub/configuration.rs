//! Weights are nothing without what says how images are prepared for them.

use super::*;

const CONFIG: &str = "config.json";
const PREPROCESSOR: &str = "preprocessor_config.json";
const SAYS: &[u8] = br#"{"image_mean": [0.5, 0.5, 0.5]}"#;

fn world() -> World {
    let weights = bytes(3000, 1);
    let server = Server::new(COMMIT, &[(WEIGHTS, &weights), (PREPROCESSOR, SAYS)]);
    World { server, cache: tempfile::tempdir().unwrap(), weights }
}

/// What Python leaves that was asked for the weights alone.
fn forget(world: &World) {
    fs::remove_file(world.model().join("snapshots").join(COMMIT).join(PREPROCESSOR)).unwrap();
    fs::remove_dir_all(world.model().join(".no_exist")).unwrap();
}

#[test]
fn a_commits_weights_without_their_configuration_are_asked_for_again() {
    let world = world();
    let spec = spec(&format!("@{COMMIT}:{WEIGHTS}"));
    let fetched = world.hub().fetch(&spec).unwrap();
    let config = fetched.path.with_file_name(PREPROCESSOR);
    assert_eq!(fs::read(&config).unwrap(), SAYS);
    assert_eq!(fs::read(world.model().join(".no_exist").join(COMMIT).join(CONFIG)).unwrap(), b"");
    world.server.seen();
    world.hub().fetch(&spec).unwrap();
    assert!(world.server.seen().is_empty(), "one is here, and the other is known not to be");

    forget(&world);
    assert!(!config.exists());
    world.hub().fetch(&spec).unwrap();
    assert_eq!(fs::read(&config).unwrap(), SAYS);
}

#[test]
fn a_configuration_that_does_not_come_leaves_no_weights() {
    let world = world();
    world.server.fault("head", Fault::Status(404, vec![]));
    world.hub().fetch(&spec(&format!("@{COMMIT}:{WEIGHTS}"))).unwrap_err();
    let seen = world.server.seen();
    assert!(!seen.iter().any(|r| r.path.ends_with(WEIGHTS)), "the configuration comes first: {seen:?}");
    world.has_nothing();
    assert!(!world.model().join(".no_exist").join(COMMIT).join(PREPROCESSOR).exists());
    world.whole();
}

#[test]
fn without_the_hub_a_configuration_that_is_not_here_is_named() {
    let world = world();
    world.whole();
    let offline = || world.hub().offline(true).fetch(&spec("")).unwrap().notice.unwrap();
    assert!(!offline().contains("config.json"), "{}", offline());
    forget(&world);
    let notice = offline();
    assert!(notice.contains("config.json and preprocessor_config.json"), "{notice}");
    for _ in 0..3 {
        world.server.fault("list", Fault::Status(503, vec![]));
    }
    let notice = world.fetch().unwrap().notice.unwrap();
    assert!(notice.contains("503") && notice.contains("preprocessor_config.json"), "{notice}");
}
