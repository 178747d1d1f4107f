//! Saves whose RAM is not where a destination looks for it: salvaged, or left where it is. A real
//! QEMU loads what becomes of them, and the guest itself verifies every page of its memory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, Ram, SmallDisk, Version, Workload, corpus, exec_uri,
    image::run_tool, tool::snapinspect,
};

const MAPPED: [(&str, bool); 1] = [("mapped-ram", true)];

const SHARED: [(&str, bool); 1] = [("x-ignore-shared", true)];
const MAPPED_SHARED: [(&str, bool); 2] = [("mapped-ram", true), ("x-ignore-shared", true)];

fn config() -> Config {
    Config { memory_mib: 16, workload: Workload::STEADY, ..Config::default() }
}

/// A guest that has verified its memory once.
fn running(binary: &Binary, guest: &Guest, config: Config) -> Qemu {
    let source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.console().wait_passes(1);
    source
}

/// The guest goes on from the saved moment and verifies all its memory again.
fn loads(
    binary: &Binary,
    guest: &Guest,
    config: &Config,
    uri: &str,
    capabilities: &[(&str, bool)],
    after: u32,
) {
    let mut destination = Qemu::start(binary, guest, config.incoming());
    destination.set_capabilities(capabilities);
    assert_eq!(destination.revert(uri), Outcome::Completed, "{uri}: {}", destination.stderr());
    assert_eq!(destination.run_state(), "running");
    destination.console().wait_passes(2);
    assert!(destination.console().passes() >= after + 2, "goes on from the saved moment");
    destination.console().assert_sound();
    destination.quit();
}

fn inspect(arguments: &[&str]) -> Output {
    Command::new(snapinspect()).args(arguments).output().expect("the program runs")
}

fn convert(options: &[&str], from: &Path, form: &str, to: &Path) -> Output {
    let paths = [from, to].map(|path| path.to_str().expect("a path of our own"));
    inspect(&[&["convert", "--to", form], options, &paths].concat())
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Saves a guest by background-snapshot into a mapped-ram file; gives how often it had verified its
/// memory, at most.
fn saved_in_background(binary: &Binary, guest: &Guest, file: &Path) -> Option<u32> {
    let mut source = running(binary, guest, config());
    if !source.background_snapshot_or_skip() {
        return None;
    }
    source.set_capabilities(&MAPPED);
    source.set_fast();
    let passes = source.console().passes();
    let outcome = source.save(&format!("file:{}", file.display()));
    assert_eq!(outcome, Outcome::Completed, "{}", source.stderr());
    // The guest has gone on meanwhile.
    assert_eq!(source.run_state(), "running");
    source.quit();
    Some(passes)
}

#[test]
fn a_background_snapshot_in_a_mapped_ram_file_is_salvaged_and_its_guest_runs() {
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each_that(Version::has_mapped_ram) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let file = path("mapped");
        let Some(passes) = saved_in_background(&binary, guest, &file) else { return };
        let version = binary.version();
        // QEMU itself finds no RAM in it.
        let mut destination = Qemu::start(&binary, guest, config().incoming());
        destination.set_capabilities(&MAPPED);
        let outcome = destination.revert(&format!("file:{}", file.display()));
        assert!(matches!(outcome, Outcome::Failed(_)), "{version}: QEMU loads it: {outcome:?}");
        drop(destination);
        let check = inspect(&["check", file.to_str().expect("a path of our own")]);
        assert_eq!(check.status.code(), Some(1), "{version}: {}", words(&check));
        assert!(words(&check).contains("convert --salvage"), "{version}: {}", words(&check));
        let refused = convert(&[], &file, "stream", &path("refused"));
        assert_eq!(refused.status.code(), Some(1), "{version}: {}", words(&refused));
        assert!(!path("refused").exists(), "{version}");

        for form in ["stream", "image", "mapped-ram"] {
            let to = path(form);
            let salvaged = convert(&["--salvage"], &file, form, &to);
            assert_eq!(salvaged.status.code(), Some(0), "{version}: {form}: {}", words(&salvaged));
            assert!(words(&salvaged).contains("assumes that the file was empty"), "{}", words(&salvaged));
            let (uri, capabilities) = match form {
                "stream" => (format!("exec:cat {}", to.display()), &[][..]),
                "image" => (exec_uri("--revert", &to), &[][..]),
                _ => (format!("file:{}", to.display()), &MAPPED[..]),
            };
            loads(&binary, guest, &config(), &uri, capabilities, passes);
        }
    }
}

