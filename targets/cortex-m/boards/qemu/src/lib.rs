//! A machine that QEMU emulates: its entry point, its console, and how it ends.
#![no_std]

pub mod model {
    //! The model in this board's flash.
    include!(concat!(env!("OUT_DIR"), "/model.rs"));
}

pub mod recording {
    //! The recording in this board's flash.
    include!(concat!(env!("OUT_DIR"), "/recording.rs"));
}

#[cfg(target_arch = "riscv32")]
mod clint;
mod register;
#[cfg(target_arch = "arm")]
mod systick;
mod uart;

#[cfg(target_arch = "riscv32")]
pub use clint::{Uptime, start_ticks, wait_for_interrupt};
#[cfg(target_arch = "arm")]
pub use cortex_m_rt::entry;
#[cfg(target_arch = "riscv32")]
pub use riscv_rt::entry;
#[cfg(target_arch = "arm")]
pub use systick::{Uptime, start_ticks, wait_for_interrupt};
pub use uart::Uart;

/// Ends the emulation with an exit status, 0 for success.
pub fn exit(status: i32) -> ! {
    semihosting::process::exit(status)
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = core::fmt::Write::write_fmt(&mut Uart::console(), format_args!("{info}\n"));
    exit(101)
}
