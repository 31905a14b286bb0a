//! Sequences inside the header, decoded one record at a time without memory.

use core::marker::PhantomData;
use serde::{Deserialize, Serialize};

/// A sequence of postcard records.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Table<'a, T> {
    /// Number of records.
    pub count: u32,
    /// The records, one behind the other.
    #[serde(borrow)]
    pub bytes: &'a [u8],
    #[serde(skip)]
    record: PhantomData<T>,
}

/// A record whose encoding always takes the same number of bytes, so that the `i`-th can be found.
pub trait Record {
    /// Its encoded size.
    const BYTES: usize;
}

impl<'a, T> Table<'a, T> {
    /// A table over encoded records.
    pub fn new(count: u32, bytes: &'a [u8]) -> Self {
        Table { count, bytes, record: PhantomData }
    }
}

impl<'a, T: Deserialize<'a>> Table<'a, T> {
    /// The records in order; ends early with `None` inside at the first that cannot be decoded.
    pub fn iter(&self) -> Records<'a, T> {
        Records { left: self.count, rest: Some(self.bytes), record: PhantomData }
    }

    /// Whether `count` records take up exactly the bytes.
    pub fn is_whole(&self) -> bool {
        let mut rest = self.bytes;
        for _ in 0..self.count {
            match postcard::take_from_bytes::<T>(rest) {
                Ok((_, after)) => rest = after,
                Err(_) => return false,
            }
        }
        rest.is_empty()
    }
}

impl<'a, T: Record + Deserialize<'a>> Table<'a, T> {
    /// Record `index`, found by its place.
    pub fn get(&self, index: u32) -> Option<T> {
        if index >= self.count {
            return None;
        }
        let at = usize::try_from(index).ok()?.checked_mul(T::BYTES)?;
        let bytes = self.bytes.get(at..at.checked_add(T::BYTES)?)?;
        postcard::from_bytes(bytes).ok()
    }
}

/// Records of a table, decoded as they are asked for.
#[derive(Debug)]
pub struct Records<'a, T> {
    left: u32,
    /// Bytes of what is left; `None` behind one that could not be decoded.
    rest: Option<&'a [u8]>,
    record: PhantomData<T>,
}

impl<T> Clone for Records<'_, T> {
    fn clone(&self) -> Self {
        Records { left: self.left, rest: self.rest, record: PhantomData }
    }
}

impl<'a, T> Records<'a, T> {
    /// Bytes of the records that are left.
    pub fn bytes_left(&self) -> usize {
        self.rest.map_or(0, <[u8]>::len)
    }

    /// Steps over the next `count` records, which take up `bytes`, without decoding them; returns them.
    pub fn split_off(&mut self, count: u32, bytes: u32) -> Option<Self> {
        let (block, rest) = self.rest?.split_at_checked(usize::try_from(bytes).ok()?)?;
        self.left = self.left.checked_sub(count)?;
        self.rest = Some(rest);
        Some(Records { left: count, rest: Some(block), record: PhantomData })
    }
}

impl<'a, T: Deserialize<'a>> Iterator for Records<'a, T> {
    type Item = Option<T>;

    fn next(&mut self) -> Option<Option<T>> {
        let bytes = self.rest?;
        self.left = self.left.checked_sub(1)?;
        let decoded = postcard::take_from_bytes(bytes);
        self.rest = decoded.as_ref().ok().map(|&(_, after)| after);
        Some(decoded.ok().map(|(record, _)| record))
    }
}
