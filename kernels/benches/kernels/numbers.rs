//! Numbers that look like those of a model: speed does not depend on them, as long as none is denormal.

/// `count` numbers between -1 and 1, the same each time.
pub(crate) fn numbers(count: usize) -> Vec<f32> {
    (0..count as u32).map(|i| hash(i) as i32 as f32 / i32::MAX as f32).collect()
}

/// A multiplicative hash.
pub(crate) fn hash(i: u32) -> u32 {
    i.wrapping_add(1).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(0x85eb_ca6b)
}
