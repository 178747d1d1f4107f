//! A disk that fails says nothing about the input: exit status 2, whatever is read and whoever reads it.

use crate::common::{all, corpus, program, stream, unpacked};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Reads that fail: all from the first one on, or one alone.
const COUNTS: [&str; 2] = ["1000000000", "1"];

/// The library that fails reads, built in `folder`.
fn shim(folder: &Path) -> Option<PathBuf> {
    let library = folder.join("failing_read.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/failing_read.c");
    let built =
        Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output();
    match built {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(library)
        }
        Err(error) => {
            test_support::not_run(&format!("gcc: {error}"));
            None
        }
    }
}

/// A QCOW2 image with an internal snapshot, as `savevm` makes it: header, snapshot table, L1 and L2
/// table of the snapshot, refcount table and block, the VM state; in clusters of 64 KiB.
fn savevm(state: &[u8]) -> Vec<u8> {
    const CLUSTER: usize = 65536;
    let at = |cluster: usize| ((cluster * CLUSTER) as u64).to_be_bytes();
    let clusters = state.len().div_ceil(CLUSTER);
    let mut image = vec![0; (6 + clusters) * CLUSTER];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb\0\0\0\x03");
    put(20, &16_u32.to_be_bytes());
    put(48, &at(4));
    put(56, &1_u32.to_be_bytes());
    put(60, &1_u32.to_be_bytes());
    put(64, &at(1));
    put(96, &4_u32.to_be_bytes());
    put(100, &104_u32.to_be_bytes());
    // The snapshot: its L1 table, names, size of the VM state.
    put(CLUSTER, &at(2));
    put(CLUSTER + 8, &1_u32.to_be_bytes());
    put(CLUSTER + 12, &[0, 1, 0, 4]);
    put(CLUSTER + 36, &16_u32.to_be_bytes());
    put(CLUSTER + 40, &(state.len() as u64).to_be_bytes());
    put(CLUSTER + 56, b"1save");
    put(2 * CLUSTER, &at(3));
    put(4 * CLUSTER, &at(5));
    for cluster in 0..6 + clusters {
        put(5 * CLUSTER + 2 * cluster, &1_u16.to_be_bytes());
    }
    for cluster in 0..clusters {
        put(3 * CLUSTER + 8 * cluster, &at(6 + cluster));
    }
    put(6 * CLUSTER, state);
    image
}

/// One input of each kind, by its name.
fn inputs(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let whole = stream("qemu-10.0-pc");
    let put = |name: &'static str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("a file");
        (name, path)
    };
    let converted = |name: &'static str, to: &str| {
        let path = folder.join(name);
        let from = corpus().join("qemu-10.0-pc.bin.zst");
        let output = program().arg("convert").arg(from).arg(&path).args(["--to", to]).output();
        let output = output.expect("the program runs");
        assert_eq!(output.status.code(), Some(0), "{}", all(&output));
        (name, path)
    };
    let packed = std::fs::read(corpus().join("qemu-10.0-pc.bin.zst")).expect("a file of the corpus");
    vec![
        put("stream", &whole),
        put("packed", &packed),
        converted("image", "image"),
        converted("mapped-ram", "mapped-ram"),
        put("savevm", &savevm(&whole)),
        put("libvirt", &unpacked("libvirt/libvirt-9.0-qemu-7.2-paused-raw")),
        put("multifd", &unpacked("channels/qemu-10.0-pc-multifd-none.0")),
        put("return-path", &stream("qemu-10.0-pc-postcopy.rp")),
    ]
}

/// What is run on each of them; `INPUT` and `OUTPUT` are paths.
const COMMANDS: [&[&str]; 10] = [
    &["check", "INPUT"],
    &["check", "--format", "json", "INPUT"],
    &["stat", "INPUT"],
    &["dump", "INPUT"],
    &["diff", "qemu-10.0-pc.bin.zst", "INPUT"],
    &["compat", "INPUT", "qemu-10.0-pc.bin.zst"],
    &["compat", "qemu-10.0-pc.bin.zst", "INPUT"],
    &["map", "INPUT", "-o", "OUTPUT.svg"],
    &["extract", "INPUT", "--vmdesc", "-o", "OUTPUT"],
    &["convert", "INPUT", "OUTPUT", "--to", "image"],
];

