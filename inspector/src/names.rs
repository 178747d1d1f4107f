//! QEMU's names for numbers.

use migration_stream::Command;

/// Name of a command.
pub(crate) fn command(command: &Command<'_>) -> &'static str {
    match command {
        Command::OpenReturnPath => "OPEN_RETURN_PATH",
        Command::Ping(_) => "PING",
        Command::PostcopyAdvise(_) => "POSTCOPY_ADVISE",
        Command::PostcopyListen => "POSTCOPY_LISTEN",
        Command::PostcopyRun => "POSTCOPY_RUN",
        Command::PostcopyRamDiscard { .. } => "POSTCOPY_RAM_DISCARD",
        Command::Packaged(_) => "PACKAGED",
        Command::EnableColo => "ENABLE_COLO",
        Command::PostcopyResume => "POSTCOPY_RESUME",
        Command::RecvBitmap(_) => "RECV_BITMAP",
        Command::SwitchoverStart => "SWITCHOVER_START",
    }
}
