//! Which tables this CPU can run.

use crate::table::KernelTable;

/// The reference: runs everywhere.
pub(crate) static PORTABLE: KernelTable = REFERENCE;
/// The same, for back-ends that replace some of its kernels.
pub(crate) const REFERENCE: KernelTable = compile_table!("portable", crate::quant::expand_q4);

/// Every table this CPU can run, slowest first; the first is the portable one.
pub fn available() -> impl Iterator<Item = &'static KernelTable> {
    let tables = [
        Some(&PORTABLE),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx2(),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx512(),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx512_vnni(),
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
