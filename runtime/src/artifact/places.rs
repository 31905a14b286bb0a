//! Where the rows of a table lie that are not in the order of tokens or outputs.

/// The row of token or output `i` of a table is row `get(i)`, counted through its pieces. Numbers are of two bytes where these are enough for every row.
#[derive(Clone, Copy, Debug)]
pub enum Places<'a> {
    /// Of at most [`Places::SHORT`] rows.
    Short(&'a [u16]),
    /// Of more.
    Long(&'a [u32]),
}

impl Places<'_> {
    /// Rows that two bytes are enough for.
    pub const SHORT: usize = 1 << 16;

    /// Bytes of each of so many.
    pub const fn bytes_each(rows: usize) -> usize {
        if rows <= Self::SHORT { 2 } else { 4 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Places::Short(places) => places.len(),
            Places::Long(places) => places.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where row `i` lies.
    pub fn get(&self, i: usize) -> Option<u32> {
        match self {
            Places::Short(places) => places.get(i).map(|&place| u32::from(place)),
            Places::Long(places) => places.get(i).copied(),
        }
    }

    /// Where each lies, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}
