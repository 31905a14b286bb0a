//! Views of rows of numbers that lie at a distance from each other: the operands of several tokens, the state of some channels.
//!
//! Working memory is a matrix `(tokens, stride)` of which an operand is a few columns, and a recurrent state a matrix whose columns
//! are channels. Kernels work on columns, and threads on different columns of the same rows: a slice cannot say that, these views can.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;

/// Rows to read, `(rows, width)`, one every `stride` numbers.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// For every row `r`: the `width` numbers from `first + r * stride` may be read for `'a`.
    first: *const f32,
    rows: usize,
    width: usize,
    stride: usize,
    borrowed: PhantomData<&'a [f32]>,
}

/// Rows to change, `(rows, width)`, one every `stride` numbers.
pub struct RowsMut<'a, T = f32> {
    /// For every row `r`: nobody else reads or writes the `width` numbers from `first + r * stride` for `'a`.
    first: *mut T,
    rows: usize,
    width: usize,
    stride: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: a view stands for shared slices of `f32`, which may be read from any thread.
unsafe impl Send for Rows<'_> {}
// SAFETY: as above.
unsafe impl Sync for Rows<'_> {}
// SAFETY: a view stands for exclusive slices, which may be handed to another thread if what is in them may.
unsafe impl<T: Send> Send for RowsMut<'_, T> {}
// SAFETY: a shared view only gives out shared slices.
unsafe impl<T: Sync> Sync for RowsMut<'_, T> {}

/// Whether `rows` rows of `width` at `stride` fit into `len` numbers and do not overlap.
#[inline]
fn fits(rows: usize, width: usize, stride: usize, len: usize) -> bool {
    let Some(before) = rows.checked_sub(1) else { return true };
    let end = before.checked_mul(stride).and_then(|last| last.checked_add(width));
    end.is_some_and(|end| end <= len) && (before == 0 || width <= stride)
}

/// Whether ranges lie below `width` and none overlaps another.
#[cfg_attr(feature = "std", inline)]
fn are_apart(ranges: &[Range<usize>], width: usize) -> bool {
    ranges.iter().enumerate().all(|(i, range)| {
        let overlaps = |other: &Range<usize>| range.start < other.end && other.start < range.end;
        range.start <= range.end && range.end <= width && !ranges.iter().take(i).any(overlaps)
    })
}

impl<'a> Rows<'a> {
    /// The first `width` numbers of every `stride` in `data`, `rows` times; `None` if there are not as many.
    #[inline]
    pub fn new(data: &'a [f32], rows: usize, width: usize, stride: usize) -> Option<Self> {
        fits(rows, width, stride, data.len()).then_some(Rows { first: data.as_ptr(), rows, width, stride, borrowed: PhantomData })
    }

    /// Number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    #[inline]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Numbers from the start of a row to the next.
    #[inline]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`; empty if there is none.
    #[inline]
    pub fn row(&self, r: usize) -> &'a [f32] {
        if r >= self.rows {
            return &[];
        }
        // SAFETY: the row exists, and the view may read it for `'a`.
        unsafe { core::slice::from_raw_parts(self.first.add(r * self.stride), self.width) }
    }

    /// The rows `range` alone; `None` if the view does not have them.
    #[inline]
    pub fn some_rows(&self, range: Range<usize>) -> Option<Rows<'a>> {
        if range.start > range.end || range.end > self.rows {
            return None;
        }
        // `wrapping_add`: behind the last row a view without rows may stand anywhere.
        Some(Rows { first: self.first.wrapping_add(range.start * self.stride), rows: range.end - range.start, ..*self })
    }

    /// The same rows, fewer columns; `None` if the view does not have them.
    #[inline]
    pub fn columns(&self, range: Range<usize>) -> Option<Rows<'a>> {
        if range.start > range.end || range.end > self.width {
            return None;
        }
        // `wrapping_add`: a view without rows may stand anywhere.
        Some(Rows { first: self.first.wrapping_add(range.start), width: range.end - range.start, ..*self })
    }
}

impl<T> Default for RowsMut<'_, T> {
    /// No rows.
    #[inline]
    fn default() -> Self {
        RowsMut { first: core::ptr::NonNull::dangling().as_ptr(), rows: 0, width: 0, stride: 0, borrowed: PhantomData }
    }
}

impl<'a, T> RowsMut<'a, T> {
    /// The first `width` numbers of every `stride` in `data`, `rows` times; `None` if there are not as many.
    #[inline]
    pub fn new(data: &'a mut [T], rows: usize, width: usize, stride: usize) -> Option<Self> {
        fits(rows, width, stride, data.len()).then_some(RowsMut { first: data.as_mut_ptr(), rows, width, stride, borrowed: PhantomData })
    }

    /// Number of rows.
    #[inline]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    #[inline]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Numbers from the start of a row to the next.
    #[inline]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`; empty if there is none.
    #[inline]
    pub fn row(&self, r: usize) -> &[T] {
        if r >= self.rows {
            return &[];
        }
        // SAFETY: the row exists, and while the view is borrowed nobody changes it.
        unsafe { core::slice::from_raw_parts(self.first.add(r * self.stride), self.width) }
    }

