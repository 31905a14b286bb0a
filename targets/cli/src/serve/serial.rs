//! A serial line: bytes as they come, at a given speed.

use anyhow::{Context, Result};
use rustix::fs::OFlags;
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens the line at `path` for both directions, `baud` bits per second, eight bits to a byte, nothing translated.
pub(super) fn open(path: &Path, baud: u32) -> Result<File> {
    let cannot = || format!("{}: cannot be opened as a serial line", path.display());
    // Not this program's terminal, even if it has none: else the line's end would be the program's (SIGHUP).
    let line = File::options().read(true).write(true).custom_flags(OFlags::NOCTTY.bits() as i32).open(path).with_context(cannot)?;
    let mut modes = tcgetattr(&line).with_context(cannot)?;
    modes.make_raw();
    modes.set_speed(baud).with_context(|| format!("{}: takes no {baud} bits per second", path.display()))?;
    tcsetattr(&line, OptionalActions::Now, &modes).with_context(cannot)?;
    Ok(line)
}
