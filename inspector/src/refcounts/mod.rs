//! Whether the refcounts of a QCOW2 image are what its tables refer to, as `qemu-img check` asks.
//!
//! References are counted for a window of the file's clusters at a time, and all tables are read
//! once for each window: so memory is bounded by the window, a table's piece and a refcount block,
//! 18 MiB in all, whatever the image's size.

mod header;
mod references;

use crate::error::Error;
use crate::input::be;
use crate::size::to_usize;
use crate::source::RandomAccess;
use crate::walk::{Finding, Level};
use header::Header;
use references::{Reference, References};
use std::collections::BTreeMap;
use std::io;

/// Clusters whose references are counted at once: 16 MiB of counters; 256 GiB in clusters of 64 KiB.
const WINDOW_CLUSTERS: u64 = 4 << 20;
/// Windows that are looked at; a file that needs more is not an image of this world, or is sparse.
const WINDOWS_LIMIT: u64 = 64;
/// Findings of one kind that are reported one by one.
const TOLD: u64 = 20;
const PATH: &str = "refcounts";

/// Why references cannot be followed any further.
enum Problem {
    /// What is wrong with the image.
    Wrong(String),
    /// It could not be read at this offset.
    Io(u64, io::Error),
}

/// Reads; what is cut off by the end of the file is an error.
fn read(file: &dyn RandomAccess, at: u64, length: u64) -> Result<Vec<u8>, Problem> {
    let mut bytes = vec![0; to_usize(length)];
    // The file may end inside the last cluster.
    if at >= file.size_bytes() {
        return Err(Problem::Wrong(format!("a table at {at:#x}, behind the end of the file")));
    }
    file.read_at(at, &mut bytes).map_err(|error| Problem::Io(at, error))?;
    Ok(bytes)
}

/// Says what of the refcounts of the image in `file` is wrong: too low is an error, for the cluster
/// would be given away while it is in use; too high is a warning, for it is only lost. Tables that
/// lead out of the file, or to no cluster, are errors whether or not there are refcounts to
/// compare.
///
/// # Errors
///
/// The file, whose name is `name`, could not be read.
pub fn check(name: &str, file: &dyn RandomAccess, found: &mut dyn FnMut(Finding)) -> Result<(), Error> {
    let result = Header::read(file).and_then(|header| {
        Checker { file, header: &header, block: None, told: BTreeMap::new(), found: &mut *found }.run()
    });
    match result {
        Ok(()) => Ok(()),
        Err(Problem::Wrong(text)) => {
            found(Finding::new(Level::Error, None, PATH, text));
            Ok(())
        }
        Err(Problem::Io(at, error)) => Err(Error::io(format_args!("{name}: offset {at:#x}"))(error)),
    }
}

struct Checker<'a> {
    file: &'a dyn RandomAccess,
    header: &'a Header,
    /// The refcount block that was read last, and its number.
    block: Option<(u64, Option<Vec<u8>>)>,
    told: BTreeMap<&'static str, (Level, u64)>,
    found: &'a mut dyn FnMut(Finding),
}

