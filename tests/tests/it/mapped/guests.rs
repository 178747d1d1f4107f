//! Real guests that run from the image: each verifies all of its memory, three times.

use std::{
    fs,
    io::pipe,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use snapshot_tests::{
    Binary, Config, Guest, Outcome, Qemu, QmpError, Ram, ToImage, Version, Workload,
    beside::{self, utf8},
    exec_uri, with_each_qemu_that,
};

use super::bases;

const MIB: u32 = 48;

/// Those that map a file from an offset on, read-only (`rom`, since 8.2).
fn maps(version: Version) -> bool {
    version >= Version::V8_2
}

/// A guest's linear image.
struct Saved {
    folder: tempfile::TempDir,
    config: Config,
    passes: u32,
}

impl Saved {
    /// Saves a guest that has verified its memory once.
    fn of(binary: &Binary, guest: &Guest, config: Config) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut source = Qemu::start(binary, guest, config.clone());
        source.console().wait_ready();
        source.console().wait_passes(1);
        source.set_fast();
        let passes = source.console().passes();
        let save = ToImage {
            options: "--create --layout=linear",
            image: &folder.path().join("vm.qcow2"),
            stream: None,
        };
        assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
        Self { folder, config, passes }
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("vm.qcow2")
    }

    fn base(&self, name: &str) -> u64 {
        let found = bases(&self.image()).into_iter().find(|(block, _)| block == name.as_bytes());
        found.expect("the guest has it").1
    }

    /// A machine whose RAM is mapped from the image.
    fn config(&self) -> Config {
        let ram = Ram::Mapped { file: self.image(), offset: self.base("pc.ram") };
        Config { ram, ..self.config.incoming() }
    }

    /// The same with these properties of its memory.
    fn config_of(&self, properties: &str) -> Config {
        let (image, base) = (self.image(), self.base("pc.ram"));
        let place = format!("mem-path={},offset={base}", image.display());
        let object = format!("memory-backend-file,id=pc.ram,size={MIB}M,{place},{properties}");
        let machine = "pc,memory-backend=pc.ram".to_owned();
        Config { machine, more: vec!["-object".to_owned(), object], ..self.config.incoming() }
    }

    fn start(&self, binary: &Binary, guest: &Guest) -> Qemu {
        Qemu::start(binary, guest, self.config())
    }

    /// The guest goes on from the saved moment, and its memory is right.
    fn assert_goes_on(&self, clone: &mut Qemu) {
        assert_eq!(clone.run_state(), "running", "{}", clone.stderr());
        clone.console().wait_passes(3);
        assert!(clone.console().passes() >= self.passes + 3, "goes on from the saved moment");
    }
}

fn revert(clone: &mut Qemu, image: &Path) {
    let outcome = clone.revert(&exec_uri("--revert --mapped", image));
    assert_eq!(outcome, Outcome::Completed, "{}", clone.stderr());
}

/// What a guest writes stays its own.
#[test]
fn guests_run_from_the_image_at_once_and_leave_it_as_it_is() {
    with_each_qemu_that(maps, |binary, guest| {
        let saved = Saved::of(binary, guest, Config::of_mib(MIB));
        let before = fs::read(saved.image()).expect("it is there");
        let mut clones: Vec<_> = (0..3).map(|_| saved.start(binary, guest)).collect();
        for clone in &mut clones {
            revert(clone, &saved.image());
            assert!(clone.stderr().contains("block \"pc.ram\" 48 MiB\n"), "{}", clone.stderr());
        }
        for mut clone in clones {
            saved.assert_goes_on(&mut clone);
            clone.quit();
        }
        assert!(fs::read(saved.image()).expect("it is there") == before, "the image was changed");
    });
}

