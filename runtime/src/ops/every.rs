//! Several rates in one program: the operations behind it run at every n-th step of the stream, with a clock of their own.
//!
//! A model that joins frames works at a lower rate there, and only there. A block that looks ahead has its answer later, so what
//! follows starts later: until then nothing of it runs, and its states stay empty.

use super::check::Checker;
use super::run::Batch;
use super::{Access, Span};
use crate::artifact::Artifact;
use crate::error::OpFault;
use core::fmt;
use core::marker::PhantomData;
use serde::{Deserialize, Serialize};

/// Runs the next operations at the steps `start`, `start + period`, `start + 2 * period`, ..
///
/// The position that they see is how often the block has run before.
#[derive(Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Every<V = Span> {
    /// Steps from one run to the next.
    pub period: u32,
    /// Steps before the first run.
    pub start: u32,
    /// Operations in the block.
    pub ops: u32,
    /// Bytes that they take up in the program: at the other steps, which are most, they are not even decoded.
    pub bytes: u32,
    #[serde(skip)]
    operands: PhantomData<V>,
}

impl<V> Every<V> {
    /// A block of `ops` operations. The writer of the file fills in their bytes.
    pub fn new(period: u32, start: u32, ops: u32) -> Self {
        Every { period, start, ops, bytes: 0, operands: PhantomData }
    }

    pub(super) fn map<W>(self, _: &mut impl FnMut(V, Access) -> W) -> Every<W> {
        Every { period: self.period, start: self.start, ops: self.ops, bytes: self.bytes, operands: PhantomData }
    }
}

impl<V> fmt::Debug for Every<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Every { period, start, ops, bytes, .. } = self;
        write!(f, "Every {{ period: {period}, start: {start}, ops: {ops}, bytes: {bytes} }}")
    }
}

impl Every {
    /// The plan checks `bytes`, since it has the program.
    pub(super) fn check(&self, _: &mut Checker<'_, '_>) -> Result<(), OpFault> {
        if self.period == 0 {
            return Err(OpFault::Value);
        }
        if self.ops == 0 { Err(OpFault::Shape) } else { Ok(()) }
    }

    /// The block is walked by the session; the clock itself changes nothing.
    pub(super) fn run(&self, _: &mut Batch<'_, '_>) -> Option<()> {
        Some(())
    }

    /// The tokens of one stream of the batch at which the block runs, as a batch at the block's own rate; `None` if there are none.
    pub(crate) fn of<'b, 'a>(&self, batch: &'b mut Batch<'_, 'a>, stream: usize) -> Option<Batch<'b, 'a>> {
        let (period, start) = (u64::from(self.period), u64::from(self.start));
        // Steps to the next run, and from the block's first run to that one.
        let position = batch.position(stream)?;
        let (wait, since) = match position.checked_sub(start) {
            None => (start - position, 0),
            Some(since) => {
                let next = since.checked_next_multiple_of(period)?;
                (next - since, next)
            }
        };
        let first = usize::try_from(wait).ok().filter(|&first| first < batch.tokens)?;
        batch.every(stream, first, self.period as usize, since.checked_div(period)?)
    }

    pub(super) fn macs(&self, _: &Artifact<'_>) -> u64 {
        0
    }
}
