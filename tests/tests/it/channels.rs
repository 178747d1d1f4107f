//! Real QEMU with the capabilities and properties that change a stream, over pipes, sockets and
//! descriptors: what the source sent is what the image gives back, and a destination takes it.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::json;
use snapshot_tests::{
    Binary, Boot, Config, Guest, Outcome, Qemu, Ram, ToImage, Version, Workload,
    beside::{self, utf8},
    exec_uri,
    image::assert_whole,
    ram::contents,
    with_each_qemu,
};

/// The end of a save or a revert by a tool that runs beside QEMU.
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine whose stream differs from a plain one.
struct Kind {
    name: &'static str,
    machine: &'static str,
    capabilities: &'static [&'static str],
    more: &'static [&'static str],
    options: &'static str,
    only: Option<Version>,
}

const PLAIN: Kind = Kind { name: "", machine: "pc", capabilities: &[], more: &[], options: "", only: None };

const KINDS: [Kind; 10] = [
    Kind { name: "footers off", more: &["-global", "migration.send-section-footer=off"], ..PLAIN },
    Kind {
        // 10.0 aborts by itself before the end of such a stream.
        name: "configuration off",
        more: &["-global", "migration.send-configuration=off"],
        only: Some(Version::V7_2),
        ..PLAIN
    },
    Kind { name: "vmdesc off", machine: "pc,suppress-vmdesc=on", options: "--no-vmdesc", ..PLAIN },
    Kind {
        name: "configuration, footers and vmdesc off",
        machine: "q35,suppress-vmdesc=on",
        more: &[
            "-global",
            "migration.send-configuration=off",
            "-global",
            "migration.send-section-footer=off",
        ],
        options: "--no-vmdesc",
        ..PLAIN
    },
    Kind {
        name: "UUID",
        capabilities: &["validate-uuid"],
        more: &["-uuid", "00112233-4455-6677-8899-aabbccddeeff"],
        ..PLAIN
    },
    Kind {
        name: "dirty bitmaps",
        capabilities: &["dirty-bitmaps"],
        more: &["-blockdev", "driver=null-co,node-name=disk0,size=67108864,read-zeroes=on"],
        ..PLAIN
    },
    Kind { name: "deltas", capabilities: &["xbzrle"], ..PLAIN },
    Kind { name: "compressed pages", capabilities: &["compress"], only: Some(Version::V7_2), ..PLAIN },
    Kind { name: "postcopy possible", capabilities: &["postcopy-ram"], ..PLAIN },
    Kind { name: "return path", capabilities: &["return-path"], ..PLAIN },
];

/// A started source, ready to be saved.
fn source(binary: &Binary, guest: &Guest, config: Config, capabilities: &[&str]) -> Qemu {
    let mut source = Qemu::start(binary, guest, config);
    source.console().wait_ready();
    source.console().wait_passes(1);
    let on: Vec<_> = capabilities.iter().map(|&name| (name, true)).collect();
    source.set_capabilities(&on);
    if capabilities.contains(&"dirty-bitmaps") {
        let bitmap = json!({ "node": "disk0", "name": "bitmap0", "persistent": false });
        source.execute("block-dirty-bitmap-add", bitmap);
    }
    source.set_fast();
    source
}

/// Two more passes by the guest of a machine that has taken over `image`.
fn assert_taken_over(binary: &Binary, guest: &Guest, config: &Config, capabilities: &[&str], image: &Path) {
    let mut destination = Qemu::start(binary, guest, config.incoming());
    let on: Vec<_> = capabilities.iter().map(|&name| (name, true)).collect();
    destination.set_capabilities(&on);
    let uri = exec_uri("--revert", image);
    assert_eq!(destination.revert(&uri), Outcome::Completed, "{}", destination.stderr());
    assert_eq!(destination.run_state(), "running");
    destination.console().wait_passes(2);
    if capabilities.contains(&"dirty-bitmaps") {
        let nodes = destination.execute("query-named-block-nodes", json!({})).to_string();
        assert!(nodes.contains("\"bitmap0\""), "{nodes}");
    }
}

