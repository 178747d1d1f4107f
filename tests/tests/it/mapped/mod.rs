//! Mapped reverts: what is left out is what the destination has mapped from the image, and nothing
//! that could not be proved.

mod disks;
mod guests;
mod peers;
mod unpacked;
mod verification;

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use snapshot_image::{HostOffset, ReadOptions, SnapshotReader};
use snapshot_tests::{
    beside::utf8,
    corpus,
    image::{run_tool, text},
    ram::{Contents, contents},
    tool,
};

/// The program that plays a destination.
const PEER: &str = include_str!("peer.py");

/// A linear image of a stream.
struct Linear {
    path: PathBuf,
    /// What the stream leaves.
    contents: Contents,
    /// Where its RAM, the block `pc.ram`, begins in the file, and how long it is.
    base: u64,
    length: u64,
}

/// Where each block of a linear image begins.
fn bases(image: &Path) -> Vec<(Vec<u8>, u64)> {
    let file = File::open(image).expect("it is there");
    let length = file.metadata().expect("open").len();
    let read = |HostOffset(at), length| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            match file.read_at(&mut bytes[done..], at + done as u64)? {
                0 => break,
                more => done += more,
            }
        }
        Ok(bytes)
    };
    let reader = SnapshotReader::open_with(length, ReadOptions::default(), read).expect("an image");
    let blocks = reader.layout().blocks().iter().enumerate();
    blocks.map(|(at, block)| (block.name.clone(), reader.linear_base(at).expect("it is linear").0)).collect()
}

/// Saves the stream `name` of the corpus into a linear image in `folder`.
fn linear(name: &str, folder: &Path) -> Linear {
    let stream = corpus::stream(name);
    let (path, input) = (folder.join("image"), folder.join("stream"));
    fs::write(&input, &stream).expect("a file");
    let options = ["--create", "--layout=linear"].map(OsStr::new);
    let output = run_tool(options.into_iter().chain([path.as_os_str()]), Some(&input));
    assert!(output.status.success(), "{}", text(&output));
    let contents = contents(&stream);
    let (_, base) = bases(&path).into_iter().find(|(name, _)| name == b"pc.ram").expect("a pc");
    let (_, length) = *contents.blocks.iter().find(|(name, _)| name == b"pc.ram").expect("a pc");
    Linear { path, contents, base, length }
}

/// A destination that is played: what it maps, and how it is connected.
struct Peer<'a> {
    image: &'a Linear,
    maps: Vec<Value>,
    /// Its arguments, as QEMU would have them.
    arguments: Vec<String>,
    channel: &'static str,
    /// For a shell; TOOL is the program with its options but the image.
    command: String,
    leak: bool,
}

impl<'a> Peer<'a> {
    /// One that has mapped all of RAM as it must be.
    fn right(image: &'a Linear) -> Self {
        let object = format!(
            "memory-backend-file,id=pc.ram,size={},mem-path={},offset={}",
            image.length,
            image.path.display(),
            image.base
        );
        let arguments = ["-object", &object, "-machine", "pc,memory-backend=pc.ram"];
        Self {
            image,
            maps: vec![json!({"file": utf8(&image.path), "offset": image.base, "length": image.length})],
            arguments: arguments.map(str::to_owned).to_vec(),
            channel: "pipe",
            command: "TOOL --revert --mapped IMAGE".to_owned(),
            leak: false,
        }
    }

    /// The same with another value of a key of its mapping.
    fn with(mut self, key: &str, value: Value) -> Self {
        self.maps[0][key] = value;
        self
    }

    fn with_command(mut self, command: &str) -> Self {
        self.command = command.to_owned();
        self
    }

    /// The shell's exit status and the messages, and what was sent.
    fn run(&self) -> (Output, Vec<u8>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let out = folder.path().join("out");
        let command = self.command.replace("TOOL", utf8(tool::qemu_snapshot()));
        let command = command.replace("IMAGE", utf8(&self.image.path));
        let job = json!({
            "maps": self.maps, "channel": self.channel, "command": command, "out": utf8(&out), "leak": self.leak,
        });
        let mut python = Command::new("python3");
        python.args(["-c", PEER, &job.to_string()]).args(&self.arguments);
        let output = python.output().expect("python3 was found");
        (output, fs::read(&out).unwrap_or_default())
    }

    /// Nothing of the snapshot is sent, the exit status is 2, and this is said.
    fn is_refused(&self, expected: &str) {
        let (output, sent) = self.run();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(expected), "expected: {expected}\n{said}");
        assert!(!sent.starts_with(b"QEVM") && sent.len() < 64, "{} bytes were sent: {said}", sent.len());
    }

    /// All is sent but the pages of `pc.ram`, of which only `copied` are sent.
    fn is_reverted(&self, copied: &[u64]) -> String {
        let (output, sent) = self.run();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let (found, wanted) = (contents(&sent), &self.image.contents);
        assert_eq!((&found.blocks, &found.devices), (&wanted.blocks, &wanted.devices));
        let is_sent =
            |(name, offset): &(Vec<u8>, u64)| name != b"pc.ram" || copied.contains(&(offset / 4096));
        let left: Vec<_> = wanted.ram.iter().filter(|(place, _)| is_sent(place)).collect();
        assert_eq!(found.ram.iter().collect::<Vec<_>>(), left);
        said
    }
}

/// Whether destinations can be played here; where not, the test is to return, and this has said why.
fn has_python() -> bool {
    let found = snapshot_tests::programs::in_path("python3").is_some();
    if !found {
        snapshot_tests::not_run("destinations are played by python3");
    }
    found
}
