//! Which tables this CPU can run.

use crate::table::KernelTable;
#[cfg(cortex_m_dsp)]
use crate::{
    quant::Matrix,
    table::{Activations, Outputs},
};

/// The reference: runs everywhere.
static PORTABLE: KernelTable = REFERENCE;
const REFERENCE: KernelTable = compile_table!("portable", crate::quant::expand_q4);

/// A Cortex-M core with the DSP extension: the target says so, nothing is to be asked.
#[cfg(cortex_m_dsp)]
static DSP: KernelTable = {
    fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: Outputs<'_>) {
        crate::thumb::matmul(matrix, x, out, &PORTABLE);
    }
    KernelTable { name: "cortex-m dsp", matmul, quantize_activations: round_by_dsp, ..REFERENCE }
};

#[cfg(cortex_m_dsp)]
fn round_by_dsp(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    crate::thumb::quantize_activations(x, codes, scales, sums, &PORTABLE);
}

/// A Cortex-M core with Helium.
#[cfg(cortex_m_helium)]
static HELIUM: KernelTable = {
    fn matmul(matrix: &Matrix<'_>, x: Activations<'_>, out: Outputs<'_>) {
        crate::thumb::helium::matmul(matrix, x, out, &PORTABLE);
    }
    KernelTable { name: "cortex-m helium", matmul, quantize_activations: round_by_dsp, ..REFERENCE }
};

/// Every table this CPU can run, slowest first; the first is the portable one.
pub fn available() -> impl Iterator<Item = &'static KernelTable> {
    let tables = [
        Some(&PORTABLE),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx2(),
        #[cfg(all(target_arch = "x86_64", feature = "std"))]
        crate::x86::avx512(),
        #[cfg(cortex_m_dsp)]
        Some(&DSP),
        #[cfg(cortex_m_helium)]
        Some(&HELIUM),
    ];
    tables.into_iter().flatten()
}

/// The fastest table this CPU can run.
pub fn detect() -> &'static KernelTable {
    available().last().unwrap_or(&PORTABLE)
}
