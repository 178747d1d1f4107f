//! Postcopy: what a destination would refuse, in the order in which it comes.

use super::Report;
use crate::walk::{Context, Item};
use migration_stream::protocol::{Incoming, IncomingState};
use migration_stream::{Command, Page, PageContent, Record};

#[derive(Debug, Default)]
pub(super) struct Postcopy {
    incoming: Incoming,
    placing: bool,
}

impl Postcopy {
    /// Pages are placed one by one, each of them once.
    pub(super) fn is_placing(&self) -> bool {
        self.placing
    }

    /// The stream went over to postcopy.
    pub(super) fn was_used(&self) -> bool {
        self.placing
    }

    pub(super) fn command(
        &mut self,
        report: &mut Report<'_>,
        item: &Item<'_>,
        command: &Command<'_>,
        context: Context<'_>,
    ) {
        // The walk reports what may not be in a package.
        if item.packaged && matches!(command, Command::Packaged(_)) {
            return;
        }
        if let Err(wrong) = self.incoming.command(command, item.packaged) {
            let text = format!("{wrong}: the destination refuses it");
            report.error("order", item.offset, "command", text);
        }
        self.placing |= self.incoming.is_postcopy();
        if let Command::PostcopyAdvise(Some(advise)) = command {
            let (found, expected) = (advise.target_page_size, u64::from(context.page_size));
            if found != expected {
                let text = format!("target page size {found}, but RAM has pages of {expected}");
                report.error("advise", item.offset, "command POSTCOPY_ADVISE", text);
            }
            // The least of the host page sizes is a target page at least.
            if advise.page_size_summary == 0
                || advise.page_size_summary & (expected.next_power_of_two() - 1) != 0
            {
                let text = format!(
                    "page sizes {:#x}: expected powers of two from the target page size on",
                    advise.page_size_summary
                );
                report.error("advise", item.offset, "command POSTCOPY_ADVISE", text);
            }
        }
    }

    pub(super) fn page(&mut self, report: &mut Report<'_>, offset: u64, record: &Record<'_>) {
        let plain =
            matches!(record, Record::Page(Page { content: PageContent::Raw(_) | PageContent::Zero, .. }));
        if let Err(wrong) = self.incoming.page(plain) {
            report.error("order", offset, "page record", format!("{wrong}: the destination refuses it"));
        }
    }

    pub(super) fn eof(&mut self, report: &mut Report<'_>, offset: u64) {
        if let Err(wrong) = self.incoming.end_of_stream(false) {
            report.error("order", offset, "", format!("{wrong}: the destination refuses it"));
        } else if self.incoming.state() == IncomingState::Listening {
            report.error("order", offset, "", "the end, and no RUN: the destination's guest does not start");
        }
    }
}
