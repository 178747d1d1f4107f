//! Every stream of the corpus through the tool: saved, judged, reverted, compared; and streams and
//! images that are not whole.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use snapshot_tests::{
    corpus,
    image::{assert_size, assert_whole, qemu_img, qemu_img_or_skip, run_tool, text},
    ram::{assert_same, contents},
};

/// A folder with a stream in a file.
struct Bench {
    folder: tempfile::TempDir,
    stream: Vec<u8>,
    name: String,
}

impl Bench {
    fn new(name: &str) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            stream: corpus::stream(name),
            name: name.to_owned(),
        };
        fs::write(bench.path("stream"), &bench.stream).expect("a small file");
        bench
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Saves the stream, with what it needs, to `image`; if the tool says that it is there, it is right.
    fn save(&self, options: &[&str]) -> Output {
        let mut arguments: Vec<&str> = options.to_vec();
        if has_no_vmdesc(&self.name) {
            arguments.push("--no-vmdesc");
        }
        // Boards of 32-bit ARM have pages of 1 KiB and say so in the vmdesc only, which comes last.
        let page_size = format!("--page-size={}", contents(&self.stream).page_bytes);
        if page_size != "--page-size=4096" {
            arguments.push(&page_size);
        }
        let image = self.path("image");
        arguments.push(image.to_str().expect("a UTF-8 path"));
        let output = run_tool(arguments, Some(&self.path("stream")));
        if output.status.success() {
            assert_whole(&image, Some(&self.stream));
        }
        output
    }

    fn revert(&self) -> Output {
        revert(&self.path("image"))
    }

    /// Panics unless what comes back from the image is what went in.
    fn assert_reverts(&self) {
        let output = self.revert();
        assert_eq!(output.status.code(), Some(0), "{}: {}", self.name, text(&output));
        assert_same(&self.stream, &output.stdout);
    }
}

fn revert(image: &Path) -> Output {
    run_tool(["--revert".as_ref(), image.as_os_str()], None)
}

fn has_no_vmdesc(name: &str) -> bool {
    name.ends_with("-no-vmdesc") || name.ends_with("-nothing")
}

/// Streams that a snapshot can be made of.
fn storable() -> impl Iterator<Item = String> {
    corpus::names().into_iter().filter(|name| !name.ends_with("-postcopy"))
}

