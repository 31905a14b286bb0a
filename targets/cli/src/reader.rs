//! What reads tokens and says what may follow: a session on the CPU, or one on a GPU.

use crate::model_file::Check;
use anyhow::Result;
use brooklet::Session;

/// A stream of a text model.
pub(crate) trait Reader {
    /// Reads tokens; the outputs are those of the last.
    fn read(&mut self, tokens: &[u32]) -> Result<&[f32]>;

    /// Reads tokens and calls `each` with every token's number and outputs.
    fn read_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()>;
}

impl<R: Reader> Reader for &mut R {
    fn read(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        (**self).read(tokens)
    }

    fn read_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        (**self).read_each(tokens, each)
    }
}

impl Reader for Session<'_, '_, '_> {
    fn read(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        Ok(self.prefill_tokens(tokens)?)
    }

    fn read_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        Ok(self.prefill_tokens_each(tokens, each)?)
    }
}

#[cfg(feature = "cuda")]
impl Reader for brooklet_cuda::CudaSession<'_, '_> {
    fn read(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        let outputs = match tokens {
            [token] => self.step(brooklet::Input::Token(*token)),
            tokens => self.prefill_tokens(0, tokens),
        };
        outputs.map_err(crate::device::plain)
    }

    fn read_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.prefill_tokens_each(0, tokens, each).map_err(crate::device::plain)
    }
}

/// A reader of a file that is still being checked: it says nothing before all of that is done.
pub(crate) struct Held<'c, 's, R> {
    pub(crate) reader: R,
    pub(crate) check: &'c Check<'s>,
}

impl<R: Reader> Reader for Held<'_, '_, R> {
    fn read(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        let outputs = self.reader.read(tokens)?;
        self.check.wait()?;
        Ok(outputs)
    }

    fn read_each(&mut self, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.check.wait()?;
        self.reader.read_each(tokens, each)
    }
}
