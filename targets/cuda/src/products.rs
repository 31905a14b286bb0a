//! Products: which kernel takes which.

use crate::arena::Address;
use crate::batch::Batch;
use crate::error::Error;
use crate::launch::{After, Entering, Matvec, Outcome, Product, Vectors, Which};
use crate::model::CudaModel;
use crate::program::Node;
use crate::queue::Room;
use crate::tensors::Tensor;
use brooklet::ops::{Op, Span};

/// A product of one matrix for all rows.
struct OneMatrix {
    product: Product,
    /// Numbers from one vector to the next.
    x_stride: u32,
}

impl CudaModel<'_> {
    /// Queues the head on `rows` rows of frames from `x` on, so many numbers apart.
    pub(crate) fn head(&self, batch: &Batch, room: &Room, first: Address, rows: u32, row_stride: u64) -> Result<(), Error> {
        let (head, cap) = match self.program.last() {
            Some(Node::One(_, Op::Head(head))) => (head, 0.0),
            Some(Node::One(_, Op::CappedHead(capped))) => (&capped.head, capped.cap),
            _ => return Ok(()),
        };
        let x = Vectors { at: first.plus(4 * u64::from(head.x.at)), row_stride, pick_stride: 0, picks: 1 };
        let places = self.tensors.places_of(head.w);
        let in_order = places == Address::NULL;
        let mut outcome = Outcome {
            out: if in_order { room.output } else { room.made },
            bias: self.tensors.maybe(head.bias),
            row_stride: self.model.outputs() as u64,
            pick_stride: 0,
            scale: head.scale,
            cap,
        };
        // Each section makes some of the outputs.
        for piece in head.pieces(self.model.artifact()) {
            self.product(batch, room, rows, piece, Address::NULL, &x, &outcome)?;
            let bytes = 4 * u64::from(self.tensors.get(piece).rows);
            outcome.out = outcome.out.plus(bytes);
            if outcome.bias != Address::NULL {
                outcome.bias = outcome.bias.plus(bytes);
            }
        }
        if in_order {
            return Ok(());
        }
        self.kernels.input.into_order(&self.device, rows, room.made, places, self.model.outputs() as u32, room.output)
    }

    /// Whether the head's rows lie in another order than its outputs.
    pub(crate) fn has_places(&self) -> bool {
        let Some(Node::One(_, op)) = self.program.last() else { return false };
        op.head().is_some_and(|head| self.tensors.places_of(head.w) != Address::NULL)
    }

    /// Queues a product with the matrix `id`, or with the one that each row has chosen from there on.
    pub(crate) fn product(
        &self,
        batch: &Batch,
        room: &Room,
        rows: u32,
        id: u32,
        chosen: Address,
        x: &Vectors,
        to: &Outcome,
    ) -> Result<(), Error> {
        let (matrix, format) = (self.tensors.get(id), self.tensors.format(id));
        let one_matrix = quantized_product(batch, matrix, chosen, x, to).filter(|_| format.is_quantized());
        // What the kernels of one matrix do not take, the general kernel does.
        if let (Some(product), true) = (&one_matrix, rows <= Matvec::MOST_VECTORS) {
            let from = Entering { x: x.at, stride: product.x_stride, ..Entering::default() };
            let after = After { cap: to.cap, ..After::default() };
            if Error::is_taken(self.kernels.matvec.run(&self.device, format, rows, &from, &product.product, &after))? {
                return Ok(());
            }
        }
        // Experts may differ in format: then the rounded vectors are there for those that take them.
        if chosen != Address::NULL || format.is_quantized() {
            self.kernels.multiply.round(&self.device, batch, rows, x, matrix.cols, room.rounded)?;
        }
        if let Some(product) = one_matrix.filter(|_| to.cap == 0.0) {
            let from = Entering::rounded(room.rounded);
            if Error::is_taken(self.kernels.matmul.run(&self.device, format, rows, &from, &product.product, room.spread))? {
                return Ok(());
            }
        }
        let which = Which { matrices: self.tensors.matrices(), id, chosen, rows: matrix.rows };
        if Error::is_taken(self.kernels.matmul_float.run(&self.device, batch, rows, format, &which, x, to))? {
            return Ok(());
        }
        self.kernels.multiply.run(&self.device, batch, rows, &which, x, room.rounded, to)
    }

    /// Queues `out <- w * x + bias` on all rows of the batch.
    pub(crate) fn linear(&self, batch: &Batch, room: &Room, w: u32, bias: Option<u32>, x: Span, out: Span) -> Result<(), Error> {
        let row_stride = u64::from(batch.stride);
        let x = Vectors { at: batch.operand(x.at), row_stride, pick_stride: 0, picks: 1 };
        let bias = self.tensors.maybe(bias);
        let outcome = Outcome { out: batch.operand(out.at), bias, row_stride, pick_stride: 0, scale: 1.0, cap: 0.0 };
        self.product(batch, room, batch.rows(), w, Address::NULL, &x, &outcome)
    }
}

/// A product for the kernels of one quantized matrix: not where rows choose theirs.
fn quantized_product(batch: &Batch, matrix: Tensor, chosen: Address, x: &Vectors, to: &Outcome) -> Option<OneMatrix> {
    let product = Product {
        matrix: matrix.address,
        bias: to.bias,
        residual: Address::NULL,
        out: to.out,
        gate: batch.gate,
        rows: matrix.rows,
        cols: matrix.cols,
        out_stride: u32::try_from(to.row_stride).ok()?,
        residual_stride: 0,
        scale: to.scale,
    };
    let x_stride = u32::try_from(x.row_stride).ok()?;
    (chosen == Address::NULL && x.picks == 1).then_some(OneMatrix { product, x_stride })
}
