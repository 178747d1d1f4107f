//! A stream as a destination reads it: as much as there is, and no further than the end mark needs.
//!
//! QEMU's connection stays open behind the stream while the source waits for SHUT, so the end of
//! the input is no help in finding the end of the stream.

use super::channel::Input;
use super::error::{Error, at};
use migration_stream::protocol::IncomingState;
use migration_stream::{BlockList, SectionHeader};
use migration_stream::{
    ChunkKind, Command, Decoder, DirtyBitmapChunk, Options, RamBlock, Record, SectionId, Step, device_tail,
    put_command, put_dirty_bitmap_chunk, put_end_of_section, put_file_header, put_ram_blocks,
    put_section_footer, put_section_header, put_section_part,
};
use std::io::{self, Read};
use std::ops::Range;

/// What one read asks for.
const READ_BYTES: usize = 256 << 10;
/// The longest device tail.
const TAIL_LIMIT_BYTES: usize = 256 << 20;

/// Whether to go on behind a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next one.
    Go,
    /// Leave the rest to another reader.
    Leave,
}

/// Why a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The one who takes the records wanted it.
    Left,
    /// The input ended where no record is under way.
    Input,
    /// The input ended inside of something, or nothing came for too long.
    Broken,
    /// Device sections, EOF and vmdesc begin here; see [`RecordStream::tail`].
    DeviceTail,
}

/// Records from a connection.
#[derive(Debug)]
pub(super) struct RecordStream {
    input: Input,
    decoder: Decoder,
    buffer: Vec<u8>,
    held: Range<usize>,
    timed_out: bool,
}

impl RecordStream {
    pub(super) fn new(input: Input, options: Options) -> Self {
        Self {
            input,
            decoder: Decoder::new(options),
            buffer: vec![0; READ_BYTES],
            held: 0..0,
            timed_out: false,
        }
    }

    /// A stream whose beginning was read elsewhere: of a recovery (in a section: none) or of the
    /// preempt channel (in a PART). The beginning is played to the decoder.
    pub(super) fn resumed(
        input: Input,
        options: Options,
        leader: &Leader,
        in_part: bool,
    ) -> Result<Self, Error> {
        let mut stream = Self::new(input, options);
        let mut bytes = Vec::new();
        leader.put(&mut bytes, in_part);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match stream.decoder.step(rest)? {
                Step::Record { len, .. } => rest = &rest[len..],
                Step::Incomplete { .. } => break,
            }
        }
        Ok(stream)
    }

    pub(super) fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    pub(super) fn offset(&self) -> u64 {
        self.decoder.offset()
    }

    /// Why there is no more: the input was silent for too long, or it ended in `state`.
    pub(super) fn ended(&self, state: IncomingState) -> Error {
        if self.timed_out {
            return Error::Timeout { what: "the stream", seconds: self.input.timeout().as_secs() };
        }
        Error::Closed { offset: self.offset(), state: state.to_string() }
    }

    pub(super) fn input(&self) -> &Input {
        &self.input
    }

    /// Gives records to `sink`, with the offset behind each, until the sink has enough.
    pub(super) fn each(
        &mut self,
        mut sink: impl FnMut(u64, &Record<'_>) -> Result<Flow, Error>,
    ) -> Result<End, Error> {
        loop {
            match self.decoder.step(&self.buffer[self.held.clone()])? {
                Step::Record { record: Record::DeviceTail, .. } => return Ok(End::DeviceTail),
                Step::Record { len, record } => {
                    self.held.start += len;
                    if sink(self.decoder.offset(), &record)? == Flow::Leave {
                        return Ok(End::Left);
                    }
                }
                Step::Incomplete { .. } => {
                    if !self.more()? {
                        let whole = self.held.is_empty() && self.decoder.finish(&[]).is_ok();
                        return Ok(if whole { End::Input } else { End::Broken });
                    }
                }
            }
        }
    }

    /// Reads on; false at the end of the input, or when nothing comes.
    fn more(&mut self) -> Result<bool, Error> {
        self.buffer.copy_within(self.held.clone(), 0);
        self.held = 0..self.held.len();
        // What is declared is not allocated before it arrives: the buffer at most doubles.
        if self.held.end == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match self.input.read(&mut self.buffer[self.held.end..]) {
            Ok(0) => Ok(false),
            Ok(length) => {
                self.held.end += length;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.timed_out = true;
                Ok(false)
            }
            Err(error) => Err(at("read the stream")(error)),
        }
    }

    /// The device tail: device sections and where they end. Without a vmdesc it ends with the input.
    pub(super) fn tail(&mut self) -> Result<(Vec<u8>, Vec<String>), Error> {
        let (mut searched, mut end) = (0, None);
        loop {
            let held = &self.buffer[self.held.clone()];
            if end.is_none() {
                end = device_tail::expected_end(held, searched).and_then(|end| usize::try_from(end).ok());
                searched = held.len();
            }
            if let Some(end) = end
                && end <= held.len()
                // A chance match in a device's data does not reach to where the sections end.
                && let Ok(cut) = device_tail::cut(&held[..end], self.decoder.offset(), &self.decoder)
            {
                return Ok(taken(held, &cut));
            }
            if held.len() > TAIL_LIMIT_BYTES {
                let text = format!("device tail of more than {TAIL_LIMIT_BYTES} bytes");
                return Err(Error::Refused { offset: self.offset(), text });
            }
            if !self.more()? {
                let held = &self.buffer[self.held.clone()];
                let cut = device_tail::cut(held, self.decoder.offset(), &self.decoder)?;
                return Ok(taken(held, &cut));
            }
        }
    }
}

fn taken(held: &[u8], cut: &device_tail::Tail<'_>) -> (Vec<u8>, Vec<String>) {
    let names = cut.sections.iter().flatten().map(|(header, _)| migration_stream::name_text(header.idstr));
    (held[..cut.eof].to_vec(), names.collect())
}

/// What a stream began with, for channels that come later.
#[derive(Debug, Clone, Default)]
pub(super) struct Leader {
    /// The block list, as far as channels need it.
    pub(super) blocks: Vec<(Vec<u8>, u64)>,
    /// Sections that were started: id, idstr, version.
    pub(super) sections: Vec<(SectionId, Vec<u8>, u32)>,
    /// Whether sections have footers.
    pub(super) footers: bool,
}

impl Leader {
    fn put(&self, out: &mut Vec<u8>, in_part: bool) {
        put_file_header(out);
        let mut ram = None;
        for (id, idstr, version_id) in &self.sections {
            let header = SectionHeader { section_id: *id, idstr, instance_id: 0, version_id: *version_id };
            put_section_header(out, false, &header);
            if idstr == b"ram" {
                ram = Some(*id);
                let block = |(idstr, used_length): &(Vec<u8>, u64)| RamBlock {
                    idstr: idstr.clone(),
                    used_length: *used_length,
                    host_page_size: None,
                    guest_physical_address: None,
                };
                put_ram_blocks(out, &BlockList { blocks: self.blocks.iter().map(block).collect() });
                put_end_of_section(out);
            } else {
                let kind = ChunkKind::EndOfSection;
                put_dirty_bitmap_chunk(out, &DirtyBitmapChunk { node: None, bitmap: None, kind });
            }
            if self.footers {
                put_section_footer(out, *id);
            }
        }
        // Behind a package EOF is no longer the beginning of a device tail.
        put_command(out, &Command::Packaged(&[]));
        if let (true, Some(id)) = (in_part, ram) {
            put_section_part(out, id);
        }
    }
}
