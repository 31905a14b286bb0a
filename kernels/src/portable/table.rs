//! The portable kernels as a table: the reference, and what back-ends fall back on.

use crate::table::KernelTable;

/// The reference: runs everywhere.
pub(crate) static PORTABLE: KernelTable = REFERENCE;
/// The same, for back-ends that replace some of its kernels.
pub(crate) const REFERENCE: KernelTable = compile_table!("portable", crate::quant::expand_q4, crate::portable::stored::Half);
