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
    assert_eq!(dom.matches("data-cell=\"").count(), 3, "a canvas for each block, drawn");
    assert!(
        dom.contains("pc.ram: 4 MiB") && dom.contains("a cell is 1 page (4 KiB), a row is 512 KiB"),
        "{dom}"
    );
    assert!(dom.contains("33 of 1,072 pages changed, in 3 ranges"), "the changes are counted: {dom}");
    assert_eq!(dom.matches("href=\"#\">0x").count(), 3, "and can be jumped to");
    assert!(
        dom.contains("data-look=\"changed\"") && !dom.contains("data-look=\"hot\""),
        "legend: only what is there"
    );
    for group in ["RAM: ", "devices: ", "vmdesc: ", "framing: "] {
        assert!(dom.contains(group), "the stream's groups have a legend: {group}");
    }
}

#[test]
fn a_picture_alone_has_no_words_about_changes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("map.html");
    map(&corpus().join("qemu-10.0-pc-rounds.bin.zst"), &[], &page);
    let Some(dom) = rendered(&page) else { return };
    assert!(dom.contains("data-look=\"hot\"") && !dom.contains("data-look=\"changed\""), "{dom}");
    assert!(!dom.contains("pages changed"), "{dom}");
}

/// A picture of the page, as a browser of this size and scheme shows it.
fn screenshot(page: &Path, size: &str, scheme: u8) -> Option<Vec<u8>> {
    let shot = page.with_extension("png");
    let output = Command::new("chromium-headless-shell")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"])
        .arg(format!("--window-size={size}"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--screenshot={}", shot.display()))
        .arg(format!("file://{}", page.display()))
        .output();
    let Ok(output) = output else {
        test_support::not_run("no browser");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(shot).expect("a picture")));
    let mut reader = reader.read_info().expect("PNG");
    let mut pixels = vec![0; reader.output_buffer_size().expect("it fits")];
    reader.next_frame(&mut pixels).expect("PNG");
    Some(pixels)
}

/// The paper of the page is light or dark as the user wants it, at two sizes.
#[test]
fn the_page_is_light_or_dark_as_the_user_wants() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let page = folder.path().join("map.html");
    map(&corpus().join("qemu-10.0-pc-rounds.bin.zst"), &[], &page);
    for size in ["1280,900", "480,800"] {
        for (scheme, corner) in [(1, [0xff, 0xff, 0xff]), (0, [0x14, 0x17, 0x1b])] {
            let Some(pixels) = screenshot(&page, size, scheme) else { return };
            assert_eq!(pixels[..3], corner, "{size}, scheme {scheme}");
        }
    }
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
    assert!(dom.contains("&lt;b&gt;&amp;'\": 4 MiB"), "the name is text");
    assert!(!dom.contains("<b>&amp;"), "and not markup");
    assert!(!dom.contains("<title>1</title>"));
}
