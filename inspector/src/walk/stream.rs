//! The main stream, recovery connections and preempt channels.

use super::bitmap::Written;
use super::devices::guessed;
use super::event::{Event, Finding, Item, Level, Visitor};
use super::feed::Feed;
use super::join::Join;
use super::state::{StreamWalk, context};
use super::{Stop, go, io, mapped, tail};
use crate::input::{Kind, OpenOptions};
use crate::source::SourceError;
use migration_stream::device::{Device, Guess, Vmdesc, guess};
use migration_stream::device_tail::{self, OnError, Piece, Walker, locate};
use migration_stream::ram::page_size;
use migration_stream::{ChannelKind, Command, Decoder, ErrorKind, PageSize, Record, Step};

/// Enough of the end of a file to hold nearly every vmdesc.
const LAST_BYTES: u64 = 1 << 20;
/// And the longest that is accepted, with something before it.
const LAST_LIMIT_BYTES: u64 = (16 << 20) + (1 << 20);
/// What is kept of the end of an input whose middle is damaged.
const KEPT_BYTES: usize = 24 << 20;
/// Enough of RAM to tell the page size by.
const GUESS_BYTES: usize = 192 << 10;
/// Command, its number and length, and the package's.
const PACKAGED_HEADER_BYTES: u64 = 9;

pub(super) fn walk(
    mut feed: Feed,
    channels: Vec<Feed>,
    kind: Kind,
    options: &OpenOptions,
    visitor: &mut dyn Visitor,
) -> Result<(), Stop> {
    let start = feed.offset();
    let description = described_at_the_end(&mut feed);
    let description = description.map_err(io(&feed))?;
    let join = (!channels.is_empty()).then(|| Join::new(channels));
    let mut stream = options.stream();
    if stream.page_size.is_none() {
        stream.page_size = description.as_ref().and_then(|description| PageSize::new(description.page_size?));
    }
    let guesses = stream.page_size.is_none() && kind != Kind::Recovery && kind != Kind::Preempt;
    let channel = match kind {
        Kind::Recovery => ChannelKind::Recovery,
        Kind::Preempt => ChannelKind::Preempt,
        _ => ChannelKind::Main,
    };
    let decoder =
        Decoder::builder().options(stream).channel(channel).offset(start).accept_mapped_ram().build();
    let (mapped, salvage) = (Written::default(), options.salvage);
    let mut walk =
        StreamWalk { feed, decoder, visitor, description, early: 0, guesses, join, mapped, salvage };
    match walk.run() {
        Err(Stop::Wrong(error)) => walk.resume(error),
        other => other,
    }
}

/// The vmdesc, read from the end before anything else.
fn described_at_the_end(feed: &mut Feed) -> Result<Option<Vmdesc>, SourceError> {
    for most in [LAST_BYTES, LAST_LIMIT_BYTES] {
        let Some(last) = feed.last(most)? else { return Ok(None) };
        if let Some(located) = locate(&last) {
            return Ok(Vmdesc::parse(&last[located.vmdesc]));
        }
        if (last.len() as u64) < most {
            break;
        }
    }
    Ok(None)
}

