//! A cache that others read and write too.

use super::*;
use std::fs::File;
use std::io::Read;
use std::time::SystemTime;

#[test]
fn a_branch_is_written_when_it_moves_and_at_once() {
    let world = World::new();
    world.whole();
    let branch = world.model().join("refs/main");
    let file = File::options().write(true).open(&branch).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    world.whole();
    assert_eq!(fs::metadata(&branch).unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);

    // Who is reading it while it moves reads the old one, whole.
    let mut reader = File::open(&branch).unwrap();
    world.server.commit("main", NEXT, &[(WEIGHTS, b"new")]);
    world.fetch().unwrap();
    let mut old = String::new();
    reader.read_to_string(&mut old).unwrap();
    assert_eq!((old.as_str(), fs::read_to_string(&branch).unwrap().as_str()), (COMMIT, NEXT));
    let names = fs::read_dir(world.model()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().starts_with(".ref")), "nothing is left");
}

#[test]
fn what_is_whole_serves_from_a_cache_that_cannot_be_written() {
    let world = World::new();
    world.whole();
    // Where a folder lies no file can be written, whoever tries.
    let branch = world.model().join("refs/main");
    fs::remove_file(&branch).unwrap();
    fs::create_dir(&branch).unwrap();
    world.whole();
    // What had to be fetched would not be found again.
    world.server.commit("main", NEXT, &[(WEIGHTS, b"new")]);
    assert!(matches!(world.fetch().unwrap_err(), Error::Io { .. }));
}

/// Fetches while another process, which waits for no lock, does something when the first bytes are there.
#[cfg(unix)]
fn beside(world: &World, does: impl Fn() + Send + Sync + 'static) {
    let once = std::sync::Once::new();
    let fetched = world.hub().on_progress(move |_| once.call_once(&does)).fetch(&spec("")).unwrap();
    assert!(fs::read(fetched.path).unwrap() == world.weights, "the bytes are not the file's");
    assert!(!world.incomplete().exists());
}

#[cfg(unix)]
#[test]
fn what_another_process_put_in_the_place_is_not_taken_for_ones_own() {
    let world = World::new();
    let incomplete = world.incomplete();
    beside(&world, move || {
        fs::remove_file(&incomplete).unwrap();
        fs::write(&incomplete, bytes(300_000, 9)).unwrap();
    });
}

#[cfg(unix)]
#[test]
fn what_another_process_has_finished_serves() {
    let world = World::new();
    let (incomplete, weights) = (world.incomplete(), world.weights.clone());
    beside(&world, move || {
        fs::write(&incomplete, &weights).unwrap();
        fs::rename(&incomplete, incomplete.with_extension("")).unwrap();
    });
    assert_eq!(world.server.gets().iter().filter(|r| r.cdn).count(), 1);
}

#[cfg(unix)]
#[test]
fn others_of_the_group_may_lock_too() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    world.whole();
    let locks = world.cache.path().join(".locks/models--owner--model.v1");
    let modes =
        fs::read_dir(locks).unwrap().map(|lock| lock.unwrap().metadata().unwrap().permissions().mode());
    assert_eq!(modes.map(|mode| mode & 0o777).collect::<Vec<_>>(), [0o664]);
}
