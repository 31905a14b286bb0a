//! The golden vectors in a file, and the proof that this device reproduces them.

use crate::artifact::InputSpec;
use crate::error::{Error, HeaderFault};
use crate::input::Input;
use crate::kernels::KernelTable;
use crate::model::Model;
use crate::session::Session;
use crate::state::State;

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv1a_on(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// 64-bit FNV-1a.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_on(FNV_START, bytes)
}

/// Runs the golden input step by step and returns the 64-bit FNV-1a of all outputs' little-endian bits.
pub fn fingerprint(model: &Model<'_>, kernels: &'static KernelTable, state: &mut [u8], scratch: &mut [u8]) -> Result<u64, Error> {
    let inconsistent = Error::Header(HeaderFault::Inconsistent);
    let golden = model.header().golden;
    let mut state = State::new(model, state)?;
    let mut session = Session::new(model, kernels, &mut state, scratch)?;
    let (words, _) = golden.input.as_chunks::<4>();
    let mut hash = FNV_START;
    let mut add = |outputs: &[f32]| {
        for y in outputs {
            hash = fnv1a_on(hash, &y.to_bits().to_le_bytes());
        }
    };
    match model.header().input {
        InputSpec::Tokens { .. } => {
            for &word in words.iter().take(golden.steps as usize) {
                add(session.step(Input::Token(u32::from_le_bytes(word)))?);
            }
        }
        InputSpec::Frames { .. } => {
            let channels = model.channels().filter(|&c| c > 0).ok_or(inconsistent)?;
            for frame in words.chunks_exact(channels).take(golden.steps as usize) {
                add(session.step_stored(frame)?);
            }
        }
    }
    Ok(hash)
}

/// Proves that this device computes what the file says, bit for bit. `state` and `scratch` are only borrowed for the test.
pub fn self_test(model: &Model<'_>, kernels: &'static KernelTable, state: &mut [u8], scratch: &mut [u8]) -> Result<(), Error> {
    let want = model.header().golden.fingerprint;
    let got = fingerprint(model, kernels, state, scratch)?;
    if want == got { Ok(()) } else { Err(Error::SelfTest { want, got }) }
}
