//! All kernels, loaded once for a model.

use crate::device::Device;
use crate::error::Error;
use crate::launch::{
    Attention, DiagSsm, Elementwise, Gates, Input, Matmul, MatmulFloat, Matvec, Memory, Moe, Multiply, Norm, Round, Route, SelectiveScan,
    StateSpaceDual, Walk,
};
use crate::model::Arithmetic;

/// All kernels, one launcher for each source.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub(crate) attention: Attention,
    pub(crate) diag_ssm: DiagSsm,
    pub(crate) elementwise: Elementwise,
    pub(crate) gates: Gates,
    pub(crate) input: Input,
    pub(crate) matmul: Matmul,
    pub(crate) matmul_float: MatmulFloat,
    pub(crate) matvec: Matvec,
    pub(crate) memory: Memory,
    pub(crate) moe: Moe,
    pub(crate) multiply: Multiply,
    pub(crate) norm: Norm,
    pub(crate) round: Round,
    pub(crate) route: Route,
    pub(crate) walk: Walk,
    /// Dual recurrences of prefills in an order of their own, for [`Arithmetic::Fast`] alone.
    pub(crate) fast_ssd: Option<StateSpaceDual>,
    /// Selective scans of prefills, the same.
    pub(crate) fast_scan: Option<SelectiveScan>,
}

impl Kernels {
    pub(crate) fn load(device: &Device, arithmetic: Arithmetic) -> Result<Self, Error> {
        Ok(Kernels {
            attention: Attention::load(device)?,
            diag_ssm: DiagSsm::load(device)?,
            elementwise: Elementwise::load(device)?,
            gates: Gates::load(device)?,
            input: Input::load(device)?,
            matmul: Matmul::load(device)?,
            matmul_float: MatmulFloat::load(device)?,
            matvec: Matvec::load(device)?,
            memory: Memory::load(device)?,
            moe: Moe::load(device)?,
            multiply: Multiply::load(device)?,
            norm: Norm::load(device)?,
            round: Round::load(device)?,
            route: Route::load(device)?,
            walk: Walk::load(device)?,
            fast_ssd: if arithmetic == Arithmetic::Fast { Some(StateSpaceDual::load(device)?) } else { None },
            fast_scan: if arithmetic == Arithmetic::Fast { Some(SelectiveScan::load(device)?) } else { None },
        })
    }
}
