//! The files in `corpus/malformed/`: each a valid one with one named change, made anew by these
//! recipes at any time.
//!
//! A recipe is a line: the file's name, what was changed, where, and to what. Beside each file is a
//! text that says what the toolkit does with it; a test compares both with what the recipes and the
//! toolkit make.

mod answers;
mod base;
mod image;
mod judge;
mod libvirt;
mod mapped;
mod multifd;
mod postcopy;
mod precopy;
mod savevm;
#[path = "../../../parser/tests/it/walked.rs"]
mod walked;

pub use judge::{Said, said};

/// Compares the messages of the programs with those in the file `pinned`, which `UPDATE=1` writes anew.
///
/// # Panics
///
/// If they differ.
pub fn assert_pinned(words: &BTreeSet<String>, pinned: &Path) {
    walked::assert_pinned(words, pinned);
}

use std::{collections::BTreeSet, path::Path};

use base::Base;

/// What a file is, and so who reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A migration stream.
    Stream,
    /// What a destination answers on the return path.
    Answers,
    /// A multifd channel.
    Multifd,
    /// A snapshot image.
    Image,
}

/// A file that is wrong in one place.
#[derive(Clone, Debug)]
pub struct Malformed {
    /// Its name, without an ending.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Which valid file it was.
    pub base: &'static str,
    /// What was changed.
    pub change: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// All files that are wrong in one place, and before those of each kind the valid one, whose change is empty.
#[must_use]
pub fn all() -> Vec<Malformed> {
    let recipes = [
        precopy::recipes(),
        postcopy::recipes(),
        mapped::recipes(),
        mapped::shared(),
        libvirt::recipes(),
        answers::recipes(),
        multifd::recipes(),
        image::recipes(),
        savevm::recipes(),
    ];
    recipes.into_iter().flat_map(|recipes| recipes.files).collect()
}

/// Changes to one valid file.
struct Recipes {
    base: Base,
    kind: Kind,
    files: Vec<Malformed>,
}

impl Recipes {
    fn new(kind: Kind, base: Base) -> Self {
        let mut recipes = Self { kind, base, files: Vec::new() };
        recipes.make("valid", "", |_, _| {});
        recipes
    }

    /// A file with any change.
    fn make(&mut self, name: &str, change: &'static str, edit: impl FnOnce(&mut Vec<u8>, &Base)) {
        let mut bytes = self.base.bytes.clone();
        edit(&mut bytes, &self.base);
        let name = format!("{}-{name}", self.base.name);
        self.files.push(Malformed { name, kind: self.kind, base: self.base.name, change, bytes });
    }

    /// These bytes at a place, instead of what is there.
    fn set(&mut self, name: &str, change: &'static str, at: (&str, usize), new: &[u8]) {
        self.make(name, change, |bytes, base| {
            let at = base.at(at.0) + at.1;
            bytes[at..at + new.len()].copy_from_slice(new);
        });
    }

    /// These bytes at a place, before what is there.
    fn insert(&mut self, name: &str, change: &'static str, at: &str, new: &[u8]) {
        self.make(name, change, |bytes, base| {
            let at = base.at(at);
            bytes.splice(at..at, new.iter().copied());
        });
    }

    /// Without `count` bytes at a place.
    fn remove(&mut self, name: &str, change: &'static str, at: &str, count: usize) {
        self.make(name, change, |bytes, base| {
            let at = base.at(at);
            bytes.drain(at..at + count);
        });
    }

    /// Nothing from a place on.
    fn cut(&mut self, name: &str, change: &'static str, at: (&str, usize)) {
        self.make(name, change, |bytes, base| bytes.truncate(base.at(at.0) + at.1));
    }
}