#[test]
fn guests_run_from_the_image_whatever_the_channel() {
    with_each_qemu_that(maps, |binary, guest| {
        let saved = Saved::of(binary, guest, Config { workload: Workload::IDLE, ..Config::of_mib(MIB) });
        let image = saved.image();
        // A wrapper that stays between.
        let mut clone = saved.start(binary, guest);
        let tool = exec_uri("--revert --mapped", &image);
        let wrapped =
            format!("exec:sh -c '{}; exit 0'; true", tool.strip_prefix("exec:").expect("it has it"));
        assert_eq!(clone.revert(&wrapped), Outcome::Completed, "{}", clone.stderr());
        saved.assert_goes_on(&mut clone);

        let mut clone = saved.start(binary, guest);
        let (socket, said) = (clone.home().join("socket"), clone.home().join("said"));
        let uri = format!("unix:{}", socket.display());
        clone.execute("migrate-incoming", json!({ "uri": uri }));
        beside::wait_for(&socket);
        let arguments = ["--revert", "--mapped", "--uri", &uri, utf8(&image)];
        let mut tool = beside::start(&arguments, Stdio::null(), &said);
        assert_eq!(beside::end(&mut tool).code(), Some(0), "{}", fs::read_to_string(&said).expect("a text"));
        clone.wait_running();
        saved.assert_goes_on(&mut clone);

        let (reader, writer) = pipe().expect("a pipe");
        let (ours, qemus) = UnixStream::pair().expect("a socket pair");
        let ends = [(OwnedFd::from(writer), OwnedFd::from(reader)), (ours.into(), qemus.into())];
        for (ours, qemus) in ends {
            let mut clone = saved.start(binary, guest);
            let said = clone.home().join("said");
            clone.qmp().give_fd("channel", qemus.as_fd()).expect("QEMU takes a descriptor");
            drop(qemus);
            let arguments = ["--revert", "--mapped", "--uri", "fd:0", utf8(&image)];
            let mut tool = beside::start(&arguments, Stdio::from(ours), &said);
            assert_eq!(clone.revert("fd:channel"), Outcome::Completed, "{}", clone.stderr());
            assert_eq!(
                beside::end(&mut tool).code(),
                Some(0),
                "{}",
                fs::read_to_string(&said).expect("a text")
            );
            saved.assert_goes_on(&mut clone);
        }
    });
}

/// What was written into RAM before the stream comes is sent.
#[test]
fn copies_that_a_destination_has_already_are_sent() {
    with_each_qemu_that(maps, |binary, guest| {
        let saved = Saved::of(binary, guest, Config { workload: Workload::IDLE, ..Config::of_mib(MIB) });
        // A program in RAM that the saved guest does not have there.
        let rubbish = saved.folder.path().join("rubbish");
        fs::write(&rubbish, vec![0xee; 3 << 20]).expect("a file");
        let mut config = saved.config();
        let loader = format!("loader,file={},addr=0x1800000,force-raw=on", rubbish.display());
        config.more.extend(["-device".to_owned(), loader]);
        let mut clone = Qemu::start(binary, guest, config);
        revert(&mut clone, &saved.image());
        saved.assert_goes_on(&mut clone);

        // Every page was touched when QEMU started.
        let mut clone =
            Qemu::start(binary, guest, saved.config_of("share=off,readonly=on,rom=off,prealloc=on"));
        revert(&mut clone, &saved.image());
        assert!(
            clone.stderr().contains("(48 MiB of it copied already, which is sent)"),
            "{}",
            clone.stderr()
        );
        saved.assert_goes_on(&mut clone);

        // A stream that ends after some pages (exit-on-error, since 9.1).
        if binary.version() < Version::V10_0 {
            return;
        }
        let mut clone = saved.start(binary, guest);
        let plain = exec_uri("--revert", &saved.image());
        let plain = plain.strip_prefix("exec:").expect("it has it");
        let cut = format!("exec:{plain} 2>/dev/null | head -c 500000");
        clone.execute("migrate-incoming", json!({ "uri": cut, "exit-on-error": false }));
        clone.wait_failed();
        // 10.0 and 11.1 take no second stream after that. One that does gets the pages that the first
        // has left other.
        let uri = exec_uri("--revert --mapped", &saved.image());
        match clone.qmp().execute("migrate-incoming", json!({ "uri": uri })) {
            Err(QmpError::Refused(why)) => assert!(why.contains("already been started"), "{why}"),
            started => {
                started.expect("the same machine");
                clone.wait_running();
                saved.assert_goes_on(&mut clone);
            }
        }
    });
}

