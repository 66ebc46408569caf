//! Nobody reading any more is no failure.

use std::process::{Command, Stdio};

/// Runs the program with a pipe nobody reads as stdout and stderr; returns the exit status.
fn unread(args: &[&str]) -> Option<i32> {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    command.current_dir(folder.path()).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Closes the reading ends.
    drop((child.stdout.take(), child.stderr.take()));
    child.wait().unwrap().code()
}

#[test]
fn a_closed_pipe_ends_nothing() {
    assert_eq!(unread(&["inspect", "random:resnet18"]), Some(0));
    assert_eq!(unread(&["archs", "--json"]), Some(0));
    assert_eq!(unread(&["completions", "zsh"]), Some(0));
    assert_eq!(unread(&["pretrain", "simclr", "--batch-size", "8", "--steps", "2", "--no-probe"]), Some(0));
    assert_eq!(unread(&["pretrain", "simcrl"]), Some(2));
}
