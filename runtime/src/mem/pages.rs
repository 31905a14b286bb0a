//! Memory for streams on a host.

use super::Line;
use std::io;
use std::ops::{Deref, DerefMut};

/// Zeroed memory straight from the operating system, in large pages where it has them: a state of many megabytes is there sooner, and a
/// step finds its way through it with fewer look-ups.
///
/// ```
/// use brooklet::{Line, mem::Pages};
/// let mut pages = Pages::zeroed(100)?;
/// assert!(Line::bytes_mut(&mut pages).len() >= 100);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Pages(memmap2::MmapMut);

impl Pages {
    /// `bytes` zeros or a few more, from the boundary of a page on.
    pub fn zeroed(bytes: usize) -> io::Result<Self> {
        // An empty map is none.
        let len = bytes.max(1).checked_next_multiple_of(size_of::<Line>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = memmap2::MmapMut::map_anon(len)?;
        // A wish: a system without large pages may refuse.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Pages(map))
    }
}

impl Deref for Pages {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [Line] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Pages};

    #[test]
    fn any_size_is_zeroed_or_refused() {
        for bytes in [0, 1, 64, 65, 5 << 20] {
            let mut pages = Pages::zeroed(bytes).unwrap();
            assert!(pages.len() * 64 >= bytes && pages.len() * 64 < bytes + 64 + usize::from(bytes == 0));
            assert!(Line::bytes(&pages).iter().all(|&byte| byte == 0));
            Line::bytes_mut(&mut pages).fill(1);
        }
        assert!(Pages::zeroed(usize::MAX).is_err() && Pages::zeroed(usize::MAX / 2).is_err());
    }
}