fn assert_fails(output: &Output, status: i32, wanted: &str) {
    assert_eq!(output.status.code(), Some(status), "{}", text(output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(wanted), "no {wanted:?} in: {said}");
    assert_eq!(said.lines().count(), 1, "one clear line: {said}");
}

/// One of each kind, and with `CORPUS=all` every one.
#[test]
fn every_stream_is_saved_and_reverted() {
    for name in corpus::of_each_kind(storable().collect()) {
        let bench = Bench::new(&name);
        let output = bench.save(&["--create"]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
        assert_size(&bench.path("image"), &bench.stream);
    }
}

/// What the streams are there for; and that they hold no page of anybody else.
#[test]
fn corpus_holds_what_it_says() {
    for name in storable() {
        let found = contents(&corpus::stream(&name));
        let ran = ["-pc", "-q35", "-microvm"].iter().any(|machine| name.contains(machine));
        for (block, offset) in found.ram.keys().filter(|_| ran) {
            let is_node = block.starts_with(b"ram-node");
            let ours = is_node || block.ends_with(b".ram") || block == b"pc.bios";
            assert!(ours, "{name}: ram block \"{}\" offset {offset:#x} is not zero", block.escape_ascii());
        }
        if name.ends_with("-pc-rounds") || name.ends_with("-pc-xbzrle") {
            assert!(found.zero_after_normal > 0 && found.normal_after_zero > 0, "{name}: one round");
        }
        assert_eq!(name.ends_with("-dirty-bitmap"), !found.dirty_bitmaps.is_empty(), "{name}");
        assert_eq!(has_no_vmdesc(&name), found.vmdesc.is_empty(), "{name}");
    }
}

/// Every file has a line, every line has a file, and it is the one that was captured.
#[test]
fn manifest_names_every_file_with_its_digest() {
    let manifest = fs::read_to_string(corpus::root().join("MANIFEST")).expect("part of the corpus");
    let mut described: BTreeMap<&str, &str> = BTreeMap::new();
    for line in manifest.lines() {
        let mut words = line.split_whitespace();
        let (sum, name) = (words.next().expect("a digest"), words.next().expect("a name"));
        assert!(words.count() > 3, "{name}: how it was captured");
        assert_eq!(described.insert(name, sum), None, "{name} has two lines");
    }
    for folder in ["valid", "channels", "libvirt", "mapped", "elsewhere", "cores", "releases"] {
        for entry in fs::read_dir(corpus::root().join(folder)).expect("part of the corpus") {
            let file = entry.expect("a readable folder").file_name().into_string().expect("a plain name");
            // What is expected of a file lies beside it; `expectations` reads that.
            let Some(name) = file.strip_suffix(".bin.zst") else {
                assert!(file.ends_with(".txt"), "{folder}/{file}: neither packed nor an expectation");
                continue;
            };
            let key = if folder == "valid" { format!("{name}.bin") } else { format!("{folder}/{name}.bin") };
            let sum = described.remove(&key[..]).unwrap_or_else(|| panic!("{key} has no line"));
            assert_eq!(corpus::sha256(&corpus::unpacked(&format!("{folder}/{name}"))), sum, "{key}");
        }
    }
    assert!(described.is_empty(), "lines without a file: {described:?}");
}

#[test]
fn postcopy_and_missing_vmdesc_are_refused_by_name() {
    for version in ["7.2", "10.0"] {
        let bench = Bench::new(&format!("qemu-{version}-pc-postcopy"));
        assert_fails(&bench.save(&["--create"]), 1, "postcopy");
        let bench = Bench::new(&format!("qemu-{version}-pc-no-vmdesc"));
        let output =
            run_tool(["--create".as_ref(), bench.path("image").as_os_str()], Some(&bench.path("stream")));
        assert_fails(&output, 1, "--no-vmdesc");
    }
}

/// A stream that ends too early is a failure, wherever it is cut, and leaves nothing that can be reverted.
#[test]
fn cut_stream_fails_wherever_it_is_cut() {
    for name in ["qemu-7.2-pc-background", "qemu-10.0-pc-dirty-bitmap"] {
        let bench = Bench::new(name);
        let whole = bench.stream.len();
        let tail = whole - 60_000;
        let cuts = (0..16).chain((16..tail).step_by(tail / 24)).chain((tail..whole).step_by(1_501));
        for cut in cuts.chain(whole - 12..whole) {
            fs::write(bench.path("stream"), &bench.stream[..cut]).expect("a small file");
            let output = bench.save(&["--create"]);
            assert_eq!(output.status.code(), Some(1), "{name} cut at {cut}: {}", text(&output));
            let reverted = bench.revert();
            assert_ne!(reverted.status.code(), Some(0), "{name} cut at {cut}: {}", text(&reverted));
            let _ = fs::remove_file(bench.path("image"));
        }
    }
}

/// A flipped bit is either in bytes that mean nothing, or the revert fails: other contents never come out.
#[test]
fn flipped_bits_never_reach_the_guest() {
    let bench = Bench::new("qemu-10.0-pc-dirty-bitmap");
    assert_eq!(bench.save(&["--create"]).status.code(), Some(0));
    let image = fs::read(bench.path("image")).expect("just saved");
    let (mut places, mut noticed) = (0, 0);
    for at in bytes_that_matter(&image) {
        let mut damaged = image.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(bench.path("image"), &damaged).expect("a small file");
        places += 1;
        let output = bench.revert();
        match output.status.code() {
            Some(0) => assert_same(&bench.stream, &output.stdout),
            Some(1 | 2) => noticed += 1,
            _ => panic!("bit flipped at {at:#x}: {}", text(&output)),
        }
    }
    assert!(noticed * 10 > places * 9, "{noticed} of {places} flipped bits were noticed");
}

/// Places in an image to damage: two in every 64 KiB that hold more than zeros, and all of the
/// start of the header.
fn bytes_that_matter(image: &[u8]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..112).step_by(3).collect();
    for (index, chunk) in image.chunks(16 << 10).enumerate() {
        let start = index * (16 << 10);
        if let Some(first) = chunk.iter().position(|&byte| byte != 0) {
            let last = chunk.iter().rposition(|&byte| byte != 0).unwrap_or(first);
            places.extend([start + first, start + (first + last) / 2, start + last]);
        }
    }
    places.sort_unstable();
    places.dedup();
    places
}

#[test]
fn images_of_every_kind_that_qemu_img_creates_are_filled() {
    let Some(program) = qemu_img_or_skip() else { return };
    let bench = Bench::new("qemu-10.0-pc-background");
    let kinds = [
        "cluster_size=64k",
        "cluster_size=128k,refcount_bits=1",
        "cluster_size=64k,refcount_bits=2",
        "cluster_size=64k,refcount_bits=4",
        "cluster_size=1M,refcount_bits=8",
        "cluster_size=2M,refcount_bits=16",
        "cluster_size=1M,refcount_bits=32",
        "cluster_size=1M,refcount_bits=64",
        "cluster_size=64k,preallocation=metadata",
        "cluster_size=1M,preallocation=metadata",
        "cluster_size=1M,preallocation=falloc",
        "cluster_size=1M,preallocation=full",
        "cluster_size=1M,lazy_refcounts=on",
    ];
    for kind in kinds {
        let _ = fs::remove_file(bench.path("image"));
        let image = bench.path("image");
        let image = image.to_str().expect("a UTF-8 path");
        qemu_img(&program, ["create", "-q", "-f", "qcow2", "-o", kind, image, "16M"]);
        let output = bench.save(&[]);
        assert_eq!(output.status.code(), Some(0), "{kind}: {}", text(&output));
    }
}

#[test]
fn image_too_small_says_what_is_needed() {
    let Some(program) = qemu_img_or_skip() else { return };
    let bench = Bench::new("qemu-10.0-pc");
    let image = bench.path("image");
    qemu_img(
        &program,
        ["create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", image.to_str().expect("UTF-8"), "2M"],
    );
    let output = bench.save(&[]);
    assert_fails(&output, 2, "the image is too small");
}

/// What a user may want to keep is refused, and not one byte of it changes.
#[test]
fn somebody_elses_images_are_left_alone() {
    let Some(program) = qemu_img_or_skip() else { return };
    let bench = Bench::new("qemu-10.0-pc");
    let (image, raw) = (bench.path("image"), bench.path("raw"));
    fs::write(&raw, vec![0x5a; 1 << 20]).expect("a small file");
    // Arguments of qemu-img, with IMAGE and RAW instead of the paths.
    let cases: [(&str, &[&str]); 8] = [
        ("a disk with data", &["convert -f raw -O qcow2 -o cluster_size=1M RAW IMAGE"]),
        ("a disk with compressed data", &["convert -c -f raw -O qcow2 -o cluster_size=1M RAW IMAGE"]),
        (
            "an internal snapshot",
            &["create -q -f qcow2 -o cluster_size=1M IMAGE 16M", "snapshot -c before IMAGE"],
        ),
        (
            "a persistent bitmap",
            &["create -q -f qcow2 -o cluster_size=1M IMAGE 16M", "bitmap --add IMAGE bitmap0"],
        ),
        ("a backing file", &["create -q -f qcow2 -F raw -b RAW -o cluster_size=1M IMAGE 16M"]),
        ("extended L2 entries", &["create -q -f qcow2 -o cluster_size=64k,extended_l2=on IMAGE 16M"]),
        ("version 2", &["create -q -f qcow2 -o cluster_size=64k,compat=0.10 IMAGE 16M"]),
        ("a raw disk", &["convert -f raw -O raw RAW IMAGE"]),
    ];
    for (what, commands) in cases {
        let _ = fs::remove_file(&image);
        for command in commands {
            qemu_img(
                &program,
                command.split(' ').map(|word| match word {
                    "IMAGE" => image.as_os_str(),
                    "RAW" => raw.as_os_str(),
                    word => word.as_ref(),
                }),
            );
        }
        let before = fs::read(&image).expect("prepared");
        for options in [&["--create"][..], &["--overwrite"], &[]] {
            let output = bench.save(options);
            assert_eq!(output.status.code(), Some(2), "{what}, {options:?}: {}", text(&output));
            assert!(fs::read(&image).expect("still there") == before, "{what}, {options:?}: changed");
        }
    }
}

#[test]
fn snapshot_is_replaced_only_where_asked_for() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let old = Bench::new("qemu-7.2-pc");
    let new = Bench::new("qemu-10.0-pc");
    assert_eq!(old.save(&["--create"]).status.code(), Some(0));
    let mode = || fs::metadata(old.path("image")).expect("the image").permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o600, "RAM is secret");
    fs::set_permissions(old.path("image"), fs::Permissions::from_mode(0o640)).expect("our own file");

    symlink(old.path("image"), new.path("image")).expect("a symlink");
    assert_fails(&new.save(&["--create"]), 2, "--overwrite");
    old.assert_reverts();
    let output = new.save(&["--overwrite"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    new.assert_reverts();
    assert!(fs::symlink_metadata(new.path("image")).expect("the link").is_symlink(), "the link survives");
    assert_eq!(mode(), 0o640, "the mode survives");
    let left: Vec<_> = fs::read_dir(old.folder.path()).expect("the folder").flatten().collect();
    assert_eq!(left.len(), 2, "nothing but image and stream: {left:?}");
}

#[test]
fn streams_that_are_none_are_named() {
    let bench = Bench::new("qemu-10.0-pc");
    for (bytes, wanted) in [
        (&b""[..], "truncated"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", "gzip"),
        (b"LibvirtQemudSave\x03\x00\x00\x00", "libvirt"),
        (b"QEVM\x00\x00\x00\x02", "version 2"),
    ] {
        fs::write(bench.path("stream"), bytes).expect("a small file");
        assert_fails(&bench.save(&["--create"]), 1, wanted);
    }
}

#[test]
fn revert_of_what_is_no_snapshot_fails_with_a_byte_that_qemu_refuses() {
    let bench = Bench::new("qemu-10.0-pc");
    fs::write(bench.path("image"), b"no image").expect("a small file");
    let output = bench.revert();
    assert_fails(&output, 1, "not a qcow2 image");
    assert!(!output.stdout.is_empty() && !output.stdout.starts_with(b"Q"), "{:?}", output.stdout);
    fs::remove_file(bench.path("image")).expect("just written");
    assert_fails(&bench.revert(), 2, "No such file");
}
