//! A step and nothing else. Never run: the linker drops what the entry does not reach, so whatever is left, a step can reach.
#![no_std]
#![no_main]

use brooklet::{Input, Session, kernels, softmax};
use core::hint::black_box;

/// The linker's entry.
#[unsafe(no_mangle)]
fn _start(session: &mut Session<'_, '_, '_>, input: Input<'_>, tokens: &[u32], frames: &[f32], probabilities: &mut [f32]) {
    // The session's table of kernels, which is called through pointers, is some table that can be had.
    black_box(kernels::detect());
    black_box(session.step(input)).ok();
    black_box(session.prefill_tokens(tokens)).ok();
    black_box(session.prefill_frames(frames)).ok();
    softmax(probabilities);
    session.reset();
    #[cfg(feature = "planted-panic")]
    black_box(tokens[black_box(frames.len())]);
    #[cfg(feature = "planted-allocation")]
    black_box(malloc(black_box(frames.len())));
}

/// Stands for an allocator.
#[cfg(feature = "planted-allocation")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn malloc(bytes: usize) -> *mut u8 {
    black_box(bytes) as *mut u8
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
