//! The recipes of the README and of `docs/`, run as they are written: only paths are put in their place.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use snapshot_tests::{
    Binary, Config, Guest, Qemu, Version, beside,
    tool::{qemu_snapshot, snapsim},
    with_each_qemu_that,
};

const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name))
        .expect("in the repository")
}

/// The code blocks of a language under a heading.
fn blocks(page: &str, heading: &str, language: &str) -> Vec<String> {
    let start = page.find(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no heading {heading:?}"));
    let section = &page[start + 1 + heading.len()..];
    let end = section.find("\n## ").unwrap_or(section.len());
    let mut blocks = Vec::new();
    let mut block: Option<Vec<&str>> = None;
    for line in section[..end].lines() {
        match (&mut block, line.trim()) {
            (None, fence) if fence == format!("```{language}") => block = Some(Vec::new()),
            (Some(lines), "```") => {
                blocks.push(lines.join("\n"));
                block = None;
            }
            (Some(lines), line) => lines.push(line),
            (None, _) => {}
        }
    }
    assert!(!blocks.is_empty(), "no {language} under {heading}");
    blocks
}

/// With this build's program, and a folder of the test's.
fn placed(text: &str, folder: &Path) -> String {
    text.replace("/usr/local/bin/qemu-snapshot", &qemu_snapshot().display().to_string())
        .replace("/var/lib/vm", &folder.display().to_string())
        .replace("/run/", &format!("{}/", folder.display()))
}

/// Gives QEMU the lines of a block; where it asks how far a migration is, that is asked until there
/// is an end.
fn execute(qemu: &mut Qemu, block: &str) {
    for line in block.lines() {
        let command: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = command["execute"].as_str().expect("a command");
        let arguments = command.get("arguments").cloned().unwrap_or_else(|| json!({}));
        qemu.execute(name, arguments);
        if name == "query-migrate" {
            qemu.wait_migration("completed");
        }
    }
}

/// The same in the human monitor.
fn human(qemu: &mut Qemu, block: &str) {
    for line in block.lines() {
        let said = qemu.execute("human-monitor-command", json!({ "command-line": line }));
        if line == "info migrate" {
            qemu.wait_migration("completed");
        } else {
            assert_eq!(said, json!(""), "{line}");
        }
    }
}

/// Waits for a text to be in a file.
fn wait_for_words(path: &Path, wanted: &str) {
    let end = Instant::now() + PATIENCE;
    while !fs::read_to_string(path).is_ok_and(|words| words.contains(wanted)) {
        assert!(Instant::now() < end, "no {wanted:?} in {}: {:?}", path.display(), fs::read_to_string(path));
        thread::sleep(POLL);
    }
}

/// A guest that can be saved in the background; none with a QEMU or a kernel that cannot do that.
fn source(binary: &Binary, guest: &Guest, config: &Config) -> Option<Qemu> {
    let mut source = Qemu::start(binary, guest, config.clone());
    source.console().wait_ready();
    source.console().wait_passes(1);
    if !source.background_snapshot_or_skip() {
        return None;
    }
    source.set_capabilities(&[("background-snapshot", false)]);
    Some(source)
}

fn goes_on(destination: &mut Qemu) {
    destination.wait_migration("completed");
    destination.wait_running();
    destination.console().wait_passes(2);
}

#[test]
fn saves_and_reverts_are_as_the_readme_says() {
    let readme = page("README.md");
    let save = "## Save a running guest";
    with_each_qemu_that(Version::has_background_snapshot, |binary, guest| {
        let config = Config { memory_mib: 48, ..Config::default() };
        let Some(mut source) = source(binary, guest, &config) else { return };
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("vm1.qcow2");
        let log = folder.path().join("vm1.log");

        let [qmp, socket] = &blocks(&readme, save, "json")[..] else { panic!("two blocks of QMP") };
        execute(&mut source, &placed(qmp, folder.path()));
        wait_for_words(&log, "qemu-snapshot: saved ");
        assert_eq!(source.run_state(), "running");
        fs::rename(&image, folder.path().join("by-qmp.qcow2")).expect("the image is there");

        for block in blocks(&readme, save, "text") {
            human(&mut source, &placed(&block, folder.path()));
        }
        wait_for_words(&log, "qemu-snapshot: saved ");
        fs::rename(&image, folder.path().join("by-hmp.qcow2")).expect("the image is there");

        // Over a socket, with the program started first; its exit status is the proof.
        let shell = blocks(&readme, save, "sh").into_iter().find(|block| block.contains("--uri=unix:"));
        let words = placed(&shell.expect("a recipe with a socket"), folder.path());
        let words =
            words.replace("qemu-snapshot --create", &format!("{} --create", qemu_snapshot().display()));
        let tool =
            Command::new("bash").arg("-c").arg(&words).stdout(Stdio::piped()).spawn().expect("a shell");
        beside::wait_for(&folder.path().join("vm1.save"));
        source.set_capabilities(&[("background-snapshot", true)]);
        execute(&mut source, &placed(socket, folder.path()));
        let output = tool.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "exit status 0\n");
        source.wait_migration("completed");
        source.quit();

        for block in blocks(&readme, "## Revert", "json") {
            let mut destination = Qemu::start(binary, guest, config.incoming());
            execute(&mut destination, &placed(&block, folder.path()));
            goes_on(&mut destination);
            destination.quit();
        }
        for block in blocks(&readme, "## Revert", "text") {
            let mut destination = Qemu::start(binary, guest, config.incoming());
            human(&mut destination, &placed(&block, folder.path()));
            goes_on(&mut destination);
            destination.quit();
        }
        let postcopy = page("docs/postcopy.md");
        let first = "# Revert in postcopy: the guest runs at once";
        let postcopy = format!("\n{postcopy}");
        for (language, run) in [("json", execute as fn(&mut Qemu, &str)), ("text", human)] {
            let mut destination = Qemu::start(binary, guest, config.incoming());
            run(&mut destination, &placed(&blocks(&postcopy, first, language)[0], folder.path()));
            goes_on(&mut destination);
            destination.quit();
        }
    });
}

