//! What frozen features are worth: kNN, linear and few-label probes.
