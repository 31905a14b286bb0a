//! A periodic interrupt from SysTick, in place of a sensor's pin; and the time since it began.

use brooklet_app::Clock;
use core::cell::Cell;
use core::sync::atomic::{AtomicU32, Ordering};
use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use critical_section::Mutex;

/// Rate of SysTick: the core's clock.
#[cfg(any(board = "mps2-an385", board = "mps2-an386", board = "mps2-an500"))]
const CLOCK_HZ: u32 = 25_000_000;
#[cfg(board = "mps2-an505")]
const CLOCK_HZ: u32 = 20_000_000;
#[cfg(board = "mps3-an547")]
const CLOCK_HZ: u32 = 32_000_000;
#[cfg(board = "microbit")]
const CLOCK_HZ: u32 = 16_000_000;

static ON_TICK: Mutex<Cell<Option<fn()>>> = Mutex::new(Cell::new(None));
static TICKS: AtomicU32 = AtomicU32::new(0);

/// Calls `on_tick` from an interrupt `rate_hz` times a second.
///
/// # Panics
///
/// When called twice: there is one SysTick.
pub fn start_ticks(rate_hz: u16, on_tick: fn()) -> Uptime {
    let mut timer = cortex_m::Peripherals::take().expect("ticks start once").SYST;
    critical_section::with(|cs| ON_TICK.borrow(cs).set(Some(on_tick)));
    let reload = CLOCK_HZ / u32::from(rate_hz.max(2)) - 1;
    timer.set_clock_source(SystClkSource::Core);
    timer.set_reload(reload);
    timer.clear_current();
    timer.enable_counter();
    timer.enable_interrupt();
    Uptime { reload }
}

/// Sleeps until there was an interrupt.
pub fn wait_for_interrupt() {
    cortex_m::asm::wfi();
}

/// The core's clock since the ticks began.
pub struct Uptime {
    reload: u32,
}

impl Clock for Uptime {
    fn ticks(&self) -> u32 {
        loop {
            let before = TICKS.load(Ordering::Relaxed);
            let left = SYST::get_current();
            if TICKS.load(Ordering::Relaxed) == before {
                return before.wrapping_mul(self.reload + 1).wrapping_add(self.reload.saturating_sub(left));
            }
        }
    }

    fn rate_hz(&self) -> u32 {
        CLOCK_HZ
    }
}

#[cortex_m_rt::exception]
fn SysTick() {
    // Only this interrupt writes it, so a load and a store are enough: ARMv6-M has nothing more.
    TICKS.store(TICKS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    if let Some(on_tick) = critical_section::with(|cs| ON_TICK.borrow(cs).get()) {
        on_tick();
    }
}
