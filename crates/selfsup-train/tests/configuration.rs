//! Layers of settings over a method's defaults.

use selfsup_optim::{OptimizerConfig, Schedule};
use selfsup_train::{PretrainConfig, parse_setting};
use toml::Table;

fn resolve(layers: &[&str]) -> Result<PretrainConfig, String> {
    let layers: Vec<Table> = layers
        .iter()
        .map(|layer| match layer.contains('\n') {
            true => layer.parse().unwrap(),
            false => parse_setting(layer).unwrap(),
        })
        .collect();
    PretrainConfig::resolve("simclr", &layers).map_err(|e| e.to_string())
}

const SGD_FILE: &str = "batch_size = 64\n[optimizer]\nname = 'sgd'\nlr = 0.5\nmomentum = 0.8\nnesterov = true\n\
                        weight_decay = 0.0\n";

#[test]
fn a_later_layer_wins_and_leaves_the_rest() {
    let config = resolve(&[SGD_FILE, "optimizer.lr=0.25", "batch_size=32", "batch_size=16"]).unwrap();
    let sgd = resolve(&[SGD_FILE]).unwrap().optimizer;
    let OptimizerConfig::Sgd(mut expected) = sgd else { panic!("{sgd:?}") };
    assert_eq!((expected.lr, expected.momentum, expected.nesterov), (0.5, 0.8, true));
    expected.lr = 0.25;
    assert_eq!((config.optimizer, config.batch_size), (OptimizerConfig::Sgd(expected), 16));
}

#[test]
fn another_optimiser_begins_from_its_own_defaults() {
    // Whichever comes first, and whatever the defaults or the file had.
    for layers in [
        &["optimizer.lr=0.002", "optimizer.name=lars"][..],
        &["optimizer.name=lars", "optimizer.lr=0.002"],
        &[SGD_FILE, "optimizer.lr=0.002", "optimizer.name=lars"],
    ] {
        assert_eq!(resolve(layers).unwrap().optimizer, OptimizerConfig::lars(0.002), "{layers:?}");
    }
    let layers = [SGD_FILE, "optimizer.name=lars", "optimizer.lr=0.1", "optimizer.trust_coefficient=0.01"];
    let OptimizerConfig::Lars(lars) = resolve(&layers).unwrap().optimizer else { panic!() };
    assert_eq!((lars.lr, lars.momentum, lars.trust_coefficient), (0.1, 0.9, 0.01));
}

#[test]
fn another_optimiser_needs_its_learning_rate() {
    let error = resolve(&["optimizer.name=lars"]).unwrap_err();
    assert!(error.contains("`lars` in place of `adamw`") && error.contains("optimizer.lr"), "{error}");
    // The default one has its own, and not that of the optimiser which a file names.
    let default = resolve(&[]).unwrap().optimizer;
    for layers in [&["optimizer.name=adamw"][..], &[SGD_FILE, "optimizer.name=adamw"]] {
        assert_eq!(resolve(layers).unwrap().optimizer, default);
    }
    let error = resolve(&["optimizer.name=adamv", "optimizer.lr=1"]).unwrap_err();
    assert!(error.contains("did you mean `adamw`?"), "{error}");
    let error = resolve(&["optimizer.name=lars", "optimizer.lr=1", "optimizer.beta1=0.5"]).unwrap_err();
    assert!(error.contains("unknown field `beta1`"), "{error}");
}

#[test]
fn another_schedule_takes_none_of_the_old_one_s_settings() {
    assert_eq!(resolve(&["schedule.name=constant"]).unwrap().schedule, Schedule::constant());
    let layers = ["schedule.milestones_epochs=[3]", "schedule.gamma=0.5", "schedule.name=step"];
    assert_eq!(resolve(&layers).unwrap().schedule, Schedule::step(vec![3.0], 0.5));
}

#[test]
fn a_resolved_configuration_repeats_itself() {
    for layers in [&[][..], &["data=photos", "seed=3"], &["data=cifar10:x", "steps=7"], &[SGD_FILE]] {
        let config = resolve(layers).unwrap();
        assert_eq!(resolve(&[&config.to_toml()]).unwrap(), config);
        assert_eq!(PretrainConfig::from_toml(&config.to_toml()).unwrap(), config);
    }
}
