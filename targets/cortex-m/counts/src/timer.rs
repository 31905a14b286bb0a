//! A counter of instructions. Under `-icount shift=7` an instruction takes 128 ns of the machine's time, several ticks of every
//! board's timer, so that the number of ticks tells the number of instructions exactly.

/// Nanoseconds per instruction: 2^7, see `run.sh`.
const NS_PER_INSTRUCTION: u64 = 128;

/// Instructions that `work` executes, the call included.
pub fn instructions<R>(work: impl FnOnce() -> R) -> (u64, R) {
    let empty = registers::now().wrapping_sub(registers::now()) & registers::MASK;
    let before = registers::now();
    let result = work();
    let ticks = before.wrapping_sub(registers::now()) & registers::MASK;
    (to_instructions(ticks).saturating_sub(to_instructions(empty)), result)
}

fn to_instructions(ticks: u32) -> u64 {
    let per_instruction = NS_PER_INSTRUCTION * registers::HZ;
    (u64::from(ticks) * 1_000_000_000 + per_instruction / 2) / per_instruction
}

pub use registers::start;

/// The core's SysTick: 24 bits, 4 million instructions.
#[cfg(board = "mps3-an547")]
mod registers {
    pub const HZ: u64 = 32_000_000;
    pub const MASK: u32 = 0x00ff_ffff;
    const SYST: *mut u32 = 0xE000_E010 as *mut u32;

    pub fn start() {
        // SAFETY: SysTick's control, reload and value registers; nobody else uses them.
        unsafe {
            SYST.add(1).write_volatile(MASK);
            SYST.add(2).write_volatile(0);
            SYST.write_volatile(5);
        }
    }

    #[inline(always)]
    pub fn now() -> u32 {
        // SAFETY: as above; reading has no effect.
        unsafe { SYST.add(2).read_volatile() }
    }
}

/// The boards' CMSDK timer 0: 32 bits.
#[cfg(not(board = "mps3-an547"))]
mod registers {
    pub const HZ: u64 = if cfg!(board = "mps2-an505") { 20_000_000 } else { 25_000_000 };
    pub const MASK: u32 = u32::MAX;
    const TIMER: *mut u32 = if cfg!(board = "mps2-an505") { 0x5000_0000 } else { 0x4000_0000 } as *mut u32;

    pub fn start() {
        // SAFETY: control, value and reload of the board's timer 0; nobody else uses it.
        unsafe {
            TIMER.write_volatile(0);
            TIMER.add(2).write_volatile(u32::MAX);
            TIMER.add(1).write_volatile(u32::MAX);
            TIMER.write_volatile(1);
        }
    }

    #[inline(always)]
    pub fn now() -> u32 {
        // SAFETY: as above; reading has no effect.
        unsafe { TIMER.add(1).read_volatile() }
    }
}
