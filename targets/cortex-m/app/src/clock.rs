//! The time that a step takes.

/// A counter that never stops: a timer, or the core's cycles.
pub trait Clock {
    /// Ticks since some moment; after 2^32 it begins anew.
    fn ticks(&self) -> u32;

    /// Ticks in a second.
    fn rate_hz(&self) -> u32;
}
