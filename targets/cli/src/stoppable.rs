//! Input that does not hold up a stop: a sensor may be silent for long.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often a stop is looked for, and how long a listener rests that could not take a sender.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

/// A file or a pipe.
pub(crate) struct Stoppable {
    file: File,
    stop: Arc<AtomicBool>,
}

/// Reads `file` until `stop` is set.
pub(crate) fn file(file: File, stop: &Arc<AtomicBool>) -> Stoppable {
    Stoppable { file, stop: Arc::clone(stop) }
}

impl Read for Stoppable {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while !self.stop.load(Ordering::Relaxed) {
            if is_ready(&self.file)? {
                return self.file.read(to);
            }
        }
        // Not an end: what was read of a line is no sample.
        Err(io::Error::other("told to stop"))
    }
}

#[cfg(unix)]
mod system {
    use super::{LOOK, Stoppable, file};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use std::fs::File;
    use std::io;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// Reads standard input until `stop` is set.
    pub(crate) fn standard_input(stop: &Arc<AtomicBool>) -> io::Result<Stoppable> {
        // Past the program's own buffer, of which a wait for more would know nothing.
        Ok(file(File::from(io::stdin().as_fd().try_clone_to_owned()?), stop))
    }

    /// Whether there is something to read, an end too; looked for during `LOOK`.
    pub(super) fn is_ready(file: &File) -> io::Result<bool> {
        let during = Timespec { tv_sec: 0, tv_nsec: LOOK.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&during)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(not(unix))]
mod system {
    use super::{Stoppable, file};
    use std::fs::File;
    use std::io;
    use std::os::windows::io::AsHandle;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    pub(crate) fn standard_input(stop: &Arc<AtomicBool>) -> io::Result<Stoppable> {
        Ok(file(File::from(io::stdin().as_handle().try_clone_to_owned()?), stop))
    }

    pub(super) fn is_ready(_: &File) -> io::Result<bool> {
        Ok(true)
    }
}

use system::is_ready;
pub(crate) use system::standard_input;
