//! From C's pointers to Rust's slices: what can be checked is checked, the rest is the caller's promise.

use crate::Status;

/// A stretch of the caller's memory.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    at: usize,
    bytes: usize,
}

impl Extent {
    /// NULL has no memory, whatever the count: it is answered as NULL, not as an overlap with a file at address 0.
    pub(crate) fn of<T>(pointer: *const T, count: usize) -> Self {
        Extent { at: pointer.addr(), bytes: if pointer.is_null() { 0 } else { count.saturating_mul(size_of::<T>()) } }
    }

    fn overlaps(self, other: Extent) -> bool {
        self.bytes > 0 && other.bytes > 0 && self.at < other.at.saturating_add(other.bytes) && other.at < self.at.saturating_add(self.bytes)
    }
}

/// Refuses buffers that share memory, and lengths that no memory has.
pub(crate) fn apart(one: Extent, others: &[Extent]) -> Result<(), Status> {
    if others.iter().chain([&one]).any(|extent| extent.bytes > isize::MAX as usize) {
        Err(Status::TooLong)
    } else if others.iter().any(|&other| one.overlaps(other)) {
        Err(Status::Overlap)
    } else {
        Ok(())
    }
}

/// Refuses what cannot be a slice of `count` values at `pointer`.
fn check<T>(pointer: *const T, count: usize) -> Result<(), Status> {
    if pointer.is_null() {
        Err(Status::NullPointer)
    } else if !pointer.is_aligned() {
        Err(Status::NumberAlignment)
    } else if count.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        Err(Status::TooLong)
    } else {
        Ok(())
    }
}

/// `count` values to read.
///
/// # Safety
///
/// If `pointer` is neither NULL nor misaligned, `count` values can be read there, and nobody writes to them during `'a`.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, count: usize) -> Result<&'a [T], Status> {
    check(pointer, count)?;
    // SAFETY: not NULL, aligned and of a possible length by `check`; readable and unchanged by this function's contract.
    Ok(unsafe { core::slice::from_raw_parts(pointer, count) })
}

/// `count` values to read and write.
///
/// # Safety
///
/// If `pointer` is neither NULL nor misaligned, `count` values can be read and written there, and nobody else touches them
/// during `'a`.
pub(crate) unsafe fn slice_mut<'a, T>(pointer: *mut T, count: usize) -> Result<&'a mut [T], Status> {
    check(pointer, count)?;
    // SAFETY: not NULL, aligned and of a possible length by `check`; ours alone by this function's contract.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, count) })
}

/// A struct of the caller's.
///
/// # Safety
///
/// If `pointer` is neither NULL nor misaligned, a `T` can be read there, and nobody writes to it during `'a`.
pub(crate) unsafe fn handle<'a, T>(pointer: *const T) -> Result<&'a T, Status> {
    check_handle(pointer)?;
    // SAFETY: not NULL and aligned by `check_handle`; readable and unchanged by this function's contract.
    Ok(unsafe { &*pointer })
}

/// A struct of the caller's, to change.
///
/// # Safety
///
/// If `pointer` is neither NULL nor misaligned, a `T` can be read and written there, and nobody else touches it during `'a`.
pub(crate) unsafe fn handle_mut<'a, T>(pointer: *mut T) -> Result<&'a mut T, Status> {
    check_handle(pointer)?;
    // SAFETY: not NULL and aligned by `check_handle`; ours alone by this function's contract.
    Ok(unsafe { &mut *pointer })
}

/// Refuses what cannot be the address of a struct.
pub(crate) fn check_handle<T>(pointer: *const T) -> Result<(), Status> {
    if pointer.is_null() {
        Err(Status::NullPointer)
    } else if !pointer.is_aligned() {
        Err(Status::HandleAlignment)
    } else {
        Ok(())
    }
}
