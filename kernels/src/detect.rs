//! Which tables this CPU can run.

use crate::portable::PORTABLE;
use crate::table::KernelTable;

/// Every table this CPU can run, slowest first; the first is the portable one.
pub fn available() -> impl Iterator<Item = &'static KernelTable> {
    let tables = [
        Some(&PORTABLE),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx2(),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx_vnni(),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx512(),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx512_vnni(),
        #[cfg(target_arch = "aarch64")]
        crate::aarch64::neon(),
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        crate::aarch64::dotprod(),
        #[cfg(all(target_arch = "aarch64", feature = "std"))]
        crate::aarch64::i8mm(),
        #[cfg(cortex_m_dsp)]
        Some(&crate::thumb::DSP),
        #[cfg(cortex_m_helium)]
        Some(&crate::thumb::HELIUM),
    ];
    tables.into_iter().flatten()
}

/// The fastest table this CPU can run.
pub fn detect() -> &'static KernelTable {
    available().last().unwrap_or(&PORTABLE)
}
