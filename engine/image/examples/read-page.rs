//! Reads one page of a snapshot image, and verifies it:
//!
//! ```sh
//! cargo run -p snapshot-image --example read-page -- vm1.qcow2 17
//! ```
//!
//! The page is counted from the start of the virtual disk, in which RAM blocks begin at whole MiBs.
#![expect(clippy::disallowed_types, reason = "the crate performs no I/O; an example does it for the crate")]

use snapshot_image::{GuestOffset, HostOffset, ReadOptions, SnapshotReader, Verification};
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

/// Reads `length` bytes at `at`; behind the end of the file there are zeros.
fn read_at(file: &File, at: HostOffset, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], at.0 + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(bytes)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("read-page: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(number)) = (arguments.next(), arguments.next()) else {
        return Err("usage: read-page IMAGE PAGE".into());
    };
    let number: u64 = number.parse()?;
    let file = File::open(path)?;
    let read = |at, length| read_at(&file, at, length);

    // Everything but RAM is read here, and verified.
    let mut reader = SnapshotReader::open_with(file.metadata()?.len(), ReadOptions::default(), read)?;
    if let Verification::Unverified(why) = reader.snapshot().verification {
        println!("this image has no checksums: {why}");
    }
    let Some((block, offset)) = reader.layout().locate(number) else {
        return Err(format!("page {number} is in no RAM block").into());
    };
    let name = String::from_utf8_lossy(&reader.layout().blocks()[block].name).into_owned();

    // The index says whether the page is there, and which checksum it has.
    let found = reader.ask_with(read, |reader| reader.present(number, 1))?;
    let Some(page) = found.first() else {
        println!("{name} offset {offset:#x}: a page of zeros");
        return Ok(());
    };

    // The tables say where it lies, in one piece or several.
    let page_size = u64::from(reader.layout().page_size());
    let guest = GuestOffset(number * page_size);
    let mut bytes = Vec::new();
    for extent in reader.ask_with(read, |reader| reader.map(guest, page_size))? {
        let length = usize::try_from(extent.length)?;
        match extent.host {
            Some(host) => bytes.extend(read(host, length)?),
            None => bytes.resize(bytes.len() + length, 0),
        }
    }

    // It was read here, so it has to be verified here.
    reader.layout().verify_page(page, &bytes)?;
    let verified = if page.checksum.is_some() { "verified" } else { "not verified" };
    println!(
        "{name} offset {offset:#x}: {} bytes, {verified}, begins with {:02x?}",
        bytes.len(),
        &bytes[..16]
    );
    Ok(())
}
