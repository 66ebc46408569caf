//! The program as a user runs it, and pictures for it.

// Each test file is a crate that uses a part of this.
#![allow(dead_code)]

use assert_cmd::Command;
use std::fs;
use std::path::Path;

/// Status, stdout and stderr of the program in a folder.
pub fn run(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selfsup"));
    let output = command.current_dir(folder).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

/// One step of a small network's pretraining on `data`, into `out`, without its probes.
pub fn pretrain_a_step(folder: &Path, [method, data, out]: [&str; 3], more: &[&str]) {
    let args = ["pretrain", method, "--data", data, "--out", out, "--steps", "1", "--batch-size", "4"];
    let small = ["--arch", "resnet10-mini", "--image-size", "32", "--no-probe", "--quiet"];
    let (status, _, stderr) = run(folder, &[&args[..], &small, more].concat());
    assert_eq!(status, 0, "{stderr}");
}

/// Two class folders of so many images each, a red and a blue one, easily told apart, with some noise in them.
pub fn colours(folder: &Path, [red, blue]: [&str; 2], each: u32, (width, height): (u32, u32)) {
    for (class, channel) in [(red, 0), (blue, 2)] {
        fs::create_dir_all(folder.join(class)).unwrap();
        for i in 0..each {
            let pixels = image::RgbImage::from_fn(width, height, |x, y| {
                let mut pixel = [(x * 31 + y * 17 + i * 53) as u8 % 97; 3];
                pixel[channel] = 200;
                image::Rgb(pixel)
            });
            pixels.save(folder.join(class).join(format!("{i:02}.png"))).unwrap();
        }
    }
}
