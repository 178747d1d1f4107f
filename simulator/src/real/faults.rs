//! Ends of a migration that misbehave, each fault by its name.

use super::error::Error;
use crate::rng::mix;
use crate::size::to_usize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What an end does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Requests a page of a block that does not exist.
    RequestUnknownBlock,
    /// Requests a page behind the end of a block.
    RequestOutside,
    /// Requests half a page further than it should.
    RequestUnaligned,
    /// Requests each page together with the next one.
    RequestOverlapping,
    /// Requests the whole block, again and again.
    RequestHuge,
    /// Requests each page this many times.
    RequestStorm(u64),
    /// Says nothing at all.
    Silent,
    /// Ends the connection after this many bytes in one direction.
    CloseAt(u64),
    /// Reads and writes pieces of any length.
    Short,
    /// Reads and writes byte by byte.
    OneByte,
    /// Finds the lowest bit of this byte of its input flipped.
    BitFlip(u64),
    /// Answers this many microseconds late.
    Delay(u64),
    /// Sends requests two by two in the wrong order.
    Reorder,
    /// Dies at this event (a record, a request).
    KillAt(u64),
}

/// Names, and whether a number belongs to it: without and with one.
const PLAIN: [(&str, Fault); 9] = [
    ("request-unknown-block", Fault::RequestUnknownBlock),
    ("request-outside", Fault::RequestOutside),
    ("request-unaligned", Fault::RequestUnaligned),
    ("request-overlapping", Fault::RequestOverlapping),
    ("request-huge", Fault::RequestHuge),
    ("silent", Fault::Silent),
    ("short", Fault::Short),
    ("one-byte", Fault::OneByte),
    ("reorder", Fault::Reorder),
];
type Numbered = fn(u64) -> Fault;
const NUMBERED: [(&str, Numbered); 5] = [
    ("request-storm", Fault::RequestStorm),
    ("close-at", Fault::CloseAt),
    ("bit-flip", Fault::BitFlip),
    ("delay", Fault::Delay),
    ("kill-at", Fault::KillAt),
];

impl Fault {
    /// Reads `NAME` or `NAME=NUMBER`.
    ///
    /// # Errors
    ///
    /// An unknown name, with those that are known; a number that is missing or too many.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, number) = text.split_once('=').map_or((text, None), |(name, number)| (name, Some(number)));
        let plain = PLAIN.iter().find(|(known, _)| *known == name);
        let numbered = NUMBERED.iter().find(|(known, _)| *known == name);
        match (plain, numbered, number.map(str::parse)) {
            (Some((_, fault)), _, None) => Ok(*fault),
            (_, Some((_, make)), Some(Ok(number))) => Ok(make(number)),
            (Some(_), ..) => Err(format!("{name} takes no number")),
            (_, Some(_), _) => Err(format!("expected {name}=NUMBER")),
            _ => Err(format!("expected {}", Self::names().join(", "))),
        }
    }

    /// All of them, as [`parse`](Self::parse) reads them.
    #[must_use]
    pub fn names() -> Vec<String> {
        let plain = PLAIN.iter().map(|(name, _)| (*name).to_owned());
        plain.chain(NUMBERED.iter().map(|(name, _)| format!("{name}=N"))).collect()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((name, _)) = PLAIN.iter().find(|(_, fault)| fault == self) {
            return f.write_str(name);
        }
        let number = match self {
            Self::RequestStorm(n)
            | Self::CloseAt(n)
            | Self::BitFlip(n)
            | Self::Delay(n)
            | Self::KillAt(n) => *n,
            _ => 0,
        };
        let name = NUMBERED.iter().find(|(_, make)| make(number) == *self).map_or("", |(name, _)| name);
        write!(f, "{name}={number}")
    }
}

/// The faults of one end. Clones count events together.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    faults: Vec<Fault>,
    events: Arc<AtomicU64>,
}

impl Faults {
    /// These.
    #[must_use]
    pub fn new(faults: &[Fault]) -> Self {
        Self { faults: faults.to_vec(), events: Arc::default() }
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    fn find<T>(&self, get: impl Fn(&Fault) -> Option<T>) -> Option<T> {
        self.faults.iter().find_map(get)
    }

    /// How many times each page is requested.
    #[must_use]
    pub fn storm(&self) -> u64 {
        self.find(|fault| if let Fault::RequestStorm(times) = fault { Some((*times).max(1)) } else { None })
            .unwrap_or(1)
    }

    /// How late an answer is.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.find(|fault| if let Fault::Delay(us) = fault { Some(Duration::from_micros(*us)) } else { None })
    }

    /// An event; at the chosen one this end dies.
    ///
    /// # Errors
    ///
    /// [`Error::Killed`]
    pub fn event(&self) -> Result<(), Error> {
        let Some(at) = self.find(|fault| if let Fault::KillAt(at) = fault { Some(*at) } else { None }) else {
            return Ok(());
        };
        let before = self.events.fetch_add(1, Ordering::Relaxed);
        if before >= at { Err(Error::Killed("kill-at")) } else { Ok(()) }
    }

    /// How much of `length` bytes is moved at once, `at` bytes from the start; 0 if the connection
    /// ends there.
    pub(super) fn piece(&self, at: u64, length: usize) -> usize {
        let limits = self.faults.iter().map(|fault| match fault {
            Fault::OneByte => 1,
            Fault::Short => to_usize(1 + mix(at) % 97),
            Fault::CloseAt(end) => to_usize(end.saturating_sub(at)),
            _ => usize::MAX,
        });
        limits.fold(length, usize::min)
    }

    /// Bytes that came, `at` bytes from the start.
    pub(super) fn arrived(&self, at: u64, bytes: &mut [u8]) {
        for fault in &self.faults {
            if let Fault::BitFlip(place) = fault
                && let Some(byte) =
                    place.checked_sub(at).and_then(|n| bytes.get_mut(usize::try_from(n).ok()?))
            {
                *byte ^= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for name in Fault::names() {
            let text = name.replace("=N", "=17");
            assert_eq!(Fault::parse(&text).unwrap().to_string(), text);
        }
        assert_eq!(Fault::parse("silent=1"), Err("silent takes no number".to_owned()));
        assert_eq!(Fault::parse("delay"), Err("expected delay=NUMBER".to_owned()));
        assert!(Fault::parse("noise").unwrap_err().starts_with("expected request-unknown-block, "));
    }

    #[test]
    fn pieces_and_flips_are_where_they_should_be() {
        assert_eq!(Faults::new(&[Fault::OneByte]).piece(5, 100), 1);
        let close = Faults::new(&[Fault::CloseAt(10), Fault::Short]);
        assert_eq!(close.piece(10, 100), 0);
        assert_eq!(close.piece(9, 100), 1);
        let mut bytes = [0; 4];
        Faults::new(&[Fault::BitFlip(6)]).arrived(4, &mut bytes);
        assert_eq!(bytes, [0, 0, 1, 0]);
        Faults::new(&[Fault::BitFlip(6)]).arrived(7, &mut bytes);
        assert_eq!(bytes, [0, 0, 1, 0]);
    }

    #[test]
    fn the_chosen_event_kills() {
        let faults = Faults::new(&[Fault::KillAt(2)]);
        let clone = faults.clone();
        assert!(faults.event().is_ok() && clone.event().is_ok());
        assert_eq!(faults.event().unwrap_err().to_string(), "ended by fault kill-at");
    }
}