/// The program with these arguments.
fn command_of(command: &[&str], input: &Path, output: &Path) -> Command {
    let words = command.iter().map(|word| match *word {
        "INPUT" => input.as_os_str().to_owned(),
        "OUTPUT" => output.as_os_str().to_owned(),
        "OUTPUT.svg" => output.with_extension("svg").into_os_string(),
        word => word.into(),
    });
    let mut program = program();
    program.args(words);
    program
}

/// Runs a command, with reads of `input` failing.
fn run(command: &[&str], input: &Path, output: &Path, failing: Option<(&Path, usize, &str)>) -> Output {
    let mut program = command_of(command, input, output);
    if let Some((shim, first, count)) = failing {
        program.env("LD_PRELOAD", shim).env("FAILING_FILE", input);
        program.env("FAILING_FIRST", first.to_string()).env("FAILING_COUNT", count);
    }
    program.output().expect("the program runs")
}

#[test]
fn a_read_that_fails_is_no_finding() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(shim) = shim(folder.path()) else { return };
    let output_path = folder.path().join("out");
    let remove = || {
        for path in [output_path.clone(), output_path.with_extension("svg")] {
            let _ = std::fs::remove_file(path);
        }
    };
    for (name, input) in inputs(folder.path()) {
        for command in COMMANDS {
            let whole = run(command, &input, &output_path, None);
            remove();
            for count in COUNTS {
                let mut struck = 0;
                // The first reads one by one, then fewer and fewer.
                let mut first = 0;
                loop {
                    let output = run(command, &input, &output_path, Some((&shim, first, count)));
                    let what = format!("{name}, {command:?}, {count} from read {first} on: {}", all(&output));
                    let words = String::from_utf8_lossy(&output.stderr);
                    let same = (output.status, &output.stdout) == (whole.status, &whole.stdout);
                    if words.contains("Input/output error") {
                        assert_eq!(output.status.code(), Some(2), "{what}");
                        assert!(words.contains(name), "the file is named: {what}");
                        assert!(!output_path.exists(), "nothing is left: {what}");
                        struck += 1;
                    } else {
                        // It was not read so often, or a second try went well.
                        assert!(same, "{what}");
                        if count != "1" || first > 12 {
                            break;
                        }
                    }
                    remove();
                    first += 1 + first / 2;
                    assert!(first < 1_000_000, "no end: {what}");
                }
                remove();
                let reads_nothing = whole.status.code() == Some(2) && count == "1";
                assert!(struck > 0 || reads_nothing, "{name}, {command:?}: no read failed");
            }
        }
    }
}

/// A file that another program cuts while it is mapped is no death by a signal.
#[test]
fn a_file_that_is_cut_while_it_is_read_is_an_io_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(shim) = shim(folder.path()) else { return };
    let (input, output_path) = (folder.path().join("input"), folder.path().join("out"));
    let whole = stream("qemu-10.0-pc");
    for command in COMMANDS {
        let mut struck = 0;
        for behind in 0..4 {
            std::fs::write(&input, &whole).expect("a file");
            let mut program = command_of(command, &input, &output_path);
            program.env("LD_PRELOAD", &shim).env("FAILING_FILE", &input);
            program.env("FAILING_FIRST", "0").env("FAILING_COUNT", "0");
            program.env("CUT_BEHIND", behind.to_string()).env("CUT_TO", "4096");
            let output = program.output().expect("the program runs");
            let what = format!("{command:?}, cut behind {behind}: {}", all(&output));
            // What was looked at already, or is only in the page that is left, is not missed.
            assert!(output.status.code().is_some(), "a signal: {:?}: {what}", output.status);
            if String::from_utf8_lossy(&output.stderr).contains("Input/output error") {
                assert_eq!(output.status.code(), Some(2), "{what}");
                assert!(!output_path.exists() && !output_path.with_extension("svg").exists(), "{what}");
                struck += 1;
            }
            let _ = std::fs::remove_file(&output_path);
            let _ = std::fs::remove_file(output_path.with_extension("svg"));
        }
        assert!(struck > 0, "{command:?}: nothing was missed");
    }
}
