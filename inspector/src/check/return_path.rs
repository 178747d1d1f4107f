//! What a destination answered.

use super::Report;
use crate::walk::{Finding, Level};
use migration_stream::return_path::ReturnPathMessage;

#[derive(Debug, Default)]
pub(super) struct ReturnPath {
    block_named: bool,
    shut: Option<u32>,
    messages: u64,
}

impl ReturnPath {
    pub(super) fn message(&mut self, report: &mut Report<'_>, offset: u64, message: &ReturnPathMessage<'_>) {
        let path = "return path";
        self.messages += 1;
        if self.shut.is_some() {
            report.error("after-shut", offset, path, "a message behind SHUT");
        }
        match message {
            ReturnPathMessage::Shut(status) => {
                self.shut = Some(*status);
                if *status != 0 {
                    report.warning("shut", offset, path, format!("SHUT {status}: the destination failed"));
                }
            }
            ReturnPathMessage::RequestPages { block, start, length } => {
                if block.is_none() && !self.block_named {
                    report.error("request-block", offset, path, "REQ_PAGES before any block was named");
                }
                self.block_named |= block.is_some();
                if *length == 0 || start.checked_add(u64::from(*length)).is_none() {
                    report.error(
                        "request-range",
                        offset,
                        path,
                        format!("REQ_PAGES {start:#x} + {length:#x}"),
                    );
                }
            }
            ReturnPathMessage::ResumeAck(value) if *value != 1 => {
                report.error("resume-ack", offset, path, format!("RESUME_ACK {value}, expected 1"));
            }
            _ => {}
        }
    }

    pub(super) fn finish(&self, report: &mut Report<'_>) {
        if self.shut.is_none() {
            let text = format!("{} messages and no SHUT: the connection was cut", self.messages);
            report.say("no-shut", Finding::new(Level::Note, None, "return path", text));
        }
    }
}