#[test]
fn streams_of_every_kind_come_back() {
    with_each_qemu(|binary, guest| {
        for kind in &KINDS {
            if kind.only.is_some_and(|only| only != binary.version()) {
                continue;
            }
            println!("{}: {}", binary.version(), kind.name);
            let config = Config {
                machine: kind.machine.to_owned(),
                workload: Workload::IDLE,
                more: kind.more.iter().map(|&word| word.to_owned()).collect(),
                ..Config::of_mib(32)
            };
            let mut source = source(binary, guest, config.clone(), kind.capabilities);
            let (stream, image) = (source.home().join("stream"), source.home().join("image"));
            let options = format!("--create {}", kind.options);
            let save = ToImage { options: &options, image: &image, stream: Some(&stream) };
            assert_eq!(source.save_image(&save), Outcome::Completed, "{}: {}", kind.name, source.stderr());
            // What a destination needs to have switched on to accept the stream.
            let needed: Vec<_> =
                kind.capabilities.iter().copied().filter(|&name| name == "dirty-bitmaps").collect();
            assert_taken_over(binary, guest, &config, &needed, &image);
        }
    });
}

/// Pages are sent again and again: the last version wins, zero or not.
#[test]
fn last_version_of_every_page_is_stored() {
    with_each_qemu(|binary, guest| {
        for capabilities in [&[][..], &["xbzrle"]] {
            let config =
                Config { workload: Workload { used_percent: 40, ..Workload::BUSY }, ..Config::of_mib(32) };
            let mut source = source(binary, guest, config, capabilities);
            let (stream, image) = (source.home().join("stream"), source.home().join("image"));
            source.set_parameters(json!({ "max-bandwidth": 30_000_000, "downtime-limit": 1 }));
            let save = ToImage { options: "--create", image: &image, stream: Some(&stream) };
            source.start_save_image(&save);
            let end = Instant::now() + Duration::from_secs(60);
            loop {
                let info = source.execute("query-migrate", json!({}));
                if info["ram"]["dirty-sync-count"].as_u64() >= Some(4) {
                    break;
                }
                assert!(Instant::now() < end && info["status"] != "failed", "{info}: {}", source.stderr());
                std::thread::sleep(Duration::from_millis(10));
            }
            source.set_fast();
            assert_eq!(source.wait_save(PATIENCE), Outcome::Completed, "{}", source.stderr());
            let sent = contents(&fs::read(&stream).expect("recorded"));
            assert!(sent.zero_after_normal > 50 && sent.normal_after_zero > 50, "several rounds");
        }
    });
}

#[test]
fn sockets_carry_saves_and_reverts() {
    with_each_qemu(|binary, guest| {
        for return_path in [false, true] {
            let config = Config { workload: Workload::IDLE, ..Config::of_mib(32) };
            let mut source = source(binary, guest, config.clone(), &[]);
            source.set_capabilities(&[("return-path", return_path)]);
            let at = |name: &str| -> PathBuf { source.home().join(name) };
            let (image, socket, said) = (at("image"), at("socket"), at("said"));
            let uri = format!("unix:{}", socket.display());
            let mut tool = beside::start(&["--create", "--uri", &uri, utf8(&image)], Stdio::null(), &said);
            beside::wait_for(&socket);
            let outcome = source.save(&uri);
            let status = beside::end(&mut tool);
            let words = fs::read_to_string(&said).expect("a text");
            assert_eq!((outcome, status.code()), (Outcome::Completed, Some(0)), "{words}");
            let warned = words.contains("the source opened no return path");
            assert_eq!(warned, !return_path, "{words}");
            assert_whole(&image, None);

            let mut destination = Qemu::start(binary, guest, config.incoming());
            let socket = destination.home().join("socket");
            let uri = format!("unix:{}", socket.display());
            destination.execute("migrate-incoming", json!({ "uri": uri }));
            let mut tool = beside::start(&["--revert", "--uri", &uri, utf8(&image)], Stdio::null(), &said);
            let status = beside::end(&mut tool);
            assert_eq!(status.code(), Some(0), "{}", fs::read_to_string(&said).expect("a text"));
            destination.console().wait_passes(2);
        }
    });
}

