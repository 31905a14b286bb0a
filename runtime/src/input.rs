//! What goes into a step, and the probabilities that come out of a classifier.

use brooklet_kernels::portable::{act, reduce};

/// One step's input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Input<'a> {
    /// A token id.
    Token(u32),
    /// One sample of every channel, (channels), in the units the model card names; normalisation is the model's business. NaN
    /// stands for a missing one, if the model has a [policy](crate::ops::Policy) for it.
    Frame(&'a [f32]),
    /// A frame that comes this many seconds after the one before. [`Input::Frame`] is one that comes after a step of the
    /// model's own rate; the time before a stream's first frame counts too, but finds an empty state.
    FrameAfter(&'a [f32], f32),
}

/// Turns logits into probabilities in place: `exp(x - max) / sum`.
///
/// Its bits are the same on every device, like the logits' own.
pub fn softmax(logits: &mut [f32]) {
    let max = logits.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    for x in logits.iter_mut() {
        *x = act::exp(*x - max);
    }
    let total = reduce::sum_of(logits, |x| x);
    for x in logits.iter_mut() {
        *x /= total;
    }
}
