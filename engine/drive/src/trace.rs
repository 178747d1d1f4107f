//! `--trace`: says on stderr what a machine wants and what is reported to it.
//!
//! Sizes and places only, never a byte of the guest.

use crate::words::say;
use snapshot_engine::machine::Piece;
use snapshot_engine::{Action, Event, Lane, Machine, Milestone, Pool};
use std::ffi::OsStr;
use std::time::Instant;

/// Which events are shown; spelled as QEMU's `-trace`: `[enable=]PATTERN`, where `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Understands `[enable=]PATTERN`.
    ///
    /// # Errors
    ///
    /// Another option of QEMU's, which means nothing here.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let text = text.to_string_lossy();
        let pattern = text.strip_prefix("enable=").unwrap_or(&text);
        if pattern.is_empty() || pattern.contains(['=', ',']) {
            return Err("expected [enable=]PATTERN, for example disk_*".to_owned());
        }
        Ok(Self(pattern.to_owned()))
    }

    /// Whether an event of this name is meant.
    fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut last = None;
        for part in parts {
            // Everything but the last part is taken where it comes first.
            if let Some(before) = last.replace(part) {
                let Some(at) = rest.find(before) else { return false };
                rest = &rest[at + before.len()..];
            }
        }
        last.map_or(rest.is_empty(), |last| rest.ends_with(last))
    }
}

/// A machine that is watched.
#[derive(Debug)]
pub(crate) struct Traced<'a, M> {
    pub(crate) machine: &'a mut M,
    patterns: &'a [Pattern],
    start: Instant,
}

impl<'a, M> Traced<'a, M> {
    pub(crate) fn new(machine: &'a mut M, patterns: &'a [Pattern]) -> Self {
        Self { machine, patterns, start: Instant::now() }
    }

    fn show(&self, (name, what): (&str, String)) {
        if self.patterns.iter().any(|pattern| pattern.matches(name)) {
            let time = self.start.elapsed();
            let space = if what.is_empty() { "" } else { " " };
            say(&format!("{:.6} {name}{space}{what}", time.as_secs_f64()));
        }
    }
}

impl<M: Machine> Machine for Traced<'_, M> {
    fn handle(&mut self, event: Event<'_>, pool: &mut Pool) {
        if !self.patterns.is_empty() {
            self.show(of_event(&event));
        }
        self.machine.handle(event, pool);
    }

    fn poll(&mut self, pool: &mut Pool) -> Option<Action> {
        let action = self.machine.poll(pool)?;
        if !self.patterns.is_empty() {
            self.show(of_action(&action));
        }
        Some(action)
    }
}

fn places(id: u64, pieces: &[Piece]) -> String {
    let mut text = format!("id {id}:");
    for Piece { at, range } in pieces {
        text.push_str(&format!(" {:#x}+{}", at.0, range.len()));
    }
    text
}

fn of_action(action: &Action) -> (&'static str, String) {
    let id = action.id().map_or_else(String::new, |id| format!("id {}", id.0));
    match action {
        Action::ReadInput { range, .. } => ("input_wanted", format!("at most {} bytes", range.len())),
        Action::LimitInput { bytes } => ("limit_input", format!("{bytes} bytes")),
        Action::CreateTemporary { .. } => ("disk_create", id),
        Action::Read { id, pieces, .. } => ("disk_read", places(id.0, pieces)),
        Action::Write { id, pieces, .. } => ("disk_write", places(id.0, pieces)),
        Action::NextData { from, .. } => ("disk_next_data", format!("{id}: from {:#x}", from.0)),
        Action::SetLength { length_bytes, .. } => ("disk_set_length", format!("{id}: {length_bytes} bytes")),
        Action::Flush { .. } => ("disk_flush", id),
        Action::Ballast { bytes, .. } => ("disk_ballast", format!("{id}: {bytes} bytes")),
        Action::Link { .. } => ("disk_link", id),
        Action::Unlink { .. } => ("disk_unlink", id),
        Action::ProbeReplace { .. } => ("disk_probe_replace", id),
        Action::Replace { .. } => ("disk_replace", id),
        Action::Send { lane, header, body } => {
            let body = body.as_ref().map_or(0, |body| body.range.len());
            (lane_name(*lane, "send", "send_preempt"), format!("{} + {body} bytes", header.bytes().len()))
        }
        Action::LimitOutput { bytes } => ("limit_output", format!("{bytes} bytes")),
        Action::Announce(Milestone::Identity { assigned }) => {
            ("identity", format!("macs={}", assigned.len()))
        }
        Action::Announce(Milestone::Serving { .. }) => ("serving", String::new()),
        Action::Announce(Milestone::Running { .. }) => ("running", String::new()),
        Action::Announce(Milestone::Resumed { .. }) => ("resumed", String::new()),
        Action::WakeAt { tick_ms: Some(tick_ms) } => ("wake_at", format!("{tick_ms} ms")),
        Action::WakeAt { tick_ms: None } => ("wake_at", "never".to_owned()),
        Action::Finish => ("finish", id),
        _ => ("unknown_action", id),
    }
}

fn lane_name(lane: Lane, main: &'static str, preempt: &'static str) -> &'static str {
    match lane {
        Lane::Main => main,
        Lane::Preempt => preempt,
    }
}

fn of_event(event: &Event<'_>) -> (&'static str, String) {
    match event {
        Event::Tick { now_ms } => ("tick", format!("{now_ms} ms")),
        Event::Input { bytes } => ("input", format!("{bytes} bytes")),
        Event::InputEnd => ("input_end", String::new()),
        Event::InputFailed(error) => ("input_failed", error.to_string()),
        Event::Done { id, result: Ok(_) } => ("disk_done", format!("id {}", id.0)),
        Event::Done { id, result: Err(error) } => ("disk_failed", format!("id {}: {error}", id.0)),
        Event::Sent { lane, bytes } => (lane_name(*lane, "sent", "sent_preempt"), format!("{bytes} bytes")),
        Event::OutputFailed(error) => ("output_failed", error.to_string()),
        Event::Answer(bytes) => ("answer", format!("{} bytes", bytes.len())),
        Event::AnswerEnd => ("answer_end", String::new()),
        Event::AnotherPeer => ("another_peer", String::new()),
        Event::Broken => ("broken", String::new()),
        Event::Interrupted => ("interrupted", String::new()),
        _ => ("unknown_event", String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, name: &str, expected: bool) {
        let pattern = Pattern::parse(OsStr::new(pattern)).unwrap();
        assert_eq!(pattern.matches(name), expected, "{pattern:?} {name}");
    }

    #[test]
    fn patterns_are_qemus() {
        check("disk_read", "disk_read", true);
        check("disk_read", "disk_reads", false);
        check("enable=disk_*", "disk_read", true);
        check("disk_*", "sent", false);
        check("*", "sent", true);
        check("*_read", "disk_read", true);
        check("d*_*d", "disk_read", true);
        check("d*_*x", "disk_read", false);
        check("a*a", "a", false);
        for wrong in ["", "enable=", "file=x", "a,b"] {
            assert!(Pattern::parse(OsStr::new(wrong)).is_err(), "{wrong}");
        }
    }
}