#[test]
fn a_background_snapshot_that_ended_on_a_full_disk_is_not_salvaged() {
    let Some(guest) = Guest::built_or_skip() else { return };
    for binary in Version::each_that(Version::has_mapped_ram) {
        let Some(disk) = SmallDisk::mounted_or_skip(4 << 20) else { return };
        let mut source = running(&binary, guest, config());
        if !source.background_snapshot_or_skip() {
            return;
        }
        source.set_capabilities(&MAPPED);
        source.set_fast();
        let file = disk.path("mapped");
        let outcome = source.save(&format!("file:{}", file.display()));
        assert!(matches!(outcome, Outcome::Failed(_)), "{}: {outcome:?}", binary.version());
        drop(source);
        assert!(fs::metadata(&file).expect("it began").len() > 8 << 20, "{}", binary.version());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let to = folder.path().join("stream");
        let refused = convert(&["--salvage"], &file, "stream", &to);
        assert_eq!(refused.status.code(), Some(1), "{}: {}", binary.version(), words(&refused));
        assert!(words(&refused).contains("truncated"), "{}: {}", binary.version(), words(&refused));
        assert!(!to.exists(), "{}", binary.version());
    }
}

/// Its RAM stays in the shared file, which the destination maps, too; everything else is converted.
#[test]
fn a_save_with_shared_ram_becomes_a_mapped_ram_file_and_a_stream_again() {
    let Some(guest) = Guest::built_or_skip() else { return };
    // QEMU 10.0 fails to save shared RAM into a mapped-ram file, and loads none of the two together.
    let Some(binary) = Version::V11_1.binary_or_skip() else { return };
    for (form, capabilities) in [("stream", &MAPPED_SHARED[..]), ("mapped-ram", &SHARED[..])] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        let config = Config { ram: Ram::SharedFile(path("memory")), ..config() };
        let mut source = running(&binary, guest, config.clone());
        source.set_capabilities(capabilities);
        source.set_fast();
        let (saved, converted) = (path("saved"), path("converted"));
        let save = match form {
            "stream" => format!("file:{}", saved.display()),
            _ => format!("exec:cat > {}", saved.display()),
        };
        assert_eq!(source.save(&save), Outcome::Completed, "{}", source.stderr());
        let passes = source.console().passes();
        source.quit();
        let output = convert(&[], &saved, form, &converted);
        assert_eq!(output.status.code(), Some(0), "{form}: {}", words(&output));
        let (load, capabilities) = match form {
            "stream" => (format!("exec:cat {}", converted.display()), &SHARED[..]),
            _ => (format!("file:{}", converted.display()), &MAPPED_SHARED[..]),
        };
        loads(&binary, guest, &config, &load, capabilities, passes);
    }
}

#[test]
fn a_save_of_cpr_is_refused_for_what_it_is() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (stream, image) = (folder.path().join("stream"), folder.path().join("image"));
    fs::write(&stream, corpus::unpacked("elsewhere/qemu-11.1-pc-cpr-exec")).expect("a small file");
    let output = run_tool(["--create".as_ref(), image.as_os_str()], Some(&stream));
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    let said = words(&output);
    assert!(said.contains("as in migration mode cpr-exec or cpr-transfer"), "{said}");
    assert!(!said.contains("multifd"), "{said}");
    assert!(!image.exists(), "{said}");
}
