//! Neighbouring operations in one launch, as `fuse` finds them.

use crate::arena::Address;
use crate::batch::Batch;
use crate::error::Error;
use crate::fuse::{Before, Behind, Fused};
use crate::launch::{After, Entering, EnteringKind, Matvec, Product};
use crate::model::CudaModel;
use crate::queue::Context;
use brooklet::ops::{self, Linear, NormKind, Op};

impl CudaModel<'_> {
    /// What enters the product of neighbours, and where it goes; what a convolution behind it does is not in it.
    fn parts(&self, fused: &Fused, batch: &Batch) -> (Entering, Product) {
        let (matrix, Linear { bias, x, out, .. }) = (self.tensors.get(fused.linear.w), fused.linear);
        let mut from = Entering { x: batch.operand(x.at), stride: batch.stride, z_stride: batch.stride, ..Entering::default() };
        match &fused.before {
            Before::Nothing => {}
            Before::SiluMultiply(silu) => (from.kind, from.z) = (EnteringKind::SiluMultiply, batch.operand(silu.y.at)),
            Before::Norm(norm) => {
                from.x = batch.operand(norm.x.at);
                (from.kind, from.z) = match norm.gate {
                    Some(gate) => (EnteringKind::GatedRms, batch.operand(gate.z.at)),
                    None => (EnteringKind::Rms, Address::NULL),
                };
                (from.weight, from.norm_groups, from.eps) = (self.tensors.maybe(norm.weight), norm.groups, norm.eps);
                from.eps_outside = u32::from(norm.kind == NormKind::RmsEpsOutside);
            }
        }
        let mut product = Product {
            matrix: matrix.address,
            bias: self.tensors.maybe(bias),
            residual: Address::NULL,
            out: batch.operand(out.at),
            gate: batch.gate,
            rows: matrix.rows,
            cols: matrix.cols,
            out_stride: batch.stride,
            residual_stride: batch.stride,
            scale: 1.0,
        };
        if let Behind::Add(add) = &fused.behind {
            (product.out, product.residual, product.scale) = (batch.operand(add.x.at), batch.operand(add.x.at), add.scale);
        }
        (from, product)
    }

    /// Whether a kernel takes neighbours in one launch, on the one token of each stream.
    pub(crate) fn takes(&self, fused: &Fused, batch: &Batch) -> bool {
        let (from, product) = self.parts(fused, batch);
        self.kernels.matvec.takes(&self.device, self.tensors.format(fused.linear.w), batch.streams, &from, &product)
    }

    /// Queues the recurrence before the neighbours, with the gate of their norm.
    pub(crate) fn gated_ssd(&self, ssd: &ops::Ssd, fused: &Fused, batch: &Batch) -> Result<(), Error> {
        let mut shape = self.ssd(ssd);
        if let Before::Norm(norm) = &fused.before {
            (shape.z, shape.has_gate) = (norm.gate.map_or(0, |gate| gate.z.at), u32::from(norm.gate.is_some()));
        }
        self.kernels.walk.ssd(&self.device, batch, &shape)
    }

    /// Queues neighbours in one launch, on the one token of each stream; a recurrence before them has run already, with the gate.
    pub(crate) fn fused(&self, fused: &Fused, batch: &Batch) -> Result<(), Error> {
        let (mut from, product) = self.parts(fused, batch);
        if fused.recurrence.is_some() {
            from.kind = EnteringKind::Rms;
        }
        let after = match &fused.behind {
            Behind::Nothing | Behind::Add(_) => After::default(),
            Behind::Conv1d(op) => {
                let shape = self.conv(op);
                After {
                    conv_weight: shape.weight,
                    conv_bias: shape.bias,
                    conv_state: batch.state.plus(shape.slot),
                    conv_state_stride: batch.state_stride,
                    conv_first: shape.x - fused.linear.out.at,
                    conv_channels: shape.channels,
                    taps: shape.taps,
                    has_silu: u32::from(shape.silu),
                    cap: 0.0,
                }
            }
        };
        self.kernels.matvec.run(&self.device, self.tensors.format(fused.linear.w), batch.streams, &from, &product, &after)
    }

    /// Queues neighbours for many rows: what enters is made and rounded in one launch, what the product is added to in another. `false` if they must
    /// run one by one.
    pub(crate) fn fused_rows(&self, fused: &Fused, context: &Context<'_>) -> Result<bool, Error> {
        let Context { batch, room, .. } = context;
        let (rows, format) = (batch.rows(), self.tensors.format(fused.linear.w));
        if rows <= Matvec::MOST_VECTORS {
            return Ok(false);
        }
        let (from, product) = self.parts(fused, batch);
        let rounded = Error::is_taken(self.kernels.round.run(&self.device, rows, &from, product.cols, room.rounded, batch.gate))?;
        let from = Entering::rounded(room.rounded);
        if !rounded || !Error::is_taken(self.kernels.matmul.run(&self.device, format, rows, &from, &product, room.spread))? {
            return Ok(false);
        }
        if let Behind::Conv1d(op) = &fused.behind {
            self.op(&Op::Conv1d(*op), context)?;
        }
        Ok(true)
    }
}
