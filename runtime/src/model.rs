//! A model: a checked file and its memory plan.

use crate::artifact::{Artifact, Header, InputSpec, line_count};
use crate::error::Error;
use crate::plan::Plan;

/// A model, borrowed from the bytes of its file. Shared by any number of streams.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    artifact: Artifact<'a>,
    plan: Plan,
    /// Counted once: a step compares its frame with it.
    channels: Option<usize>,
    /// The sections below this number have been checked.
    #[cfg(feature = "std")]
    checked: u32,
}

impl<'a> Model<'a> {
    /// Checks a `.brook` file and plans its memory, once. `bytes` must start on a 64-byte boundary.
    ///
    /// After this only bad input can make a step fail.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::planned(Artifact::from_bytes(bytes)?)
    }

    /// Like [`Model::from_bytes`], but reads no more than the file's header: work can begin while the rest is still on its way from a disk.
    ///
    /// What such a model answers, errors included, counts only once [`Model::check_until`] has found nothing wrong in any section; until then keep
    /// it to yourself. Sessions look up in the file what had not been checked when they began.
    #[cfg(feature = "std")]
    pub fn from_header(bytes: &'a [u8]) -> Result<Self, Error> {
        Ok(Model { checked: 0, ..Self::planned(Artifact::from_header(bytes)?)? })
    }

    /// Checks the sections below number `end`, if that has not been done.
    #[cfg(feature = "std")]
    pub fn check_until(&mut self, end: u32) -> Result<(), Error> {
        self.artifact.check_contents(self.checked..end)?;
        self.checked = self.checked.max(end);
        Ok(())
    }

    /// Whether section `id` has been read and checked.
    #[cfg(feature = "std")]
    pub(crate) fn is_checked(&self, id: u32) -> bool {
        id < self.checked
    }

    #[inline]
    fn planned(artifact: Artifact<'a>) -> Result<Self, Error> {
        let plan = Plan::new(&artifact)?;
        let channels = match artifact.header().input {
            InputSpec::Frames { channels, .. } => Some(line_count(channels)),
            InputSpec::Tokens { .. } => None,
        };
        Ok(Model {
            artifact,
            plan,
            channels,
            #[cfg(feature = "std")]
            checked: u32::MAX,
        })
    }

    /// The file.
    pub fn artifact(&self) -> &Artifact<'a> {
        &self.artifact
    }

    /// The file's header.
    pub fn header(&self) -> &Header<'a> {
        self.artifact.header()
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Outputs of a step.
    pub fn outputs(&self) -> usize {
        self.plan.outputs as usize
    }

    /// Bytes of one stream's state.
    pub fn state_bytes(&self) -> usize {
        self.plan.state_bytes as usize
    }

    /// Bytes of a session's scratch when it handles up to `tokens` tokens at once (1 is enough to step).
    pub fn scratch_bytes(&self, tokens: usize) -> usize {
        self.team_scratch_bytes(tokens, 1)
    }

    /// Bytes of a session's scratch when a team of `threads` works on up to `tokens` tokens at once.
    pub fn team_scratch_bytes(&self, tokens: usize, threads: usize) -> usize {
        // `Plan::new` checked one token; absurd batches saturate, and no buffer is that large.
        self.plan.scratch_bytes(tokens.max(1), threads.max(1)).unwrap_or(usize::MAX)
    }

    /// Whether the states of both models are laid out alike, slot by slot.
    pub fn same_slots(&self, other: &Model<'_>) -> bool {
        let (a, b) = (self.header().slots, other.header().slots);
        a.count == b.count && a.bytes == b.bytes
    }

    /// Channels of a sensor frame; `None` for token models.
    pub fn channels(&self) -> Option<usize> {
        self.channels
    }
}
