//! [`crate::read_all`] in the widest registers.

use crate::read::sum;

/// `None` without AVX2: the portable loop is as good.
pub(crate) fn read_all(bytes: &[u8]) -> Option<u64> {
    if super::avx512().is_some() {
        // SAFETY: the CPU has AVX-512: it was just asked.
        return Some(unsafe { read_avx512(bytes) });
    }
    // SAFETY: the CPU has AVX2: it was just asked.
    super::avx2().map(|_| unsafe { read_avx2(bytes) })
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn read_avx512(bytes: &[u8]) -> u64 {
    sum::<64>(bytes)
}

#[target_feature(enable = "avx2")]
fn read_avx2(bytes: &[u8]) -> u64 {
    sum::<32>(bytes)
}
