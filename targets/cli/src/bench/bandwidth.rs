//! How fast this machine reads memory: the bound that a step is measured against.

use brooklet::{Line, kernels};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

/// Far more than any cache holds.
const BUFFER_BYTES: usize = 256 << 20;

/// A buffer that is read over and over.
pub(crate) struct Memory {
    lines: Vec<Line>,
}

impl Memory {
    pub(crate) const BYTES: usize = BUFFER_BYTES;

    pub(crate) fn new() -> Self {
        // Pages that were never written would all be one page of zeros.
        Memory { lines: (0..BUFFER_BYTES / size_of::<Line>()).map(|i| Line([i as u8; 64])).collect() }
    }

    /// Reads the buffer once, each thread its own part.
    pub(crate) fn read(&self, threads: usize) -> Duration {
        let start = Instant::now();
        let mut parts = self.lines.chunks(self.lines.len().div_ceil(threads.max(1)));
        let own = parts.next().unwrap_or_default();
        thread::scope(|scope| {
            for part in parts {
                scope.spawn(|| black_box(kernels::read_all(Line::bytes(part))));
            }
            black_box(kernels::read_all(Line::bytes(own)));
        });
        start.elapsed()
    }
}