impl Checker<'_> {
    fn run(mut self) -> Result<(), Problem> {
        let clusters = self.file.size_bytes().div_ceil(self.header.cluster_bytes());
        let windows = clusters.div_ceil(WINDOW_CLUSTERS);
        if let Some(why) = self.not_compared(clusters, windows) {
            (self.found)(Finding::new(Level::Note, None, PATH, why));
            self.places()?;
        } else {
            for window in 0..windows {
                let first = window * WINDOW_CLUSTERS;
                self.window(first, WINDOW_CLUSTERS.min(clusters - first))?;
            }
        }
        for (kind, (level, count)) in self.told.iter().filter(|(_, (_, count))| *count > TOLD) {
            let text = format!("{kind}: {} more", count - TOLD);
            (self.found)(Finding::new(*level, None, PATH, text));
        }
        Ok(())
    }

    /// Why the refcounts cannot be held against the tables, if they cannot.
    fn not_compared(&self, clusters: u64, windows: u64) -> Option<String> {
        if self.header.dirty {
            let text = "not compared: the image has lazy refcounts and was not closed; QEMU rebuilds them when it opens \
                        the image for writing";
            return Some(text.to_owned());
        }
        (windows > WINDOWS_LIMIT).then(|| format!("not compared: {clusters} clusters"))
    }

    /// Looks at where the tables lead, without counting.
    fn places(&mut self) -> Result<(), Problem> {
        let (file, header) = (self.file, self.header);
        References::walk(file, header, &mut |reference| self.reference(&reference, 0, &mut []))
    }

    fn say(&mut self, level: Level, kind: &'static str, at: u64, text: &str) {
        let (_, told) = self.told.entry(kind).or_insert((level, 0));
        *told += 1;
        if *told <= TOLD {
            (self.found)(Finding::new(level, at, PATH, format!("{kind}: {text}")));
        }
    }

    /// Counts what refers to clusters from `first` on, and compares.
    fn window(&mut self, first: u64, count: u64) -> Result<(), Problem> {
        let mut counted = vec![0_u32; to_usize(count)];
        let (file, header) = (self.file, self.header);
        References::walk(file, header, &mut |reference| self.reference(&reference, first, &mut counted))?;
        for (cluster, &counted) in (first..).zip(&counted) {
            let refcount = self.refcount(cluster)?;
            let at = cluster * header.cluster_bytes();
            if refcount < u64::from(counted) {
                let text = format!("{refcount}, and {counted} references");
                self.say(Level::Error, "refcount too low", at, &text);
            } else if refcount > u64::from(counted) {
                let text = format!("{refcount}, and {counted} references");
                self.say(Level::Warning, "leaked cluster", at, &text);
            }
        }
        Ok(())
    }

    fn reference(&mut self, reference: &Reference, first: u64, counted: &mut [u32]) -> Result<(), Problem> {
        let cluster = self.header.cluster_bytes();
        let place = reference.place;
        let in_file = self.file.size_bytes().next_multiple_of(cluster);
        // Once is enough for what has no cluster.
        let once = first == 0;
        if reference.aligned && !place.at.is_multiple_of(cluster) {
            if once {
                let text = format!("{} at {:#x}", reference.structure, place.at);
                self.say(Level::Error, "not at the start of a cluster", reference.from, &text);
            }
            return Ok(());
        }
        if place.at.checked_add(place.bytes).is_none_or(|end| end > in_file) {
            if once {
                let text = format!("{} at {:#x}", reference.structure, place.at);
                self.say(Level::Error, "behind the end of the file", reference.from, &text);
            }
            return Ok(());
        }
        let clusters = place.at / cluster..=(place.at + place.bytes - 1) / cluster;
        for number in clusters.clone() {
            let place = number.checked_sub(first).and_then(|number| usize::try_from(number).ok());
            if let Some(count) = place.and_then(|place| counted.get_mut(place)) {
                *count = count.saturating_add(1);
            }
        }
        let here = (first..first + counted.len() as u64).contains(clusters.start());
        if let Some(copied) = reference.copied.filter(|_| here) {
            // A block that is wrong is reported where clusters are compared.
            let refcount = match self.refcount(*clusters.start()) {
                Err(Problem::Wrong(_)) => 0,
                refcount => refcount?,
            };
            if copied != (refcount == 1) || copied && !reference.aligned {
                let text = format!(
                    "{} at {:#x} has refcount {refcount}, its entry is {}marked as the only one",
                    reference.structure,
                    place.at,
                    if copied { "" } else { "not " }
                );
                self.say(Level::Error, "wrong mark", reference.from, &text);
            }
        }
        Ok(())
    }

    /// What the image says of a cluster.
    fn refcount(&mut self, cluster: u64) -> Result<u64, Problem> {
        let header = self.header;
        let per_block = (header.cluster_bytes() * 8) >> header.refcount_order;
        let number = cluster / per_block;
        if self.block.as_ref().is_none_or(|(held, _)| *held != number) {
            self.block = Some((number, self.read_block(number)?));
        }
        let Some((_, Some(block))) = &self.block else { return Ok(0) };
        let (bits, index) = (1_u64 << header.refcount_order, cluster % per_block);
        let at = to_usize(index * bits / 8);
        Ok(if bits < 8 {
            u64::from(block[at] >> (index * bits % 8)) & ((1 << bits) - 1)
        } else {
            be(&block[at..at + to_usize(bits / 8)])
        })
    }

    /// A refcount block; none where everything in it is free, or where its place is none.
    fn read_block(&self, number: u64) -> Result<Option<Vec<u8>>, Problem> {
        let (table, cluster) = (self.header.refcount_table, self.header.cluster_bytes());
        if number * 8 >= table.bytes {
            return Ok(None);
        }
        let at = be(&read(self.file, table.at + number * 8, 8)?);
        if at == 0 || !at.is_multiple_of(cluster) || at >= self.file.size_bytes() {
            return Ok(None);
        }
        read(self.file, at, cluster).map(Some)
    }
}
