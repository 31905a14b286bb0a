//! Several threads for one step. Results are the same bits for any number: what is shared out is whole rows, channels or heads.

#[cfg(feature = "team")]
use crate::mem::Handout;
use core::fmt::Debug;

/// Most parts that one piece of work is cut into.
#[cfg(feature = "team")]
const MAX_PARTS: usize = if cfg!(feature = "std") { 64 } else { 2 };

/// Threads (or cores) that share the work of a step. The host's is [`crate::Pool`]; a device with two cores can bring its own.
pub trait Team: Sync + Debug {
    /// How many there are, the caller among them.
    fn size(&self) -> usize;

    /// Calls `work` once with every number below `parts`, from any of the threads, and returns when all have returned.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));
}

/// The caller alone.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Team for Alone {
    fn size(&self) -> usize {
        1
    }

    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        (0..parts).for_each(work);
    }
}

/// How `units` are shared out among `parts`: the units of each part, in order, as even as can be.
pub(crate) fn shares(units: usize, parts: usize) -> impl Iterator<Item = core::ops::Range<usize>> {
    let parts = parts.clamp(1, units.max(1));
    (0..parts).filter_map(move |part| Some(units.checked_mul(part)?.checked_div(parts)?..units.checked_mul(part + 1)?.checked_div(parts)?))
}

/// Does `work` on every part, on as many threads as there are. `None` as soon as a part is.
#[cfg(feature = "team")]
pub(crate) fn share<P: Send>(team: &dyn Team, mut parts: impl Iterator<Item = Option<P>>, work: impl Fn(P) + Sync) -> Option<()> {
    if team.size() <= 1 {
        return parts.try_for_each(|part| part.map(&work));
    }
    loop {
        let (mut count, mut is_whole) = (0, true);
        let mut some = parts.by_ref().map_while(|part| {
            is_whole = part.is_some();
            count += usize::from(is_whole);
            part
        });
        let handout = Handout::<P, MAX_PARTS>::new(&mut some.by_ref().take(MAX_PARTS));
        match count {
            0 => {}
            1 => handout.take(0).into_iter().for_each(&work),
            _ => team.run(count, &|index| handout.take(index).into_iter().for_each(&work)),
        }
        if !is_whole {
            return None;
        }
        if count < MAX_PARTS {
            return Some(());
        }
    }
}

/// Does `work` on every part. `None` as soon as a part is.
#[cfg(not(feature = "team"))]
pub(crate) fn share<P: Send>(_: &dyn Team, mut parts: impl Iterator<Item = Option<P>>, work: impl Fn(P) + Sync) -> Option<()> {
    parts.try_for_each(|part| part.map(&work))
}
