//! The page that `map` writes, in a real browser.

use crate::common::{corpus, program};
use std::path::Path;
use std::process::Command;

/// The page after its script has run; none where there is no browser.
fn rendered(page: &Path) -> Option<String> {
    for browser in ["chromium-headless-shell", "chromium", "google-chrome"] {
        let output = Command::new(browser)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"])
            .arg(format!("file://{}", page.display()))
            .output();
        if let Ok(output) = output {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return Some(String::from_utf8_lossy(&output.stdout).into_owned());
        }
    }
    test_support::not_run("no browser");
    None
}

fn map(file: &Path, more: &[&Path], page: &Path) {
    let mut command = program();
    command.arg("map").arg(file).arg("-o").arg(page);
    if let [against] = more {
        command.arg("--against").arg(against);
    }
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_script_draws_every_block_and_the_timeline() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("map.html");
    let file = |name: &str| corpus().join(format!("{name}.bin.zst"));
    map(&file("qemu-10.0-pc-rounds"), &[&file("qemu-10.0-pc")], &page);
    let Some(dom) = rendered(&page) else { return };
    assert!(dom.contains("data-ready=\"3\""), "the script ran to its end");
    assert_eq!(dom.matches("data-zoom=\"4\"").count(), 3, "a canvas for each block");
    assert!(dom.contains("data-zoom=\"1\""), "the timeline");
    assert!(dom.contains("pc.ram: 4194304 bytes"));
}

#[test]
fn a_strangers_name_runs_no_script() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("map.html");
    // Six bytes, as many as `pc.ram` has, so that the stream stays a stream.
    let mut bytes = crate::common::stream("qemu-7.2-pc");
    let hostile = b"<b>&'\"";
    for at in 0..bytes.len() - 7 {
        if bytes[at..at + 7] == *b"\x06pc.ram" {
            bytes[at + 1..at + 7].copy_from_slice(hostile);
        }
    }
    let file = folder.path().join("</script><script>document.title=1</script>".replace('/', "_"));
    std::fs::write(&file, &bytes).expect("a file");
    map(&file, &[], &page);
    let Some(dom) = rendered(&page) else { return };
    assert!(dom.contains("data-ready=\"3\""), "the script ran to its end");
    assert!(dom.contains("&lt;b&gt;&amp;'\": 4194304 bytes"), "the name is text");
    assert!(!dom.contains("<b>&amp;"), "and not markup");
    assert!(!dom.contains("<title>1</title>"));
}
