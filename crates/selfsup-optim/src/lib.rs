//! SGD, LARS and AdamW with parameter groups, learning-rate schedules and gradient checks.
