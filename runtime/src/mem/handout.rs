//! Things handed out by number, each once: how threads get their parts of something exclusive.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

/// Up to `N` things, each to be taken once, by any thread. What nobody takes is forgotten.
pub(crate) struct Handout<P, const N: usize> {
    /// How many places are filled: the others are never touched, since things are large and mostly few.
    count: usize,
    is_taken: [AtomicBool; N],
    things: [UnsafeCell<MaybeUninit<P>>; N],
}

#[allow(unsafe_code)]
// SAFETY: a thing is only touched by the one thread that turned its `is_taken` to true, and may be sent to it.
unsafe impl<P: Send, const N: usize> Sync for Handout<P, N> {}

impl<P, const N: usize> Handout<P, N> {
    /// Without things.
    #[inline(always)] // To be made where it stays: it is large.
    pub(crate) fn new() -> Self {
        Handout { count: 0, is_taken: [const { AtomicBool::new(false) }; N], things: [const { UnsafeCell::new(MaybeUninit::uninit()) }; N] }
    }

    /// Adds a thing, which is forgotten if there is no place for it. Returns how many more there is place for.
    #[inline]
    pub(crate) fn add(&mut self, thing: P) -> usize {
        if let Some(place) = self.things.get_mut(self.count) {
            place.get_mut().write(thing);
            self.count += 1;
        }
        N - self.count
    }

    /// How many things there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Thing `index`, if there is one and nobody took it before.
    #[inline]
    pub(crate) fn take(&self, index: usize) -> Option<P> {
        if index >= self.count || self.is_taken.get(index)?.swap(true, Ordering::AcqRel) {
            return None;
        }
        #[allow(unsafe_code)]
        // SAFETY: the first `count` places were written, and only the first swap gets here, so that nobody else holds the thing.
        Some(unsafe { (*self.things.get(index)?.get()).assume_init_read() })
    }
}
