//! `--mac-hook`: the command that tells the guest's drivers of their new addresses.
//!
//! With `exec:` QEMU waits for the program that it started before it runs the guest, and its monitor
//! answers no one meanwhile (`qio_channel_command_close`, io/channel-command.c). So the command may
//! not be waited for there: a shell of its own waits for this program to end, runs it, and says how
//! it ended. With a socket or a descriptor this program itself waits for it.

use crate::channel::Channel;
use snapshot_engine::identity::Assigned;
use std::io;
use std::mem;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Reads until whoever started it lets go, or has ended; then runs the command in $1, and says how
/// it ended, as $2 says: in words, or in JSON.
const SCRIPT: &str = r#"
read -r go
sh -c "$1" </dev/null >&2
status=$?
if [ "$2" = json ]; then
    printf '{"type":"mac_hook","exit_status":%d}\n' "$status" >&2
elif [ "$status" = 0 ]; then
    echo 'qemu-snapshot: --mac-hook has ended: exit status 0' >&2
else
    echo "qemu-snapshot: error: --mac-hook: exit status $status; the guest's drivers may still use their old MACs" >&2
fi
exit "$status"
"#;

/// How long a destination that has everything may take until it closes the connection.
const LOADING: Duration = Duration::from_secs(10);

/// Why the guest's drivers may not know of their new addresses.
#[derive(Debug, thiserror::Error)]
enum HookError {
    #[error("the guest is reverted, but --mac-hook cannot be started")]
    Start(#[source] io::Error),
    #[error("the guest is reverted, but --mac-hook cannot be waited for")]
    Wait(#[source] io::Error),
    #[error("the guest is reverted, but --mac-hook ended with {0}")]
    Failed(std::process::ExitStatus),
}

/// The command, from the beginning of a revert on.
#[derive(Debug)]
pub(crate) struct Hook {
    command: Option<String>,
    json: bool,
    /// QEMU may wait for this program, and must not wait for the command.
    is_awaited: bool,
    assigned: Option<Arc<[Assigned]>>,
    running: Option<Result<Child, io::Error>>,
}

impl Hook {
    pub(crate) fn new(command: Option<String>, json: bool, is_awaited: bool) -> Self {
        Self { command, json, is_awaited, assigned: None, running: None }
    }

    /// There is a command.
    pub(crate) fn is_wanted(&self) -> bool {
        self.command.is_some()
    }

    /// The NICs have these addresses when the guest runs.
    pub(crate) fn assigned(&mut self, assigned: Arc<[Assigned]>) {
        self.assigned = Some(assigned);
    }

    /// The guest runs, and this program goes on.
    pub(crate) fn guest_runs(&mut self) {
        if self.running.is_none() {
            self.running = self.start(false);
        }
    }

    /// The destination has everything. True if the command has ended well.
    ///
    /// # Errors
    ///
    /// It could not be run, or has not ended well.
    pub(crate) fn end(mut self, channel: &Channel) -> Result<bool, snapshot_engine::Failure> {
        let refused = |error| Err(snapshot_engine::Failure::refused(error));
        if self.running.is_none() {
            if !self.is_awaited {
                channel.wait_closed(LOADING);
            }
            self.running = self.start(self.is_awaited);
        }
        let mut child = match self.running.take() {
            None => return Ok(false),
            Some(Err(error)) => return refused(HookError::Start(error)),
            Some(Ok(child)) => child,
        };
        let ended = if self.is_awaited { child.try_wait() } else { child.wait().map(Some) };
        match ended {
            // It says itself how it ends.
            Ok(None) => Ok(false),
            Ok(Some(status)) if status.success() => Ok(true),
            Ok(Some(status)) => refused(HookError::Failed(status)),
            Err(error) => refused(HookError::Wait(error)),
        }
    }

    /// Starts the command; none if there is nothing to tell. It runs at once, or when this program has ended.
    fn start(&self, behind_us: bool) -> Option<Result<Child, io::Error>> {
        let command = self.command.as_ref()?;
        let assigned = self.assigned.as_ref().filter(|assigned| !assigned.is_empty())?;
        let lines: Vec<String> =
            assigned.iter().map(|Assigned { device, old, new }| format!("{device} {old} {new}")).collect();
        let first = &assigned[0];
        let child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "qemu-snapshot", command, if self.json { "json" } else { "text" }])
            .env("MACS", lines.join("\n"))
            .env("MAC_DEVICE", &first.device)
            .env("OLD_MAC", first.old.to_string())
            .env("NEW_MAC", first.new.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        Some(child.map(|mut child| {
            let go = child.stdin.take();
            if behind_us {
                // The system closes it when this program has ended.
                mem::forget(go);
            }
            child
        }))
    }
}
