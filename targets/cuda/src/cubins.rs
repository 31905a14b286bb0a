//! Archives of compiled kernels, one for each source: `build_cubins.py` writes them and describes their bytes.

use crate::error::Error;
use std::io::Read;

/// Added to the architecture of entries that are text for the driver's own compiler.
const PTX: u32 = 1000;
/// The text's architecture: every GPU from this one on can be compiled for.
const PTX_FROM: u32 = 80;

/// What to load on a GPU.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Machine code.
    Cubin(Vec<u8>),
    /// Text, without its closing zero.
    Ptx(Vec<u8>),
}

/// The code in a packed archive for a GPU of this compute capability: machine code of the same generation, the nearest that is not
/// newer, else text. `None` if the GPU is older than all of it.
pub(crate) fn code_for(archive: &[u8], (major, minor): (i32, i32)) -> Result<Option<Code>, Error> {
    let damaged = |what| Error::Archive { what };
    let mut bytes = Vec::new();
    flate2::read::ZlibDecoder::new(archive).read_to_end(&mut bytes).map_err(|_| damaged("it cannot be unpacked"))?;
    let word = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let count = word(0).ok_or(damaged("it is too short"))? as usize;
    let capability = u32::try_from(10 * major + minor).unwrap_or(0);
    let mut at = 8 + 8 * count;
    let mut best: Option<(u32, &[u8])> = None;
    for entry in 0..count {
        let (architecture, len) = word(8 + 8 * entry).zip(word(12 + 8 * entry)).ok_or(damaged("it is too short"))?;
        let code = bytes.get(at..at + len as usize).ok_or(damaged("an entry is too short"))?;
        at += len as usize;
        let fits = match architecture.checked_sub(PTX) {
            Some(from) => capability >= from,
            None => architecture / 10 == capability / 10 && architecture <= capability,
        };
        // Machine code goes before text, newer before older.
        let rank = |architecture: u32| (architecture < PTX, architecture);
        if fits && best.is_none_or(|(other, _)| rank(architecture) > rank(other)) {
            best = Some((architecture, code));
        }
    }
    debug_assert!(best.is_some() || capability < PTX_FROM);
    Ok(best.map(|(architecture, code)| match architecture {
        PTX.. => Code::Ptx(code.strip_suffix(&[0]).unwrap_or(code).to_vec()),
        _ => Code::Cubin(code.to_vec()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORM: &[u8] = include_bytes!("cubins/norm.bin");

    #[test]
    fn every_gpu_gets_code_of_its_own_generation() {
        for capability in [(8, 0), (8, 6), (8, 7), (8, 8), (8, 9), (9, 0), (12, 0), (12, 1)] {
            let code = code_for(NORM, capability).unwrap().unwrap();
            assert!(matches!(&code, Code::Cubin(bytes) if bytes.starts_with(b"\x7fELF")), "{capability:?}");
        }
        let kinds = [(8, 6), (8, 7), (8, 9)].map(|capability| code_for(NORM, capability).unwrap());
        assert!(kinds[0] != kinds[1] && kinds[1] != kinds[2]);
    }

    #[test]
    fn a_gpu_of_the_future_gets_text_and_an_old_one_nothing() {
        let Some(Code::Ptx(text)) = code_for(NORM, (13, 0)).unwrap() else { panic!("no text") };
        assert!(String::from_utf8(text).unwrap().contains(".target sm_80"));
        assert_eq!(code_for(NORM, (7, 5)).unwrap(), None);
    }

    #[test]
    fn damaged_archives_are_refused() {
        assert!(code_for(&NORM[..NORM.len() / 2], (9, 0)).is_err());
        assert!(code_for(b"", (9, 0)).is_err());
    }
}
