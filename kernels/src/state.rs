//! A recurrent state as it is kept from token to token: `f32`, or rounded to half precision.

use crate::rows::RowsMut;

/// Rows of a recurrent state, to change.
#[derive(Debug)]
pub enum StateMut<'a> {
    /// As they are.
    F32(RowsMut<'a>),
    /// In half precision, as bits: read, computed with in `f32`, and rounded after every token.
    #[cfg(feature = "narrow-states")]
    F16(RowsMut<'a, u16>),
}

impl Default for StateMut<'_> {
    /// No rows.
    #[cfg_attr(feature = "std", inline)]
    fn default() -> Self {
        StateMut::F32(RowsMut::default())
    }
}

impl<'a> StateMut<'a> {
    /// The rows in single precision; `None` if they are in another.
    #[inline]
    pub fn into_f32(self) -> Option<RowsMut<'a>> {
        match self {
            StateMut::F32(rows) => Some(rows),
            #[cfg(feature = "narrow-states")]
            StateMut::F16(_) => None,
        }
    }

    /// Bytes from its beginning to that of `behind`, whichever comes first in memory: to be added with wrapping.
    #[inline]
    pub fn bytes_to(&self, behind: &StateMut<'_>) -> usize {
        let start = |state: &StateMut<'_>| match state {
            StateMut::F32(rows) => rows.row(0).as_ptr().addr(),
            #[cfg(feature = "narrow-states")]
            StateMut::F16(rows) => rows.row(0).as_ptr().addr(),
        };
        start(behind).wrapping_sub(start(self))
    }

    /// The same for a shorter time.
    #[inline]
    pub fn reborrow(&mut self) -> StateMut<'_> {
        match self {
            StateMut::F32(rows) => StateMut::F32(rows.reborrow()),
            #[cfg(feature = "narrow-states")]
            StateMut::F16(rows) => StateMut::F16(rows.reborrow()),
        }
    }

    /// Takes the first `count` rows away; `None` if there are not as many.
    #[inline]
    pub fn take_rows(&mut self, count: usize) -> Option<StateMut<'a>> {
        match self {
            StateMut::F32(rows) => rows.take_rows(count).map(StateMut::F32),
            #[cfg(feature = "narrow-states")]
            StateMut::F16(rows) => rows.take_rows(count).map(StateMut::F16),
        }
    }

    /// Takes the first `count` columns away; `None` if there are not as many.
    #[inline]
    pub fn take_columns(&mut self, count: usize) -> Option<StateMut<'a>> {
        match self {
            StateMut::F32(rows) => rows.take_columns(count).map(StateMut::F32),
            #[cfg(feature = "narrow-states")]
            StateMut::F16(rows) => rows.take_columns(count).map(StateMut::F16),
        }
    }
}

/// Runs `$run` with the rows of a [`StateMut`]: `$stored` names how they are stored, `$half` those in half precision.
macro_rules! with_rows {
    ($state:expr, $half:ty, |$rows:ident, $stored:ident| $run:expr) => {
        match $state {
            $crate::state::StateMut::F32($rows) => {
                type $stored = $crate::portable::stored::Whole;
                $run
            }
            #[cfg(feature = "narrow-states")]
            $crate::state::StateMut::F16($rows) => {
                type $stored = $half;
                $run
            }
        }
    };
}
