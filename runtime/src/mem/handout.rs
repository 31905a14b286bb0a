//! Things handed out by number, each once: how threads get their parts of something exclusive.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

/// Up to `N` things, each to be taken once, by any thread.
pub(crate) struct Handout<P, const N: usize> {
    places: [Place<P>; N],
}

struct Place<P> {
    is_taken: AtomicBool,
    thing: UnsafeCell<Option<P>>,
}

#[allow(unsafe_code)]
// SAFETY: a thing is only touched by the one thread that turned `is_taken` to true, and may be sent to it.
unsafe impl<P: Send, const N: usize> Sync for Handout<P, N> {}

impl<P, const N: usize> Handout<P, N> {
    /// Takes up to `N` things from `things`.
    pub(crate) fn new(things: &mut impl Iterator<Item = P>) -> Self {
        Handout { places: core::array::from_fn(|_| Place { is_taken: AtomicBool::new(false), thing: UnsafeCell::new(things.next()) }) }
    }

    /// Thing `index`, if there is one and nobody took it before.
    pub(crate) fn take(&self, index: usize) -> Option<P> {
        let place = self.places.get(index)?;
        if place.is_taken.swap(true, Ordering::AcqRel) {
            return None;
        }
        #[allow(unsafe_code)]
        // SAFETY: only the first swap gets here, so that nobody else holds a reference to the thing.
        unsafe { &mut *place.thing.get() }.take()
    }
}
