//! The time that a step takes.

/// A clock that never stops; it may wrap round.
pub trait Clock {
    /// Microseconds since some moment.
    fn now_us(&self) -> u32;
}
