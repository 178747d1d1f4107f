//! A driver of a postcopy revert in which everything that happens is the fuzzer's choice.

use migration_stream::{ChannelKind, Command, Decoder, PageContent, RamBlock, Record, Step};
use snapshot_engine::{
    Action, Buffer, BufferId, Completed, Event, IoError, IoId, Lane, Machine, Pool, RevertConfig,
    RevertMachine,
};
use std::collections::BTreeSet;
use vm_simulator::{SimFile, Vm};

/// What buffers may take, for images of some MB.
const BUFFERS_LIMIT_BYTES: usize = 64 << 20;
/// What a machine may want done before anything else happens.
const ACTIONS_LIMIT: usize = 1 << 16;
/// What may happen from the time on when everything completes and leaves at once.
const SETTLING_LIMIT: usize = 1 << 16;

/// What was saved: of each block each page, none where it is zero.
pub type Pages = Vec<Vec<Option<Vec<u8>>>>;

/// All pages of a VM.
pub fn pages(vm: &Vm) -> Pages {
    let blocks = 0..vm.config().blocks.len();
    blocks.map(|block| (0..vm.pages(block)).map(|page| vm.page(block, page)).collect()).collect()
}

/// A read under way.
struct Pending {
    id: IoId,
    lent: Option<(BufferId, Buffer)>,
    completed: Completed,
}

/// One connection, as the destination reads it.
struct Reader {
    decoder: Decoder,
    unread: Vec<u8>,
}

/// The machine, its disk and its peer.
pub struct Dialogue<'a> {
    machine: RevertMachine,
    pool: Pool,
    vm: &'a Vm,
    pages: &'a Pages,
    image: &'a SimFile,
    host_page_bytes: Vec<u64>,
    pending: Vec<Pending>,
    unsent: [u64; 2],
    readers: [Reader; 2],
    /// Pages that the destination has: block, byte offset.
    placed: BTreeSet<(usize, u64)>,
    now_ms: u64,
    wake_ms: Option<u64>,
    hung_up: bool,
    output_failed: bool,
    finished: bool,
}

impl<'a> Dialogue<'a> {
    /// Before its first event.
    pub fn new(vm: &'a Vm, pages: &'a Pages, image: &'a SimFile, config: RevertConfig) -> Self {
        let postcopy = config.postcopy.as_ref().expect("a postcopy revert");
        let options = config.stream.clone();
        let main = if postcopy.recover.is_some() { ChannelKind::Recovery } else { ChannelKind::Main };
        let decoder = |channel| Decoder::builder().options(options.clone()).channel(channel).build();
        let readers = [decoder(main), decoder(ChannelKind::Preempt)]
            .map(|decoder| Reader { decoder, unread: Vec::new() });
        let host_page_bytes = postcopy.host_pages.iter().map(|(_, bytes)| *bytes).collect();
        let mut dialogue = Self {
            machine: RevertMachine::new(config),
            pool: Pool::default(),
            vm,
            pages,
            image,
            host_page_bytes,
            pending: Vec::new(),
            unsent: [0; 2],
            readers,
            placed: BTreeSet::new(),
            now_ms: 0,
            wake_ms: None,
            hung_up: false,
            output_failed: false,
            finished: false,
        };
        dialogue.event(Event::Tick { now_ms: 0 });
        dialogue
    }

