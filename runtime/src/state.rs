//! One stream's memory.

use crate::error::Error;
use crate::mem::aligned;
use crate::model::Model;

/// One stream's memory: convolution windows, recurrent states, attention caches. Its size never changes.
#[derive(Debug)]
pub struct State<'b> {
    pub(crate) model_hash: u64,
    /// Steps taken since the stream began.
    pub(crate) position: u64,
    pub(crate) bytes: &'b mut [u8],
}

impl<'b> State<'b> {
    /// An empty stream in `bytes`: at least [`Model::state_bytes`] of them, on a 16-byte boundary.
    pub fn new(model: &Model<'_>, bytes: &'b mut [u8]) -> Result<Self, Error> {
        let bytes = aligned("state", bytes, model.state_bytes())?;
        let mut state = State { model_hash: model.artifact().hash(), position: 0, bytes };
        state.reset();
        Ok(state)
    }

    /// Begins the stream anew.
    pub fn reset(&mut self) {
        self.position = 0;
        self.bytes.fill(0);
    }

    /// Steps taken since the stream began.
    pub fn position(&self) -> u64 {
        self.position
    }
}
