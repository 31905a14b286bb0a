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
    pub fn iter(&self) -> impl Iterator<Item = Option<T>> + Clone + use<'a, T> {
        let mut rest = Some(self.bytes);
        (0..self.count).map_while(move |_| {
            let bytes = rest?;
            match postcard::take_from_bytes(bytes) {
                Ok((record, after)) => {
                    rest = Some(after);
                    Some(Some(record))
                }
                Err(_) => {
                    rest = None;
                    Some(None)
                }
            }
        })
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
