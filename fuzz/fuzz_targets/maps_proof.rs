//! Any text of `/proc/PID/maps`, any command line and any RAM blocks: never a proof that does not
//! hold, as a judge sees it that looks at each page by itself.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use qemu_snapshot::mapped::{
    Backend, Evidence, FileKey, Proven, Wanted, candidates, parse_command_line, parse_maps, prove,
};

const PAGE: u64 = 4096;
const IMAGE: FileKey = FileKey { device: (0xfe, 0), inode: 7 };

/// A line of few and small numbers, so that some of them go together.
#[derive(Debug, Arbitrary)]
struct Line {
    gap: u8,
    pages: u8,
    letters: u8,
    offset: u8,
    inode: u8,
}

#[derive(Debug, Arbitrary)]
enum Maps<'a> {
    Text(&'a str),
    Lines(Vec<Line>),
    /// Each line goes on where the one before ends, with the first one's letters and file.
    Joined(Line, Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Object {
    id: u8,
    offset: u8,
    pages: u8,
    used: bool,
}

#[derive(Debug, Arbitrary)]
enum CommandLine<'a> {
    Bytes(&'a [u8]),
    Objects(Vec<Object>),
}

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    maps: Maps<'a>,
    command_line: CommandLine<'a>,
    blocks: Vec<(u8, u8, u8)>,
}

fn letters(number: u8) -> String {
    // Most are as they have to be.
    let letter = |bit: u8, usual: char, other: char| if number & bit == bit { other } else { usual };
    [letter(0x03, 'r', '-'), letter(0x0c, 'w', '-'), '-', letter(0x30, 'p', 's')].iter().collect()
}

fn line(start: u64, pages: u8, letters: &str, offset: u64, inode: u8) -> String {
    let end = start + u64::from(pages % 16 + 1) * PAGE;
    format!("{start:x}-{end:x} {letters} {offset:08x} fe:00 {}  /vm\n", inode % 3 + 6)
}

fn text_of(maps: &Maps<'_>) -> String {
    match maps {
        Maps::Text(text) => (*text).to_owned(),
        Maps::Lines(lines) => {
            let mut at = 0x1000;
            let mut text = String::new();
            for one in lines {
                at += u64::from(one.gap % 4) * PAGE;
                let offset = u64::from(one.offset % 16) * PAGE;
                text += &line(at, one.pages, &letters(one.letters), offset, one.inode);
                at += u64::from(one.pages % 16 + 1) * PAGE;
            }
            text
        }
        Maps::Joined(first, rest) => {
            let (mut at, mut offset) = (0x1000, u64::from(first.offset % 16) * PAGE);
            let mut text = String::new();
            for pages in std::iter::once(&first.pages).chain(rest) {
                text += &line(at, *pages, &letters(first.letters), offset, first.inode);
                let length = u64::from(pages % 16 + 1) * PAGE;
                (at, offset) = (at + length, offset + length);
            }
            text
        }
    }
}

fn name(number: u8) -> String {
    format!("{}{}", if number & 8 == 8 { "/objects/" } else { "" }, number % 4)
}

fn command_line_of(command_line: &CommandLine<'_>) -> Vec<u8> {
    let objects = match command_line {
        CommandLine::Bytes(bytes) => return bytes.to_vec(),
        CommandLine::Objects(objects) => objects,
    };
    let mut text = String::from("qemu\0");
    for object in objects {
        let (id, offset) = (object.id % 4, u64::from(object.offset % 16) * PAGE);
        let size = u64::from(object.pages) * PAGE;
        text += &format!("-object\0memory-backend-file,id={id},mem-path=/vm,size={size},offset={offset}\0");
        if object.used {
            text += &format!("-numa\0node,memdev={id}\0");
        }
    }
    text.into_bytes()
}

/// A line of the text, read in another way than the parser's.
struct Shown {
    start: u64,
    end: u64,
    letters: String,
    offset: u64,
    is_image: bool,
}

fn shown(text: &str) -> Vec<Shown> {
    let one = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let hex = |word: &str| u64::from_str_radix(word, 16).expect("it was parsed");
        let (start, end) = words[0].split_once('-').expect("it was parsed");
        let (major, minor) = words[3].split_once(':').expect("it was parsed");
        Shown {
            start: hex(start),
            end: hex(end),
            letters: words[1].to_owned(),
            offset: hex(words[2]),
            is_image: (hex(major), hex(minor)) == (0xfe, 0) && words[4].parse() == Ok(7_u64),
        }
    };
    text.split('\n').filter(|line| !line.is_empty()).map(one).collect()
}

/// Where the process sees this byte of the image.
fn places(lines: &[Shown], byte: u64) -> Vec<&Shown> {
    lines
        .iter()
        .filter(|line| line.is_image && line.offset <= byte && byte - line.offset < line.end - line.start)
        .collect()
}

fn assert_holds(block: &Wanted, proven: &Proven, lines: &[Shown], backends: &[Backend]) {
    assert_eq!((&proven.name, proven.base), (&block.name, block.base));
    assert_eq!(proven.addresses.end - proven.addresses.start, block.length);
    let id = block.name.strip_prefix(b"/objects/").unwrap_or(&block.name);
    let own: Vec<_> = backends.iter().filter(|one| one.id == id || one.id == block.name).collect();
    let [object] = own[..] else { panic!("{own:?}") };
    assert!(object.used && object.offset == block.base && object.size >= block.length);
    assert_eq!(backends.iter().filter(|one| one.offset == block.base).count(), 1);
    assert!(lines.iter().all(|line| !line.is_image || line.letters.as_bytes()[3] == b'p'));
    let last = block.length.checked_sub(1);
    for byte in (0..block.length).step_by(512).chain(last) {
        let seen = places(lines, block.base + byte);
        let right = |line: &Shown| {
            line.start + (block.base + byte - line.offset) == proven.addresses.start + byte
                && line.letters.starts_with("rw")
        };
        assert!(seen.iter().any(|line| right(line)), "byte {byte:#x} of {block:?} is not there");
    }
}

fuzz_target!(|input: Input<'_>| {
    let text = text_of(&input.maps);
    let command_line = command_line_of(&input.command_line);
    let (Ok(mappings), Ok(backends)) = (parse_maps(text.as_bytes()), parse_command_line(&command_line))
    else {
        return;
    };
    let lines = shown(&text);
    assert_eq!(lines.len(), mappings.len());
    let blocks: Vec<_> = input
        .blocks
        .iter()
        .map(|&(id, base, pages)| Wanted {
            name: name(id).into_bytes(),
            base: u64::from(base % 16) * PAGE,
            length: u64::from(pages) * PAGE / 4,
        })
        .collect();
    let evidence = Evidence { mappings: &mappings, backends: &backends, image: IMAGE };
    let chosen = candidates(&blocks, &evidence);
    for block in &blocks {
        let Ok(proven) = prove(block, &evidence) else { continue };
        assert_holds(block, &proven, &lines, &backends);
        assert!(chosen.contains(&block), "what can be proved is a candidate");
    }
});