impl StreamWalk<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        loop {
            let offset = self.decoder.offset();
            match self.decoder.step(self.feed.bytes())? {
                Step::Record { len, record } => {
                    let length = len as u64;
                    let item = |event| Item { offset, length, packaged: false, event };
                    let mut pages_follow = false;
                    if let Some(join) = &mut self.join {
                        join.before(&record, offset, self.visitor, context(&self.decoder))?;
                    }
                    match record {
                        Record::DeviceTail => {
                            mapped::finish(self)?;
                            return tail::walk(self);
                        }
                        Record::EarlyDevices(bytes) => {
                            let devices =
                                self.description.as_ref().map(|description| &description.devices[..]);
                            let devices = devices.and_then(|devices| devices.get(self.early..));
                            self.early += early(
                                self.visitor,
                                &self.decoder,
                                devices.unwrap_or_default(),
                                offset,
                                bytes,
                            )?;
                        }
                        Record::Command(Command::Packaged(bytes)) => {
                            let event = Event::Record(Record::Command(Command::Packaged(bytes)));
                            let item = Item { offset, length: PACKAGED_HEADER_BYTES, packaged: false, event };
                            go(self.visitor.item(&item, context(&self.decoder)))?;
                            package(self.visitor, &self.decoder, offset + PACKAGED_HEADER_BYTES, bytes)?;
                        }
                        Record::SectionStart(header)
                            if header.idstr == b"ram" && is_mapped(&self.decoder) =>
                        {
                            let event = Event::Record(Record::SectionStart(header));
                            go(self.visitor.item(&item(event), context(&self.decoder)))?;
                            self.feed.consume(len);
                            mapped::walk(self)?;
                            continue;
                        }
                        record => {
                            pages_follow = matches!(record, Record::SectionPart(_) | Record::SectionEnd(_));
                            let ram = self.decoder.ram_section();
                            self.mapped.ended |= matches!(record, Record::SectionEnd(id) if ram == Some(id));
                            go(self.visitor.item(&item(Event::Record(record)), context(&self.decoder)))?;
                        }
                    }
                    self.feed.consume(len);
                    if self.guesses && pages_follow {
                        self.guess_page_size()?;
                    }
                }
                Step::Incomplete { .. } => {
                    let more = self.feed.more();
                    if !more.map_err(io(&self.feed))? {
                        return Ok(self.decoder.finish(self.feed.bytes())?);
                    }
                }
            }
        }
    }

    /// At the first RAM body with pages, of what comes through a pipe.
    fn guess_page_size(&mut self) -> Result<(), Stop> {
        self.guesses = false;
        let filled = self.feed.fill(GUESS_BYTES);
        filled.map_err(io(&self.feed))?;
        let bytes = self.feed.bytes();
        let bytes = &bytes[..bytes.len().min(GUESS_BYTES)];
        if self.decoder.page_size_is_guessed()
            && let Some(page_size) = page_size::guess(bytes, self.decoder.blocks())
        {
            self.decoder.assume_page_size(page_size);
            let text =
                format!("page size {page_size}: not recorded in the stream; guessed from where pages begin");
            let offset = self.feed.offset();
            go(self.visitor.finding(Finding::new(Level::Note, offset, "", text)))?;
        }
        Ok(())
    }

    /// After an error: goes on where the vmdesc names what follows, or says that nothing more can be read.
    fn resume(&mut self, error: migration_stream::Error) -> Result<(), Stop> {
        let truncated = matches!(error.kind, ErrorKind::Truncated { .. });
        let from = self.feed.offset();
        go(self.visitor.finding(error.into()))?;
        self.feed.keep_last(KEPT_BYTES).map_err(io(&self.feed))?;
        let (kept, kept_at) = (self.feed.bytes(), self.feed.offset());
        let end = kept_at + kept.len() as u64;
        let found = locate(kept)
            .and_then(|located| Some((Vmdesc::parse(&kept[located.vmdesc.clone()])?, located)))
            .filter(|_| !truncated && self.decoder.has_footers() != Some(false));
        let whole = |length, event| Item { offset: from, length, packaged: false, event };
        let Some((description, located)) = found else {
            if end > from {
                let text = format!("{} bytes could not be read", end - from);
                go(self.visitor.finding(Finding::new(Level::Note, from, "", text)))?;
                go(self.visitor.item(&whole(end - from, Event::Skipped), context(&self.decoder)))?;
            }
            return Ok(());
        };
        let devices = &description.devices[..];
        let walker = Walker { devices, first: 0, footers: true, on_error: OnError::Resync };
        let walked = walker.walk_within(&kept[..located.eof], kept_at);
        let resumed = walked.pieces.first().map_or(located.eof, |piece| match piece {
            Piece::Skipped(range) => range.end,
            Piece::Device { head, .. } => head.start,
        });
        let skipped = kept_at + resumed as u64 - from;
        let text = match walked.pieces.get(1) {
            Some(Piece::Device { header, .. }) => {
                let name = crate::escape::terminal(header.idstr);
                format!("{skipped} bytes skipped; reading goes on at section \"{name}\"")
            }
            _ => format!("{skipped} bytes skipped, up to the end mark"),
        };
        go(self.visitor.finding(Finding::new(Level::Note, from, "", text)))?;
        go(self.visitor.item(&whole(skipped, Event::Skipped), context(&self.decoder)))?;
        let context = context(&self.decoder);
        tail::pieces(
            self.visitor,
            context,
            kept,
            kept_at,
            devices,
            &walked.pieces[1.min(walked.pieces.len())..],
        )?;
        for finding in walked.findings {
            go(self.visitor.finding(finding.into()))?;
        }
        tail::trailer(self.visitor, context, kept, kept_at, &located)
    }
}

fn is_mapped(decoder: &Decoder) -> bool {
    decoder.configuration().is_some_and(|configuration| configuration.has_capability("mapped-ram"))
}

/// Device sections before RAM; returns how many they are.
fn early(
    visitor: &mut dyn Visitor,
    decoder: &Decoder,
    devices: &[Device],
    offset: u64,
    bytes: &[u8],
) -> Result<usize, Stop> {
    let context = context(decoder);
    if let Ok((count, walked)) = device_tail::early(devices, offset, bytes, None) {
        tail::pieces(visitor, context, bytes, offset, devices, &walked.pieces)?;
        return Ok(count);
    }
    let length = bytes.len() as u64;
    let why = "device sections before RAM, and no vmdesc that describes them";
    let item = Item { offset, length, packaged: false, event: Event::Opaque(bytes, why) };
    go(visitor.item(&item, context))?;
    Ok(0)
}

/// What is in a package. There is no vmdesc in a postcopy.
fn package(visitor: &mut dyn Visitor, decoder: &Decoder, offset: u64, bytes: &[u8]) -> Result<(), Stop> {
    let footers = decoder.has_footers() != Some(false);
    let path = "package";
    let mut runs = false;
    for part in guess(bytes, footers) {
        match &part {
            Guess::Command(Command::Packaged(_), range) => {
                let text = "a package inside a package: the destination would wait without limit";
                let at = offset + range.start as u64;
                go(visitor.finding(Finding::new(Level::Error, at, path, text)))?;
            }
            Guess::Command(Command::PostcopyRun, _) => runs = true,
            Guess::Eof(range) => {
                let text = "end mark inside of a package: the destination would stop reading";
                let at = offset + range.start as u64;
                go(visitor.finding(Finding::new(Level::Error, at, path, text)))?;
            }
            _ => {}
        }
        guessed(visitor, context(decoder), offset, bytes, part, true)?;
    }
    if !runs {
        let text = "no RUN in the package: the destination's guest would not start";
        go(visitor.finding(Finding::new(Level::Warning, offset, path, text)))?;
    }
    Ok(())
}
