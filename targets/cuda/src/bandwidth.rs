//! The yardstick for memory: how fast the GPU copies.

use crate::arena::{Arena, Layout};
use crate::device::Device;
use crate::error::Error;
use cudarc::driver::sys;

/// Bytes of a copy: more than the caches hold.
const COPY_BYTES: u64 = 512 << 20;
/// Copies, of which the median counts.
const RUNS: usize = 15;

/// Bytes per second that a large copy inside the GPU reads and writes, counted both ways. A step cannot touch its weights faster.
pub fn copy_bytes_per_second(device: &Device) -> Result<f64, Error> {
    let free = device.memory_bytes()?.0;
    let bytes = COPY_BYTES.min(free / 4).next_multiple_of(4096);
    let mut layout = Layout::default();
    let (from, to) = (layout.add(bytes), layout.add(bytes));
    let mut arena = Arena::new(device, &layout)?;
    arena.clear(from)?;
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let mark = || device.stream().record_event(flags).map_err(Error::driver("recording an event"));
    let mut seconds = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let before = mark()?;
        arena.copy(from, to)?;
        let after = mark()?;
        device.wait()?;
        seconds.push(f64::from(before.elapsed_ms(&after).map_err(Error::driver("reading a timer"))?) / 1e3);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(2.0 * bytes as f64 / seconds[RUNS / 2])
}
