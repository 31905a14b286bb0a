//! The square root: correctly rounded everywhere, so its bits are the same everywhere.

/// Square root of `x`.
#[inline(always)]
pub(crate) fn sqrt(x: f32) -> f32 {
    #[cfg(all(target_arch = "arm", target_abi = "eabihf"))]
    {
        let mut bits = x.to_bits();
        // SAFETY: every processor of the hard-float ABI has these instructions, and s0 holds afterwards what it held before.
        // (Naming it as an operand would need a target feature that stable compilers do not know.)
        unsafe {
            core::arch::asm!(
                "vmov {kept}, s0",
                "vmov s0, {bits}",
                "vsqrt.f32 s0, s0",
                "vmov {bits}, s0",
                "vmov s0, {kept}",
                kept = out(reg) _,
                bits = inout(reg) bits,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        f32::from_bits(bits)
    }
    // An instruction on x86 and aarch64; elsewhere integer steps.
    #[cfg(not(all(target_arch = "arm", target_abi = "eabihf")))]
    libm::sqrtf(x)
}
