//! What all states of a save share: the source and its stream so far, and operations under way.

use super::config::SaveConfig;
use super::coverage::Coverage;
use super::intake::{Intake, RECORD_LIMIT_BYTES};
use super::leader::Leader;
use super::pile::Pile;
use crate::failure::{Failure, Region, Unsupported};
use crate::ids::Ids;
use crate::machine::{Action, Header, Lane};
use crate::pool::Pool;
use crate::steps::StepRunner;
use crate::watch::Watch;
use migration_stream::Decoder;
use migration_stream::return_path::{ReturnPathMessage, put_return_path_message};
use snapshot_image::RamLayout;
use std::collections::VecDeque;

/// Blocks without pages are named up to this many.
const UNTOUCHED_NAMES: usize = 8;

/// The part of a save that no state owns.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) config: SaveConfig,
    pub(super) decoder: Decoder,
    pub(super) intake: Intake,
    pub(super) leader: Leader,
    /// Known from the block list on, also while a failed save is drained: it shows when the end is near.
    pub(super) coverage: Option<(Coverage, RamLayout)>,
    pub(super) steps: StepRunner,
    pub(super) ids: Ids,
    /// What the driver is to do next.
    pub(super) actions: VecDeque<Action>,
    /// Operations that the driver has not answered for yet.
    pub(super) in_flight: usize,
    pub(super) unsent_bytes: u64,
    /// The source has opened one.
    pub(super) return_path: bool,
    pub(super) pile: Pile,
    pub(super) watch: Watch,
}

impl Job {
    pub(super) fn new(config: SaveConfig) -> Self {
        Self {
            decoder: Decoder::new(config.stream.clone()),
            intake: Intake::default(),
            leader: Leader::new(),
            coverage: None,
            steps: StepRunner::default(),
            ids: Ids::default(),
            actions: VecDeque::new(),
            in_flight: 0,
            unsent_bytes: 0,
            return_path: false,
            pile: Pile::default(),
            watch: Watch::new(config.timeout_ms),
            config,
        }
    }

    /// Sends a message to the source, if it opened a return path.
    pub(super) fn tell(&mut self, message: &ReturnPathMessage<'_>) {
        if self.return_path && self.config.can_answer {
            let mut bytes = Vec::new();
            put_return_path_message(&mut bytes, message);
            self.unsent_bytes += bytes.len() as u64;
            let header = Header::from(&bytes[..]);
            self.actions.push_back(Action::Send { lane: Lane::Main, header, body: None });
        }
    }

    /// Asks for at most `most` bytes more of the stream, so that `needed` in all can be held.
    pub(super) fn refill(&mut self, pool: &mut Pool, needed: usize, most: usize) -> Result<(), Failure> {
        let action = self.intake.refill(pool, needed, most)?.ok_or(Unsupported::TooLarge {
            region: Region::Record,
            limit_bytes: RECORD_LIMIT_BYTES as u64,
        })?;
        self.actions.push_back(action);
        Ok(())
    }

    /// From now on no more than a page is in the input pipe.
    pub(super) fn hold_writer(&mut self) {
        if self.config.live {
            self.actions.extend(self.pile.hold());
        }
    }

    /// Shrinks the input pipe as the end of RAM approaches, so that the source never has more
    /// buffered than is still missing.
    pub(super) fn limit_writer(&mut self) {
        let ahead = self.coverage.as_ref().and_then(|(coverage, _)| coverage.pages_ahead());
        if let Some(ahead) = ahead.filter(|_| self.config.live) {
            self.actions.extend(self.pile.before(ahead));
        }
    }

    /// RAM blocks may be shared, and not in the stream.
    pub(super) fn ignores_shared(&self) -> bool {
        self.decoder.configuration().is_some_and(|c| c.has_capability("x-ignore-shared"))
    }

    /// After this failure the source is not drained: it is no live one, it has ended, or its guest
    /// runs whatever happens.
    pub(super) fn cannot_drain(&self, failure: &Failure) -> bool {
        !self.config.live
            || self.intake.ended
            || matches!(failure, Failure::Stream(_) | Failure::Interrupted | Failure::Silent { .. })
            || matches!(failure, Failure::Unsupported(what) if what.rules_out_background_snapshot())
    }

    /// Pages of RAM that arrived in any form, and all of them.
    pub(super) fn pages(&self) -> (u64, u64) {
        let count = |(coverage, _): &(Coverage, _)| (coverage.seen_pages(), coverage.total_pages());
        self.coverage.as_ref().map_or((0, 0), count)
    }

    /// Names of blocks of which no page came, a few at the most.
    pub(super) fn untouched_blocks(&self) -> Vec<Vec<u8>> {
        let names = |(coverage, layout): &(Coverage, RamLayout)| {
            let name = |block: usize| layout.blocks()[block].name.clone();
            coverage.untouched_blocks().take(UNTOUCHED_NAMES).map(name).collect()
        };
        self.coverage.as_ref().map_or_else(Vec::new, names)
    }
}
