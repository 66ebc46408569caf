//! Downloads that end early, and how that is noticed.

use super::*;

/// A server that names its files by what is no hash.
fn unhashed() -> World {
    let world = World::new();
    world.server.small(WEIGHTS);
    world.server.lie("ETag", "\"v1-64f0\"");
    world
}

#[test]
fn without_a_size_or_a_hash_an_end_is_not_told_from_a_cut() {
    let world = unhashed();
    world.server.fault("head", Fault::NoLength(0));
    world.server.fault("get", Fault::NoLength(150_000));
    says(&world.fails(), &[WEIGHTS, "neither how long the file is nor a hash"]);

    // A hash alone is enough: half of the bytes have another.
    let world = World::new();
    world.server.small(WEIGHTS);
    world.server.fault("head", Fault::NoLength(0));
    for length in [150_000, 120_000] {
        world.server.fault("get", Fault::NoLength(length));
    }
    assert!(matches!(world.fails(), Error::HubHash { .. }));
    world.server.fault("head", Fault::NoLength(0));
    world.server.fault("get", Fault::NoLength(300_000));
    world.whole();
}

#[test]
fn without_a_hash_nothing_is_made_of_what_an_earlier_process_left() {
    for left in [bytes(50_000, 9), bytes(300_000, 9)] {
        let world = unhashed();
        let incomplete = world.model().join("blobs/v1-64f0.incomplete");
        fs::create_dir_all(incomplete.parent().unwrap()).unwrap();
        fs::write(incomplete, left).unwrap();
        // One's own part goes on.
        world.server.fault("get", Fault::Cut(100_000));
        world.whole();
        let ranges: Vec<_> = world.server.gets().iter().map(|r| r.headers.get("range").cloned()).collect();
        assert_eq!(ranges, [None, Some("bytes=100000-".into())]);
    }
}

#[test]
fn a_download_may_be_cut_more_often_than_it_may_fail() {
    let world = World::new();
    for _ in 0..5 {
        world.server.fault("get", Fault::Cut(50_000));
    }
    world.whole();
    assert_eq!(world.server.gets().iter().filter(|r| r.cdn).count(), 6);
}

#[test]
fn a_server_that_cuts_and_knows_no_ranges_is_not_asked_for_ever() {
    let world = World::new();
    for _ in 0..10 {
        world.server.fault("get", Fault::Cut(100_000));
        world.server.fault("get", Fault::Status(416, vec![]));
    }
    world.fails();
    assert_eq!(world.server.gets().iter().filter(|r| r.cdn).count(), 3);
}