/// A shell with this build's programs in its `PATH`.
fn shell(script: &str, folder: &Path) -> std::process::Output {
    let programs = [qemu_snapshot(), snapsim()].map(|program| program.parent().expect("a folder").to_owned());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path =
        std::env::join_paths(programs.into_iter().chain(std::env::split_paths(&path))).expect("plain names");
    let mut command = Command::new("bash");
    command.args(["-e", "-c", script]).env("PATH", path).current_dir(folder);
    command.output().expect("a shell")
}

#[test]
fn snapsim_does_what_the_readme_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let blocks = blocks(&page("README.md"), "## Without QEMU: snapsim", "sh");
    let output = shell(&blocks.join("\n"), folder.path());
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("userfaultfd") && !output.status.success() {
        return snapshot_tests::not_run("no right to use userfaultfd");
    }
    assert!(output.status.success(), "{said}");
    assert!(said.contains("qemu-snapshot: saved ") && said.contains("all pages sent"), "{said}");
}

/// The name that a heading has in a link: without punctuation, as forges make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    text.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

/// Links to files and to headings of the README lead somewhere.
#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = vec!["README.md".to_owned(), "ARCHITECTURE.md".to_owned(), "CHANGELOG.md".to_owned()];
    for entry in fs::read_dir(root.join("docs")).expect("docs/") {
        let name = entry.expect("readable").file_name().into_string().expect("plain names");
        pages.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    let mut count = 0;
    for name in pages {
        let text = page(&name);
        let folder = root.join(&name).parent().expect("a file").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root.join(&name) } else { folder.join(file) };
            assert!(target.exists(), "{name}: {link}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("text");
                let found =
                    text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{name}: {link}");
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count} links");
}
