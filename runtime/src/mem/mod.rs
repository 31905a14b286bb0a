//! Aligned memory without `unsafe`: callers bring bytes, the runtime views them as numbers.

#[cfg(all(feature = "std", target_os = "linux"))]
mod code;
#[cfg(feature = "team")]
mod handout;
#[cfg(feature = "std")]
mod map;
#[cfg(feature = "std")]
mod pages;
#[cfg(feature = "std")]
mod pool;

use crate::Error;
use bytemuck::{AnyBitPattern, NoUninit, Pod, Zeroable};

#[cfg(all(feature = "std", target_os = "linux"))]
pub use code::forget_code;
#[cfg(feature = "team")]
pub(crate) use handout::Handout;
#[cfg(feature = "std")]
pub use map::MappedFile;
#[cfg(feature = "std")]
pub use pages::Pages;
#[cfg(feature = "std")]
pub use pool::Pool;

/// 64 bytes on a 64-byte boundary: the unit to allocate state and scratch in.
///
/// ```
/// use brooklet::Line;
/// let mut lines = [Line::ZERO; 4];
/// assert_eq!(Line::bytes_mut(&mut lines).len(), 256);
/// ```
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [u8; 64]);

impl Line {
    /// A line of zeros.
    pub const ZERO: Line = Line([0; 64]);

    /// The bytes of several lines.
    pub fn bytes_mut(lines: &mut [Line]) -> &mut [u8] {
        bytemuck::cast_slice_mut(lines)
    }

    /// The bytes of several lines.
    pub fn bytes(lines: &[Line]) -> &[u8] {
        bytemuck::cast_slice(lines)
    }
}

/// Copies `bytes` to aligned memory; the last line is filled up with zeros, so cut it back to `bytes.len()`.
#[cfg(feature = "alloc")]
pub fn lines_from(bytes: &[u8]) -> alloc::vec::Vec<Line> {
    let mut lines = alloc::vec![Line::ZERO; bytes.len().div_ceil(64)];
    Line::bytes_mut(&mut lines)[..bytes.len()].copy_from_slice(bytes);
    lines
}

/// Alignment that state and scratch need.
pub const BUFFER_ALIGN: usize = 16;

/// Checks that `bytes` has at least `needed` bytes on a 16-byte boundary, and cuts it to them.
pub(crate) fn aligned<'a>(what: &'static str, bytes: &'a mut [u8], needed: usize) -> Result<&'a mut [u8], Error> {
    if bytes.as_ptr().align_offset(BUFFER_ALIGN) != 0 {
        return Err(Error::Alignment { what, align: BUFFER_ALIGN as u32 });
    }
    let have = bytes.len();
    bytes.get_mut(..needed).ok_or(Error::BufferTooSmall { what, needed_bytes: needed as u64, have_bytes: have as u64 })
}

/// Takes `count` numbers off the front of `bytes`, leaving the rest on a 16-byte boundary.
pub(crate) fn take<'a, T: NoUninit + AnyBitPattern>(bytes: &mut &'a mut [u8], count: usize) -> Option<&'a mut [T]> {
    let len = count.checked_mul(size_of::<T>())?.checked_next_multiple_of(BUFFER_ALIGN)?;
    let (head, rest) = core::mem::take(bytes).split_at_mut_checked(len)?;
    *bytes = rest;
    numbers_mut(head)?.get_mut(..count)
}

/// Copies numbers; `None` if there are not as many places.
///
/// `copy_from_slice` would panic, and the optimiser cannot see that the plan has compared the lengths.
pub(crate) fn copy<T: Copy>(to: &mut [T], from: &[T]) -> Option<()> {
    (to.len() == from.len()).then(|| to.copy_from_slice(from))
}

/// Views bytes as numbers; `None` if they are not aligned for it.
pub(crate) fn numbers_mut<T: NoUninit + AnyBitPattern>(bytes: &mut [u8]) -> Option<&mut [T]> {
    bytemuck::try_cast_slice_mut(bytes).ok()
}

/// Views bytes as numbers; `None` if they are not aligned for it.
pub(crate) fn numbers<T: AnyBitPattern>(bytes: &[u8]) -> Option<&[T]> {
    bytemuck::try_cast_slice(bytes).ok()
}