    /// Row `r`, to change; empty if there is none.
    #[inline]
    pub fn row_mut(&mut self, r: usize) -> &mut [T] {
        if r >= self.rows {
            return &mut [];
        }
        // SAFETY: the row exists, nobody else has it, and this view is borrowed as long as the slice lives.
        unsafe { core::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.width) }
    }

    /// The first `N` rows, to change side by side; `None` if there are not as many.
    #[inline]
    pub fn first_rows<const N: usize>(&mut self) -> Option<[&mut [T]; N]> {
        if N > self.rows {
            return None;
        }
        // SAFETY: the rows exist and do not overlap, nobody else has them, and this view is borrowed as long as the slices live.
        Some(core::array::from_fn(|r| unsafe { core::slice::from_raw_parts_mut(self.first.add(r * self.stride), self.width) }))
    }

    /// The same view for a shorter time.
    #[inline]
    pub fn reborrow(&mut self) -> RowsMut<'_, T> {
        RowsMut { borrowed: PhantomData, ..*self }
    }

    /// Takes the first `count` columns away from the view; `None` if it has not as many.
    #[inline]
    pub fn take_columns(&mut self, count: usize) -> Option<RowsMut<'a, T>> {
        let rest = self.width.checked_sub(count)?;
        let taken = RowsMut { width: count, ..*self };
        // What is taken is no longer in this view.
        (self.first, self.width) = (self.first.wrapping_add(count), rest);
        Some(taken)
    }

    /// Takes the first `count` rows away from the view; `None` if it has not as many.
    #[inline]
    pub fn take_rows(&mut self, count: usize) -> Option<RowsMut<'a, T>> {
        let rest = self.rows.checked_sub(count)?;
        let taken = RowsMut { rows: count, ..*self };
        // What is taken is no longer in this view.
        (self.first, self.rows) = (self.first.wrapping_add(count * self.stride), rest);
        Some(taken)
    }

    /// Several ranges of columns; `None` if the view does not have them, or if two of them overlap.
    #[inline]
    pub fn columns<const N: usize>(self, ranges: [Range<usize>; N]) -> Option<[RowsMut<'a, T>; N]> {
        if !are_apart(&ranges, self.width) {
            return None;
        }
        Some(ranges.map(|range| RowsMut { first: self.first.wrapping_add(range.start), width: range.end - range.start, ..self }))
    }
}

impl<'a> RowsMut<'a> {
    /// The same rows, to read.
    #[inline]
    pub fn into_rows(self) -> Rows<'a> {
        Rows { first: self.first, rows: self.rows, width: self.width, stride: self.stride, borrowed: PhantomData }
    }
}

impl fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rows({} x {} every {})", self.rows, self.width, self.stride)
    }
}

impl<T> fmt::Debug for RowsMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowsMut({} x {} every {})", self.rows, self.width, self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_rows() {
        let mut data: [f32; 12] = core::array::from_fn(|i| i as f32);
        let rows = Rows::new(&data, 3, 3, 4).unwrap();
        assert_eq!((rows.row(0), rows.row(2), rows.row(3)), (&data[..3], &data[8..11], &[][..]));
        assert_eq!(rows.columns(1..3).unwrap().row(1), &data[5..7]);
        assert!(rows.columns(2..4).is_none());
        assert_eq!((rows.some_rows(1..3).unwrap().row(1), rows.some_rows(3..3).unwrap().rows()), (&data[8..11], 0));
        assert!(rows.some_rows(2..4).is_none());
        let whole = RowsMut::new(&mut data, 3, 4, 4).unwrap();
        let [mut left, right] = whole.columns([0..1, 2..4]).unwrap();
        left.row_mut(2)[0] = right.row(2)[1];
        assert_eq!(data[8], 11.0);
        let mut rest = RowsMut::new(&mut data, 3, 4, 4).unwrap();
        let mut first = rest.take_columns(1).unwrap();
        assert_eq!((first.row_mut(1), rest.row_mut(1)), (&mut [4.0][..], &mut [5.0, 6.0, 7.0][..]));
        let mut rest = RowsMut::new(&mut data, 3, 2, 4).unwrap();
        let mut first = rest.take_rows(1).unwrap();
        assert_eq!((first.row(0), first.row(1), rest.row(1)), (&[0.0, 1.0][..], &[][..], &[11.0, 9.0][..]));
        first.row_mut(0)[0] = rest.row_mut(0)[0];
        assert!(rest.take_rows(3).is_none() && rest.take_rows(2).is_some() && rest.rows() == 0);
        assert_eq!(data[0], 4.0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut data = [0.0; 12];
        assert!(Rows::new(&data, 3, 4, 4).is_some() && Rows::new(&data, 3, 5, 4).is_none() && Rows::new(&data, 4, 1, 4).is_none());
        assert!(Rows::new(&data, usize::MAX, 1, usize::MAX).is_none() && Rows::new(&data, 0, 9, 1).is_some());
        assert!(RowsMut::new(&mut data, 3, 4, 4).unwrap().columns([0..2, 1..3]).is_none());
        assert!(RowsMut::new(&mut data, 3, 4, 4).unwrap().columns([0..1, 4..5]).is_none());
        assert!(RowsMut::new(&mut data, 3, 4, 4).unwrap().take_columns(5).is_none());
    }
}