#[test]
fn descriptors_carry_saves_and_reverts() {
    use std::os::fd::{AsFd, OwnedFd};
    with_each_qemu(|binary, guest| {
        let config = Config { workload: Workload::IDLE, ..Config::of_mib(32) };
        let mut source = source(binary, guest, config.clone(), &["return-path"]);
        let (image, said) = (source.home().join("image"), source.home().join("said"));
        let (ours, qemus) = UnixStream::pair().expect("a socket pair");
        let stdin = Stdio::from(OwnedFd::from(ours));
        let mut tool = beside::start(&["--create", "--uri", "fd:0", utf8(&image)], stdin, &said);
        source.qmp().give_fd("channel", qemus.as_fd()).expect("QEMU takes a descriptor");
        drop(qemus);
        let outcome = source.save("fd:channel");
        let status = beside::end(&mut tool);
        let words = fs::read_to_string(&said).expect("a text");
        assert_eq!((outcome, status.code()), (Outcome::Completed, Some(0)), "{words}");
        assert_whole(&image, None);

        let mut destination = Qemu::start(binary, guest, config.incoming());
        let (ours, qemus) = UnixStream::pair().expect("a socket pair");
        let stdin = Stdio::from(OwnedFd::from(ours));
        let mut tool = beside::start(&["--revert", "--uri", "fd:0", utf8(&image)], stdin, &said);
        destination.qmp().give_fd("channel", qemus.as_fd()).expect("QEMU takes a descriptor");
        drop(qemus);
        assert_eq!(destination.revert("fd:channel"), Outcome::Completed);
        assert_eq!(beside::end(&mut tool).code(), Some(0));
        destination.console().wait_passes(2);
    });
}

/// RAM that is not in the stream cannot be stored: the capability is named, and the migration fails in QEMU.
#[test]
fn ignored_shared_ram_is_refused_by_name() {
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // A file with a name: 10.0 sends the RAM of a memfd although it is shared.
        let ram = Ram::SharedFile(folder.path().join("ram"));
        // With firmware of the usual size: a stream that a pipe holds as a whole is the business of
        // `refusal_of_a_small_stream_fails_the_migration`.
        let config = Config { ram, boot: Boot::Multiboot, ..Config::of_mib(32) };
        let mut source = source(binary, guest, config, &["x-ignore-shared"]);
        let image = source.home().join("image");
        let outcome = source.save_image(&ToImage { options: "--create", image: &image, stream: None });
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}: {}", source.stderr());
        let words = source.stderr();
        assert!(words.contains("x-ignore-shared") && words.contains("\"pc.ram\""), "{words}");
        source.wait_running();
        source.console().wait_passes(2);
    });
}

/// The capability alone takes nothing away: what is sent all the same is stored.
#[test]
fn sent_shared_ram_is_stored_whatever_the_capability() {
    let Some(guest) = Guest::built_or_skip() else { return };
    let Some(binary) = Version::V10_0.binary_or_skip() else { return };
    let config = Config { ram: Ram::SharedMemfd, ..Config::of_mib(32) };
    let mut source = source(&binary, guest, config.clone(), &["x-ignore-shared"]);
    let image = source.home().join("image");
    let save = ToImage { options: "--create", image: &image, stream: None };
    assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
    assert_taken_over(&binary, guest, &config, &["x-ignore-shared"], &image);
}

/// The RAM of a multifd source comes on channels that a snapshot does not have.
#[test]
fn multifd_is_refused_by_name() {
    with_each_qemu(|binary, guest| {
        let mut source = source(binary, guest, Config::of_mib(32), &["multifd"]);
        let (image, socket, said) =
            (source.home().join("image"), source.home().join("socket"), source.home().join("said"));
        let uri = format!("unix:{}", socket.display());
        let mut tool = beside::start(&["--create", "--uri", &uri, utf8(&image)], Stdio::null(), &said);
        beside::wait_for(&socket);
        let outcome = source.save(&uri);
        let status = beside::end(&mut tool);
        let words = fs::read_to_string(&said).expect("a text");
        assert_eq!(status.code(), Some(1), "{words}");
        assert!(words.contains("multifd"), "{words}");
        assert_ne!(outcome, Outcome::Completed);
        source.console().wait_passes(2);
    });
}
