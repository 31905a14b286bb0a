//! A periodic interrupt from RISC-V's machine timer, in place of a sensor's pin; and the time.

use crate::register;
use brooklet_app::Clock;
use core::cell::Cell;
use critical_section::Mutex;
use riscv::interrupt::Interrupt;
use riscv::register::{mie, time};

/// Rate of the machine timer.
const CLOCK_HZ: u32 = 10_000_000;
/// The first core's `mtimecmp`.
const COMPARE: usize = 0x0200_4000;

/// What to call, the time of the next call, and the time between calls.
static ON_TICK: Mutex<Cell<Option<(fn(), u64, u32)>>> = Mutex::new(Cell::new(None));

/// Calls `on_tick` from an interrupt `rate_hz` times a second.
pub fn start_ticks(rate_hz: u16, on_tick: fn()) -> Uptime {
    let period = CLOCK_HZ / u32::from(rate_hz.max(2));
    let next = time::read64() + u64::from(period);
    critical_section::with(|cs| ON_TICK.borrow(cs).set(Some((on_tick, next, period))));
    set_compare(next);
    // SAFETY: what the handler works with is in place, and no critical section is open.
    unsafe {
        mie::set_mtimer();
        riscv::interrupt::enable();
    }
    Uptime(())
}

/// Sleeps until there was an interrupt.
pub fn wait_for_interrupt() {
    riscv::asm::wfi();
}

/// The machine timer.
pub struct Uptime(());

impl Clock for Uptime {
    fn ticks(&self) -> u32 {
        time::read() as u32
    }

    fn rate_hz(&self) -> u32 {
        CLOCK_HZ
    }
}

#[riscv_rt::core_interrupt(Interrupt::MachineTimer)]
fn machine_timer() {
    let tick = critical_section::with(|cs| {
        let tick = ON_TICK.borrow(cs).get();
        ON_TICK.borrow(cs).set(tick.map(|(on_tick, now, period)| (on_tick, now + u64::from(period), period)));
        tick
    });
    if let Some((on_tick, now, period)) = tick {
        set_compare(now + u64::from(period));
        on_tick();
    }
}

/// Two halves: the upper one out of reach while the lower one changes, so that no interrupt comes between.
fn set_compare(moment: u64) {
    register::write(COMPARE + 4, u32::MAX);
    register::write(COMPARE, moment as u32);
    register::write(COMPARE + 4, (moment >> 32) as u32);
}
