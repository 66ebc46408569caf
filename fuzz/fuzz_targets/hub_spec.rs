//! What names a model on the hub: it reads as it is written, and never becomes a path that leads out of the cache.

#![no_main]

use libfuzzer_sys::fuzz_target;
use selfsup_models::hub::HubSpec;

fuzz_target!(|text: &str| {
    let Ok(spec) = text.parse::<HubSpec>() else { return };
    assert_eq!(spec.to_string().parse::<HubSpec>().expect("as written"), spec);
    for part in [&spec.repo, &spec.revision].into_iter().chain(&spec.file) {
        assert!(!part.starts_with('/') && part.split('/').all(|p| !matches!(p, "" | "." | "..")), "{part}");
    }
});
