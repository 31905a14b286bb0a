//! The latest frames of a stream, to warm a fresh state up with.

/// A ring of the latest frames, in memory of the caller's: `frames * channels` numbers.
///
/// Where memory survives a reset (a section that start-up code does not clear), so can this.
///
/// ```
/// use brooklet_device::Recent;
/// let mut memory = [0.0; 6];
/// let mut recent = Recent::new(&mut memory, 2); // room for 3 frames of 2 channels
/// for step in 0..5 {
///     recent.push(&[step as f32, -1.0]);
/// }
/// assert_eq!(recent.frames().map(|frame| frame[0]).collect::<Vec<_>>(), [2.0, 3.0, 4.0]);
/// ```
#[derive(Debug)]
pub struct Recent<'m> {
    /// (capacity, channels)
    memory: &'m mut [f32],
    channels: usize,
    next: usize,
    len: usize,
}

impl<'m> Recent<'m> {
    /// An empty ring.
    pub fn new(memory: &'m mut [f32], channels: usize) -> Self {
        Recent { memory, channels, next: 0, len: 0 }
    }

    /// Frames it has room for.
    pub fn capacity(&self) -> usize {
        self.memory.len().checked_div(self.channels).unwrap_or(0)
    }

    /// Frames it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes a frame, (channels), for the oldest one; frames of another width are let go.
    pub fn push(&mut self, frame: &[f32]) {
        let capacity = self.capacity();
        let at = self.next * self.channels;
        if let Some(place) = self.memory.get_mut(at..at + self.channels)
            && frame.len() == place.len()
            && capacity > 0
        {
            place.copy_from_slice(frame);
            self.next = (self.next + 1) % capacity;
            self.len = (self.len + 1).min(capacity);
        }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The frames, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = &[f32]> {
        let capacity = self.capacity().max(1);
        let oldest = self.next + capacity - self.len;
        (0..self.len).filter_map(move |i| {
            let at = (oldest + i) % capacity * self.channels;
            self.memory.get(at..at + self.channels)
        })
    }

    /// Numbers in a frame.
    pub fn channels(&self) -> usize {
        self.channels
    }
}