    /// What was saved.
    pub fn vm(&self) -> &'a Vm {
        self.vm
    }

    /// Of a block at the destination.
    pub fn host_page_bytes(&self, block: usize) -> u64 {
        self.host_page_bytes[block]
    }

    /// Something happens, and what the machine wants then is done.
    pub fn event(&mut self, event: Event<'_>) {
        if self.finished {
            return;
        }
        self.machine.handle(event, &mut self.pool);
        for number in 0.. {
            assert!(number < ACTIONS_LIMIT, "it never stops wanting something");
            let Some(action) = self.machine.poll(&mut self.pool) else { break };
            let taken = self.pool.taken_bytes();
            assert!(taken <= BUFFERS_LIMIT_BYTES, "{taken} bytes in buffers");
            self.action(action);
            if self.finished {
                return;
            }
        }
    }

    fn action(&mut self, action: Action) {
        match action {
            Action::Finish => {
                assert!(self.pending.is_empty(), "finished with operations under way");
                self.finished = true;
            }
            Action::Read { id, buffer, pieces } => {
                let mut lent = self.pool.lend(buffer);
                for piece in &pieces {
                    self.image.read(piece.at.0, &mut lent.bytes_mut()[piece.range.clone()]);
                }
                self.pending.push(Pending { id, lent: Some((buffer, lent)), completed: Completed::Plain });
            }
            Action::NextData { id, from } => {
                let completed = Completed::Data(self.image.next_data(from.0));
                self.pending.push(Pending { id, lent: None, completed });
            }
            Action::Send { lane, header, body } => {
                let mut bytes = header.bytes().to_vec();
                if let Some(body) = &body {
                    bytes.extend_from_slice(&self.pool.bytes(body.buffer)[body.range.clone()]);
                }
                self.unsent[lane as usize] += bytes.len() as u64;
                if !self.output_failed {
                    self.receive(lane, &bytes);
                }
            }
            Action::WakeAt { tick_ms } => self.wake_ms = tick_ms,
            Action::LimitInput { .. } | Action::LimitOutput { .. } | Action::Announce(_) => {}
            other => panic!("a revert that wants {other:?}"),
        }
    }

    /// Completes one operation.
    pub fn complete(&mut self, which: u8, well: bool) {
        if self.pending.is_empty() || self.finished {
            return;
        }
        let Pending { id, lent, completed } =
            self.pending.swap_remove(usize::from(which) % self.pending.len());
        if let Some((name, buffer)) = lent {
            self.pool.give_back(name, buffer);
        }
        let result = if well { Ok(completed) } else { Err(IoError::from_raw_os_error(5)) };
        self.event(Event::Done { id, result });
    }

    /// Completes those that are under way now.
    pub fn complete_all(&mut self) {
        for _ in 0..self.pending.len() {
            self.complete(0, true);
        }
    }

    /// `bytes` leave, or all that is there.
    pub fn sent(&mut self, lane: Lane, bytes: u64) {
        let bytes = bytes.min(self.unsent[lane as usize]);
        if bytes == 0 {
            return;
        }
        if self.output_failed {
            self.unsent = [0; 2];
            return self.event(Event::OutputFailed(IoError::from_raw_os_error(32)));
        }
        self.unsent[lane as usize] -= bytes;
        self.event(Event::Sent { lane, bytes });
    }

    /// Everything leaves.
    pub fn all_sent(&mut self) {
        self.sent(Lane::Main, u64::MAX);
        self.sent(Lane::Preempt, u64::MAX);
    }

    /// The destination says something.
    pub fn answer(&mut self, bytes: &[u8]) {
        if !self.hung_up && !bytes.is_empty() {
            self.event(Event::Tick { now_ms: self.now_ms });
            self.event(Event::Answer(bytes));
        }
    }

    /// The return path ends.
    pub fn hang_up(&mut self) {
        if !self.hung_up {
            self.hung_up = true;
            self.event(Event::AnswerEnd);
        }
    }

    /// Nothing leaves any more.
    pub fn output_fails(&mut self) {
        if !self.output_failed {
            self.output_failed = true;
            self.unsent = [0; 2];
            self.event(Event::OutputFailed(IoError::from_raw_os_error(32)));
        }
    }

    /// The clock goes on.
    pub fn time_passes(&mut self, ms: u64) {
        self.now_ms += ms;
        if self.wake_ms.is_some_and(|wake| wake <= self.now_ms) {
            self.wake_ms = None;
        }
        self.event(Event::Tick { now_ms: self.now_ms });
    }

    /// Until nothing is left to complete, to leave or to wait for.
    pub fn settle(&mut self) {
        for number in 0.. {
            assert!(number < SETTLING_LIMIT, "it never comes to rest");
            if self.finished {
                return;
            }
            if !self.pending.is_empty() {
                self.complete_all();
            } else if self.unsent != [0; 2] {
                self.all_sent();
            } else if let Some(wake) = self.wake_ms {
                self.time_passes(wake.saturating_sub(self.now_ms));
            } else {
                return;
            }
        }
    }

    /// It has ended; if well, every page is there.
    pub fn assert_ended(&self, recovers: bool) {
        assert!(self.finished, "it waits for a peer that has gone");
        if self.machine.outcome().is_err() || recovers {
            return;
        }
        let page_bytes = u64::from(self.vm.config().page_size);
        for (block, pages) in self.pages.iter().enumerate() {
            for (offset, page) in (0..).step_by(page_bytes as usize).zip(pages) {
                assert!(
                    page.is_none() || self.placed.contains(&(block, offset)),
                    "{offset:#x} of {block} is missing"
                );
            }
        }
    }

    /// The destination reads.
    fn receive(&mut self, lane: Lane, bytes: &[u8]) {
        let reader = &mut self.readers[lane as usize];
        reader.unread.extend_from_slice(bytes);
        let unread = std::mem::take(&mut reader.unread);
        let mut rest = &unread[..];
        while !rest.is_empty() {
            let decoder = &mut self.readers[lane as usize].decoder;
            match decoder.step(rest).expect("what a destination can read") {
                Step::Incomplete { .. } => break,
                Step::Record { len, record } => {
                    rest = &rest[len..];
                    let blocks = self.readers[lane as usize].decoder.blocks();
                    record_came(&mut self.placed, self.vm, self.pages, blocks, &record);
                }
            }
        }
        self.readers[lane as usize].unread = rest.to_vec();
    }
}

fn find(vm: &Vm, name: &[u8]) -> usize {
    vm.config().blocks.iter().position(|(other, _)| other == name).expect("a block that was saved")
}

fn record_came(
    placed: &mut BTreeSet<(usize, u64)>,
    vm: &Vm,
    pages: &Pages,
    blocks: &[RamBlock],
    record: &Record<'_>,
) {
    let (block, offset, data) = match record {
        Record::Page(migration_stream::Page { block, offset, content, .. }) => match content {
            PageContent::Raw(data) => (block, offset, Some(*data)),
            PageContent::Zero => (block, offset, None),
            PageContent::Xbzrle(_) | PageContent::Zlib(_) => return,
        },
        Record::Command(Command::PostcopyRamDiscard { block, ranges }) => {
            let block = find(vm, block);
            for range in ranges {
                placed.retain(|(of, at)| {
                    *of != block || *at < range.start || *at - range.start >= range.length
                });
            }
            return;
        }
        _ => return,
    };
    let block = find(vm, &blocks[*block].idstr);
    let page = usize::try_from(offset / u64::from(vm.config().page_size)).expect("small blocks");
    assert!(pages[block][page].as_deref() == data, "another page at {offset:#x} of block {block}");
    assert!(placed.insert((block, *offset)), "page {offset:#x} of block {block} came twice");
}
