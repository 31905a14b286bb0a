//! Ctrl-C: the first ends the work after its current step, the second ends the program at once.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Exit code of a program that Ctrl-C ended.
const ENDED_BY_CTRL_C: i32 = 130;
const ENDED_BY_TERM: i32 = 143;

/// A flag that the first Ctrl-C sets.
pub(crate) fn on_ctrl_c() -> Result<Arc<AtomicBool>> {
    let asked = Arc::new(AtomicBool::new(false));
    // The order matters: the first Ctrl-C finds the flag still down, so only the second ends the program here.
    flag::register_conditional_shutdown(SIGINT, ENDED_BY_CTRL_C, Arc::clone(&asked)).context("cannot listen for Ctrl-C")?;
    flag::register(SIGINT, Arc::clone(&asked)).context("cannot listen for Ctrl-C")?;
    Ok(asked)
}

/// The same for a service: whoever supervises it sends SIGTERM.
pub(crate) fn on_ctrl_c_or_term() -> Result<Arc<AtomicBool>> {
    let asked = on_ctrl_c()?;
    flag::register(SIGTERM, Arc::clone(&asked)).context("cannot listen for SIGTERM")?;
    Ok(asked)
}

/// Ends the program at the first Ctrl-C, or when it is told to end, after `tidy`.
pub(crate) fn tidy_on_ctrl_c(tidy: impl FnOnce() + Send + 'static) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for Ctrl-C")?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            tidy();
            std::process::exit(if signal == SIGINT { ENDED_BY_CTRL_C } else { ENDED_BY_TERM });
        }
    });
    Ok(())
}
