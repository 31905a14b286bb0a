//! A model on a GPU: its weights there, its program decoded, the kernels that run it. Shared by any number of sessions.

use crate::device::Device;
use crate::error::Error;
use crate::kernels::Kernels;
use crate::needs::Needs;
use crate::program::{Node, nodes};
use crate::tensors::Tensors;
use brooklet::Model;
use brooklet::artifact::{Slot, SlotKind};
use brooklet::ops::Op;

/// Which of two kernels runs where there are two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// The CPU's order of sums and its elementary functions: the CPU's bits, in steps and prefills.
    #[default]
    Exact,
    /// Whatever order is fastest: integer products stay exact, sums of floats differ in their last bits.
    Fast,
}

/// A model's weights and program on a GPU.
#[derive(Debug)]
pub struct CudaModel<'m> {
    pub(crate) device: Device,
    pub(crate) model: Model<'m>,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) tensors: Tensors,
    pub(crate) kernels: Kernels,
    pub(crate) program: Vec<Node>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) needs: Needs,
}

impl<'m> CudaModel<'m> {
    /// Uploads a model, for the CPU's bits.
    pub fn new(device: &Device, model: &Model<'m>) -> Result<Self, Error> {
        Self::with(device, model, Arithmetic::Exact)
    }

    /// Uploads a model. A GPU that shares the processor's memory reads the weights where they lie, if its driver can.
    pub fn with(device: &Device, model: &Model<'m>, arithmetic: Arithmetic) -> Result<Self, Error> {
        Self::placed(device, model, arithmetic, device.is_integrated())
    }

    /// The same with the weights read where they lie on any GPU that can: slower wherever the bus is. [`CudaModel::is_in_place`] tells.
    pub fn in_place(device: &Device, model: &Model<'m>, arithmetic: Arithmetic) -> Result<Self, Error> {
        Self::placed(device, model, arithmetic, true)
    }

    fn placed(device: &Device, model: &Model<'m>, arithmetic: Arithmetic, in_place: bool) -> Result<Self, Error> {
        let device = device.clone();
        let header = model.header();
        let kernels = Kernels::load(&device, arithmetic)?;
        // The header was checked when the model was loaded: every record can be decoded.
        let ops: Vec<Op> = header.program.iter().flatten().collect();
        let slots = (0..header.slots.count).filter_map(|slot| header.slots.get(slot)).collect();
        let tensors = Tensors::new(&device, model, in_place)?;
        let mut needs = Needs::default();
        for (index, op) in (0..).zip(&ops) {
            needs.add(index, op, &tensors)?;
        }
        let program = nodes(&ops, &tensors);
        Ok(CudaModel { device, model: *model, arithmetic, tensors, kernels, program, slots, needs })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Which kernels run.
    pub fn arithmetic(&self) -> Arithmetic {
        self.arithmetic
    }

    /// The GPU.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether the GPU reads the weights where they lie in the processor's memory.
    pub fn is_in_place(&self) -> bool {
        self.tensors.are_in_place()
    }

    /// Bytes of weights on the GPU.
    pub fn weights_bytes(&self) -> u64 {
        self.tensors.bytes()
    }

    pub(crate) fn slot(&self, id: u32) -> Slot {
        self.slots[id as usize]
    }

    pub(crate) fn is_half(&self, id: u32) -> u32 {
        u32::from(self.slot(id).kind == SlotKind::NumbersF16)
    }
}
