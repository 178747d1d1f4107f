//! Linear images: an ordinary QCOW2 file for each `qemu-img` from 5.2 to 11.1 and for imago, as sparse as its
//! RAM, with the same RAM as a dense one.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;
use snapshot_tests::{
    Config, Outcome, Qemu, Saved, ToImage, Version, beside, corpus, exec_uri,
    image::{assert_clean, assert_size, assert_whole, qemu_img, run_tool, text},
    ram::{assert_same, contents},
    with_each_qemu,
};
use test_support::{in_part, programs::unpacked};

/// Pages of 1, 4 and 64 KiB, several blocks, deltas, compressed pages, a block without pages that are not
/// zero.
const STREAMS: [&str; 7] = [
    "qemu-10.0-pc",
    "qemu-7.2-pc-rounds",
    "qemu-10.0-pc-xbzrle",
    "qemu-7.2-pc-compress",
    "qemu-7.2-pc-numa",
    "qemu-7.2-arm-lm3s6965evb",
    "qemu-7.2-ppc64-pseries",
];

struct Bench {
    folder: tempfile::TempDir,
    stream: Vec<u8>,
    page_size: String,
}

impl Bench {
    fn new(name: &str) -> Self {
        let stream = corpus::stream(name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join("stream"), &stream).expect("a small file");
        let page_size = format!("--page-size={}", contents(&stream).page_bytes);
        Self { folder, stream, page_size }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn save(&self, name: &str, options: &[&str]) -> PathBuf {
        let image = self.path(name);
        let mut arguments: Vec<&str> = options.to_vec();
        arguments.extend(["--create", &self.page_size, image.to_str().expect("a UTF-8 path")]);
        let output = run_tool(arguments, Some(&self.path("stream")));
        assert!(output.status.success(), "{}", text(&output));
        image
    }

    fn assert_reverts(&self, image: &Path) {
        let output = run_tool([OsStr::new("--revert"), image.as_os_str()], None);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert_same(&self.stream, &output.stdout);
    }

    /// The virtual disk, as a `qemu-img` reads it.
    fn raw(&self, program: &Path, image: &Path) -> Vec<u8> {
        let raw = self.path("raw");
        let [from, to] = [image, &raw].map(|path| path.to_str().expect("a UTF-8 path"));
        qemu_img(program, ["convert", "-f", "qcow2", "-O", "raw", from, to]);
        fs::read(raw).expect("just converted")
    }
}

/// `qemu-img` of each version that is here.
fn each_qemu_img() -> Vec<PathBuf> {
    let tree = |version: Version| format!("qemu-{}", version.number());
    let all = Version::ALL.into_iter().filter_map(|version| {
        let found = unpacked(&tree(version), "qemu-img");
        if found.is_none() {
            in_part(&format!("without qemu-img of {}", version.number()));
        }
        found
    });
    all.collect()
}

#[test]
fn each_qemu_img_reads_a_linear_image_as_a_dense_one() {
    let programs = each_qemu_img();
    for name in STREAMS {
        let bench = Bench::new(name);
        for size in ["64K", "1M"] {
            let size = format!("--cluster-size={size}");
            let linear = bench.save("linear", &["--layout=linear", "--overwrite", &size]);
            let dense = bench.save(&format!("dense{size}"), &["--layout=dense", &size]);
            assert_whole(&linear, Some(&bench.stream));
            assert_size(&linear, &bench.stream);
            for program in &programs {
                assert_clean(program, &linear);
            }
            if let Some(program) = programs.last() {
                assert!(bench.raw(program, &linear) == bench.raw(program, &dense), "{name}, {size}");
            }
            fs::remove_file(linear).expect("just written");
        }
    }
}

/// `cp --sparse=never`, and a tar without `-S`.
#[test]
fn copies_that_have_lost_their_holes_revert() {
    for name in ["qemu-10.0-pc", "qemu-7.2-arm-lm3s6965evb"] {
        let bench = Bench::new(name);
        let linear = bench.save("linear", &["--layout=linear"]);
        let copy = bench.path("copy");
        let copied = Command::new("cp").arg("--sparse=never").args([&linear, &copy]).status();
        assert!(copied.expect("coreutils").success());
        bench.assert_reverts(&copy);
        assert_whole(&copy, Some(&bench.stream));
        let there_and_back = "tar -cf archive linear && rm -f linear && tar -xf archive";
        let packed =
            Command::new("sh").args(["-c", there_and_back]).current_dir(bench.folder.path()).status();
        assert!(packed.expect("tar").success());
        bench.assert_reverts(&linear);
    }
}

/// One layout is replaced by the other, and by itself; what was asked for is there.
#[test]
fn an_overwrite_changes_the_layout_only_where_that_was_asked_for() {
    let bench = Bench::new("qemu-10.0-pc");
    let image = bench.save("image", &["--layout=dense"]);
    for (options, is_linear) in [
        (&["--overwrite"][..], false),
        (&["--overwrite", "--layout=linear"], true),
        (&["--overwrite"], true),
        (&["--overwrite", "--layout=dense"], false),
    ] {
        assert_eq!(bench.save("image", options), image);
        let header = fs::read(&image).expect("it is there");
        assert_eq!(header[368..376] != [0; 8], is_linear, "{options:?}");
        bench.assert_reverts(&image);
    }
}

/// A real guest goes on from its linear image: in precopy, in postcopy, and after the server of a postcopy
/// has died.
#[test]
fn a_guest_reverts_from_a_linear_image_in_every_mode() {
    with_each_qemu(|binary, guest| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("vm.qcow2");
        let config = Config { memory_mib: 128, ..Config::of_mib(48) };
        let mut source = Qemu::start(binary, guest, config.clone());
        source.console().wait_ready();
        source.console().wait_passes(1);
        source.set_fast();
        if !source.background_snapshot_or_skip() {
            return;
        }
        let passes = source.console().passes();
        let save = ToImage { options: "--create --layout=linear", image: &image, stream: None };
        assert_eq!(source.save_image(&save), Outcome::Completed, "{}", source.stderr());
        drop(source);
        let saved = Saved { folder, config, passes };
        let mut destination = Qemu::start(binary, guest, saved.config.incoming());
        let outcome = destination.revert(&exec_uri("--revert", &image));
        assert_eq!(outcome, Outcome::Completed, "{}", destination.stderr());
        saved.assert_goes_on(&mut destination);
        drop(destination);

        let mut destination = saved.destination(binary, guest);
        let mut server = saved.serve(&mut destination, "migrate-incoming", &["--postcopy=0"]);
        destination.wait_running();
        let recovery = server.wait_recovery();
        server.tool.kill().expect("our own child");
        beside::end(&mut server.tool);
        destination.wait_migration("postcopy-paused");
        let uri = exec_uri(&format!("--revert {recovery}"), &image);
        destination.execute("migrate-recover", json!({ "uri": uri }));
        destination.wait_migration("completed");
        saved.assert_goes_on(&mut destination);
        drop(destination);

        assert_whole(&image, None);
        let stream = run_tool([OsStr::new("--revert"), image.as_os_str()], None).stdout;
        assert_size(&image, &stream);
    });
}
