//! Counts instructions on an emulated Cortex-M: of matrix products, and of whole steps. `run.sh` builds and runs it.
#![no_std]
#![no_main]

mod memory;
mod products;
mod steps;
mod timer;

use cortex_m_semihosting::{debug, hprintln};

#[cortex_m_rt::entry]
fn main() -> ! {
    static mut ARENA: memory::Arena = memory::Arena([brooklet::Line::ZERO; 3072]);
    let arena = ARENA;
    timer::start();
    products::count(arena);
    products::compare(arena);
    products::subnormals();
    steps::count(arena);
    debug::exit(debug::EXIT_SUCCESS);
    loop {}
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hprintln!("{}", info);
    debug::exit(debug::EXIT_FAILURE);
    loop {}
}
