//! Several threads for one step. Results are the same bits for any number: what is shared out is whole rows, channels or heads.

#[cfg(feature = "team")]
use crate::mem::Handout;
use core::fmt::Debug;
use core::ops::Range;

/// Most parts that one piece of work is cut into.
#[cfg(feature = "team")]
const MAX_PARTS: usize = if cfg!(feature = "std") { 64 } else { 2 };

/// Threads (or cores) that share the work of a step. The host's is [`crate::Pool`]; a device with two cores can bring its own.
pub trait Team: Sync + Debug {
    /// How many there are, the caller among them.
    fn size(&self) -> usize;

    /// Calls `work` once with every number below `parts`, from any of the threads, and returns when all have returned.
    fn run(&self, parts: usize, work: &(dyn Fn(usize) + Sync));

    /// Operation number `op` of the program has just been done, for all tokens of a batch; in a routed block for one, in a block with a
    /// rate of its own for one stream. Nobody has to know: it is for those who measure where the time goes.
    fn done(&self, _op: u32) {}
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

/// The team of a session. Without the feature `team` it is the caller alone, and the compiler knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crew<'t> {
    #[cfg(feature = "team")]
    team: &'t dyn Team,
    /// Operations ask for it several times each.
    #[cfg(feature = "team")]
    size: usize,
    #[cfg(not(feature = "team"))]
    team: core::marker::PhantomData<&'t ()>,
}

impl Crew<'_> {
    pub(crate) const ALONE: Crew<'static> = Crew {
        #[cfg(feature = "team")]
        team: &Alone,
        #[cfg(feature = "team")]
        size: 1,
        #[cfg(not(feature = "team"))]
        team: core::marker::PhantomData,
    };
}

#[cfg(feature = "team")]
impl<'t> Crew<'t> {
    pub(crate) fn new(team: &'t dyn Team) -> Self {
        Crew { team, size: team.size() }
    }

    pub(crate) fn size(self) -> usize {
        self.size
    }

    /// Tells the team that an operation has been done.
    pub(crate) fn done(self, op: u32) {
        self.team.done(op);
    }

    /// Does `work` on every part, on as many threads as there are. `None` as soon as a part is.
    pub(crate) fn share<P: Send>(self, mut parts: impl Iterator<Item = Option<P>>, work: impl Fn(P) + Sync) -> Option<()> {
        if self.size() <= 1 {
            return parts.try_for_each(|part| part.map(&work));
        }
        loop {
            let mut handout = Handout::<P, MAX_PARTS>::new();
            let has_more = loop {
                let Some(part) = parts.next() else { break false };
                if handout.add(part?) == 0 {
                    break true;
                }
            };
            match handout.count() {
                0 => {}
                1 => handout.take(0).into_iter().for_each(&work),
                count => self.team.run(count, &|index| handout.take(index).into_iter().for_each(&work)),
            }
            if !has_more {
                return Some(());
            }
        }
    }
}

#[cfg(not(feature = "team"))]
impl Crew<'_> {
    pub(crate) fn size(self) -> usize {
        1
    }

    /// Nobody to tell.
    pub(crate) fn done(self, _: u32) {}

    /// Does `work` on the one part, see [`shares`]. `None` if it is.
    #[inline]
    pub(crate) fn share<P: Send>(self, mut parts: impl Iterator<Item = Option<P>>, work: impl Fn(P) + Sync) -> Option<()> {
        parts.next()?.map(work)
    }
}

/// How `units` are shared out among `parts`: the units of each part, in order, as even as can be.
#[cfg(feature = "team")]
pub(crate) fn shares(units: usize, parts: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = parts.clamp(1, units.max(1));
    (0..parts).filter_map(move |part| {
        // Small models are done in less time than divisions take.
        if parts == 1 {
            return Some(0..units);
        }
        Some(units.checked_mul(part)?.checked_div(parts)?..units.checked_mul(part + 1)?.checked_div(parts)?)
    })
}

/// All `units`: there is one part.
#[cfg(not(feature = "team"))]
pub(crate) fn shares(units: usize, _: usize) -> impl Iterator<Item = Range<usize>> {
    core::iter::once(0..units)
}
