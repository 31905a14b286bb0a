//! A step and nothing else. Never run: the linker drops what no root reaches, so a panic left in the ELF is one that a step can reach.
#![no_std]
#![no_main]

use brooklet::kernels::{self, KernelTable};
use brooklet::{Error, Input, Session};

/// Where a step begins. The table of kernels is called through pointers, so it has to be a root too.
#[expect(dead_code, reason = "only the linker looks at it")]
pub struct Roots {
    step: for<'s> fn(&'s mut Session<'_, '_, '_>, Input<'_>) -> Result<&'s [f32], Error>,
    prefill_tokens: for<'s> fn(&'s mut Session<'_, '_, '_>, &[u32]) -> Result<&'s [f32], Error>,
    prefill_frames: for<'s> fn(&'s mut Session<'_, '_, '_>, &[f32]) -> Result<&'s [f32], Error>,
    softmax: fn(&mut [f32]),
    kernels: fn() -> &'static KernelTable,
}

fn step<'s>(session: &'s mut Session<'_, '_, '_>, input: Input<'_>) -> Result<&'s [f32], Error> {
    session.step(input)
}
fn prefill_tokens<'s>(session: &'s mut Session<'_, '_, '_>, tokens: &[u32]) -> Result<&'s [f32], Error> {
    session.prefill_tokens(tokens)
}
fn prefill_frames<'s>(session: &'s mut Session<'_, '_, '_>, frames: &[f32]) -> Result<&'s [f32], Error> {
    session.prefill_frames(frames)
}

static ROOTS: Roots = Roots { step, prefill_tokens, prefill_frames, softmax: brooklet::softmax, kernels: kernels::detect };

/// The linker's entry.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> &'static Roots {
    &ROOTS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