/// Two nodes of one length: each mapping is right, but they are each other's.
#[test]
fn memory_of_two_nodes_is_not_mistaken_for_each_other() {
    with_each_qemu_that(maps, |binary, guest| {
        let nodes = |a: &str, b: &str| {
            let half = MIB / 2;
            let object = |id: &str, kind: &str| format!("{kind},id={id},size={half}M");
            let words = [
                "-object".to_owned(),
                object("a", a),
                "-object".to_owned(),
                object("b", b),
                "-numa".to_owned(),
                "node,memdev=a".to_owned(),
                "-numa".to_owned(),
                "node,memdev=b".to_owned(),
            ];
            Config { more: words.to_vec(), ..Config::of_mib(MIB) }
        };
        let saved = Saved::of(binary, guest, nodes("memory-backend-ram", "memory-backend-ram"));
        let image = saved.image();
        let mapped = |offset: u64| {
            let path = image.display();
            format!("memory-backend-file,mem-path={path},offset={offset},share=off,readonly=on,rom=off")
        };
        let (a, b) = (mapped(saved.base("a")), mapped(saved.base("b")));
        let mut clone = Qemu::start(binary, guest, nodes(&b, &a).incoming());
        let outcome = clone.revert(&exec_uri("--revert --mapped", &image));
        let Outcome::Failed(said) = outcome else { panic!("{outcome:?}") };
        assert!(said.contains("ram block \"a\": its object has offset=0x"), "{said}");
        let mut clone = Qemu::start(binary, guest, nodes(&a, &b).incoming());
        revert(&mut clone, &image);
        assert!(clone.stderr().contains("block \"a\" 24 MiB, block \"b\" 24 MiB"), "{}", clone.stderr());
        saved.assert_goes_on(&mut clone);
    });
}

/// A machine that would run on wrong pages ends with an error instead.
#[test]
fn a_wrong_mapping_ends_the_destination() {
    with_each_qemu_that(maps, |binary, guest| {
        let saved = Saved::of(binary, guest, Config { workload: Workload::IDLE, ..Config::of_mib(MIB) });
        let base = saved.base("pc.ram");
        for (offset, expected) in [(0, "offset=0x0, needed: offset="), (base + (2 << 20), "needed: offset=")]
        {
            let ram = Ram::Mapped { file: saved.image(), offset };
            let mut clone = Qemu::start(binary, guest, Config { ram, ..saved.config() });
            let outcome = clone.revert(&exec_uri("--revert --mapped", &saved.image()));
            let Outcome::Failed(said) = outcome else { panic!("{outcome:?}") };
            assert!(said.contains(expected), "{said}");
        }
        // Without readonly=on,rom=off the descriptor can be written to.
        let config = saved.config_of("share=off");
        std::process::Command::new("chmod").arg("600").arg(saved.image()).status().expect("coreutils");
        let mut clone = Qemu::start(binary, guest, config);
        let outcome = clone.revert(&exec_uri("--revert --mapped", &saved.image()));
        let Outcome::Failed(said) = outcome else { panic!("{outcome:?}") };
        assert!(said.contains("a balloon would punch holes into the image"), "{said}");
    });
}

/// `--overwrite` makes a new file: who has the old one mapped keeps it.
#[test]
fn guests_go_on_when_the_image_is_replaced() {
    with_each_qemu_that(maps, |binary, guest| {
        let saved = Saved::of(binary, guest, Config::of_mib(MIB));
        let image = saved.image();
        let mut clones: Vec<_> = (0..2).map(|_| saved.start(binary, guest)).collect();
        for clone in &mut clones {
            revert(clone, &image);
        }
        let inode = fs::metadata(&image).expect("it is there").ino();
        let mut other = Qemu::start(binary, guest, Config::of_mib(MIB));
        other.console().wait_ready();
        other.set_fast();
        // One that was started before can be reverted no more: it has the old file mapped.
        let mut late = saved.start(binary, guest);
        let save = ToImage { options: "--overwrite", image: &image, stream: None };
        assert_eq!(other.save_image(&save), Outcome::Completed, "{}", other.stderr());
        assert_ne!(fs::metadata(&image).expect("it is there").ino(), inode);
        let outcome = late.revert(&exec_uri("--revert --mapped", &image));
        let Outcome::Failed(said) = outcome else { panic!("{outcome:?}") };
        assert!(said.contains("is mapped, needed: the image, "), "{said}");
        for clone in &mut clones {
            saved.assert_goes_on(clone);
        }
    });
}

/// QEMU waits for the program that it has started, so that must not verify when the guest is to run.
#[test]
fn verification_while_the_guest_runs_keeps_no_one_waiting() {
    with_each_qemu_that(maps, |binary, guest| {
        let saved = Saved::of(binary, guest, Config { workload: Workload::IDLE, ..Config::of_mib(MIB) });
        let mut clone = saved.start(binary, guest);
        let uri = exec_uri("--revert --mapped --verify=after", &saved.image());
        assert_eq!(clone.revert(&uri), Outcome::Completed, "{}", clone.stderr());
        saved.assert_goes_on(&mut clone);
        let record = saved.folder.path().join("vm.qcow2.verified");
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while !record.exists() {
            assert!(std::time::Instant::now() < end, "it was not verified: {}", clone.stderr());
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}
