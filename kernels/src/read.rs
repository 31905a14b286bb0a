//! The yardstick for memory: reads bytes and does as little as possible with them.

/// Reads every byte once, as wide as this CPU can, and returns a sum that keeps the reads from being left out.
///
/// A step cannot touch its weights faster than this. `bytes` should start on a 64-byte boundary, as weights do.
pub fn read_all(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if let Some(sum) = crate::x86::read::read_all(bytes) {
        return sum;
    }
    sum::<16>(bytes)
}

/// The sum of whole blocks of `N` words, in `N` sums that do not wait for each other; what is left over is not read.
#[inline(always)]
pub(crate) fn sum<const N: usize>(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; N];
    for block in bytes.as_chunks::<8>().0.as_chunks::<N>().0 {
        for i in 0..N {
            sums[i] = sums[i].wrapping_add(u64::from_le_bytes(block[i]));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_word_counts() {
        let bytes: std::vec::Vec<u8> = (0..512u64).flat_map(|i| (i * i).to_le_bytes()).collect();
        let want: u64 = (0..512).map(|i| i * i).sum();
        assert_eq!(super::read_all(&bytes), want);
        assert_eq!(super::sum::<16>(&bytes), want);
    }
}
