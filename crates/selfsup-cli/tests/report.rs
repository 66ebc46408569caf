//! The report: one page that holds everything, which a browser opens.

mod common;

use common::run;
use std::fs;
use std::path::Path;

/// Two classes, one of a name that HTML must escape.
fn colours(folder: &Path) {
    common::colours(folder, ["red & <warm>", "blue"], 40, (14, 14));
}

fn pretrain(folder: &Path, method: &str) {
    let mut args = vec!["pretrain", method, "--data", "colours", "--steps", "6", "--out", method];
    args.extend([
        "--image-size",
        "12",
        "--batch-size",
        "16",
        "--arch",
        "resnet10-mini",
        "--quiet",
        "--no-probe",
    ]);
    args.extend(["--set", "log_every_steps=1"]);
    let (status, _, stderr) = run(folder, &args);
    assert_eq!(status, 0, "{stderr}");
}

#[test]
fn a_page_holds_everything_and_a_browser_opens_it() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    pretrain(d, "rotation");
    pretrain(d, "inpainting");
    let (status, stdout, stderr) =
        run(d, &["report", "rotation", "inpainting", "--out", "page.html", "--quiet"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("2 runs"), "{stdout}");
    let html = fs::read_to_string(d.join("page.html")).unwrap();
    for part in [
        "Curves",
        "rotation, top-1, %",
        "PSNR, dB",
        "effective rank of the embeddings, dimensions",
        "href=\"#run-2\"",
        "id=\"run-2\"",
        "inpainting: inpainting",
        "What the method sees",
        "First-layer filters",
        "What the features are worth",
        "untrained",
        "Confusion",
        "Nearest neighbours",
        "The embedding",
        "t-SNE",
        "Configuration",
        "batch_size = 16",
        "completion",
        "red &amp; &lt;warm&gt;",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("<warm>"), "a class is no element");
    // Nothing is fetched: every picture is in the page, and there is no script and no other file.
    assert!(html.matches("src=\"").count() == html.matches("src=\"data:image/png;base64,").count());
    for outside in ["<script", "<link", "url(", "src=\"http", "href=\"http"] {
        assert!(!html.contains(outside), "{outside}");
    }
    // The same runs make the same page, t-SNE included.
    run(d, &["report", "rotation", "inpainting", "--out", "again.html", "--quiet"]);
    assert!(html == fs::read_to_string(d.join("again.html")).unwrap());
    open_in_a_browser(d);
}

/// Headless, without a network: the document as the browser understood it, and a picture of it that is not blank.
fn open_in_a_browser(folder: &Path) {
    let browser = ["chromium", "chromium-browser"].into_iter().find(|name| {
        std::process::Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success())
    });
    let Some(browser) = browser else {
        eprintln!("no chromium here: the page is not opened");
        return;
    };
    let page = format!("file://{}", folder.join("page.html").display());
    let start = |more: &[&str]| {
        let profile = format!("--user-data-dir={}", folder.join("profile").display());
        let quiet = [
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let mut command = std::process::Command::new(browser);
        command.current_dir(folder).args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            &profile,
        ]);
        command.args(quiet).args(more).arg(&page).output().unwrap()
    };
    let dom = String::from_utf8_lossy(&start(&["--dump-dom"]).stdout).into_owned();
    let html = fs::read_to_string(folder.join("page.html")).unwrap();
    for element in ["<svg", "<img", "<table", "<h2>", "<h3>"] {
        assert_eq!(dom.matches(element).count(), html.matches(element).count(), "{element}");
    }
    start(&["--window-size=1200,3000", "--screenshot=page.png"]);
    let picture = image::open(folder.join("page.png")).unwrap().into_rgb8();
    let inked = picture.pixels().filter(|p| p.0 != [255; 3]).count();
    assert!(inked > 50_000, "{inked} pixels of {:?} are not white", picture.dimensions());
}

#[test]
fn what_cannot_be_reported_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    colours(&d.join("colours"));
    let fails = |args: &[&str], part: &str| {
        let (status, _, stderr) = run(d, args);
        assert_eq!(status, 2, "{args:?}: {stderr}");
        assert!(stderr.contains(part), "{args:?}: {stderr}");
        assert!(!d.join("page.html").exists());
    };
    fails(&["report", "--out", "page.html"], "RUN");
    fails(&["report", "nothing", "--out", "page.html"], "config.toml");
    pretrain(d, "rotation");
    fails(&["report", "rotation", "--out", "page.html", "--data", "nowhere"], "nowhere");
    // The images are gone: the page says so and holds what is left, or shows others.
    fs::rename(d.join("colours"), d.join("moved")).unwrap();
    let others = ["report", "rotation", "--out", "page.html", "--data", "moved"];
    let (status, _, stderr) = run(d, &others);
    assert_eq!(status, 0, "{stderr}");
    let html = fs::read_to_string(d.join("page.html")).unwrap();
    assert!(html.contains("images, colours, are not here; these are of moved.") && html.contains("Columns:"));
    fs::remove_dir_all(d.join("moved")).unwrap();
    let (status, _, stderr) = run(d, &["report", "rotation", "--out", "page.html"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("no probes on the page"), "{stderr}");
    let html = fs::read_to_string(d.join("page.html")).unwrap();
    assert!(html.contains("images are not here") && html.contains("Curves") && !html.contains("Confusion"));
}
