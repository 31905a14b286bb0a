//! What a panic does where no operating system is: nothing in a step panics, so getting here is a fault of the program.

use core::panic::PanicInfo;

/// Traps, so that the firmware's own fault handler or watchdog takes over.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        #[cfg(target_arch = "arm")]
        // SAFETY: an undefined instruction raises a fault; it touches neither memory nor registers.
        unsafe {
            core::arch::asm!("udf #0", options(nomem, nostack));
        }
        core::hint::spin_loop();
    }
}
