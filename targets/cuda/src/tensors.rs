//! A model's tensors on the GPU: the file's sections as they are, uploaded or read where they lie, and a table of its matrices.

use crate::arena::{Address, Arena, Layout};
use crate::device::Device;
use crate::error::Error;
use crate::registered::Registered;
use brooklet::Model;
use brooklet::artifact::{Content, Section};
use brooklet::kernels::quant::{Format, GROUP};
use cudarc::driver::DeviceRepr;

/// `struct Matrix` of `kernels/src/cuda/matrix.cuh`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Matrix {
    /// The section's bytes.
    pub bytes: Address,
    /// Rows: outputs.
    pub rows: u32,
    /// Columns: inputs.
    pub cols: u32,
    /// Format, by [`format_number`].
    pub format: u32,
    /// Groups of 32 columns.
    pub groups: u32,
}

// SAFETY: the same fields in the same order as the kernels' struct, which is checked below.
unsafe impl DeviceRepr for Matrix {}

const _: () = assert!(size_of::<Matrix>() == 24);

/// A format as kernels know it: `enum Format` of `matrix.cuh`.
pub fn format_number(format: Format) -> u32 {
    match format {
        Format::F32 => 0,
        Format::F16 => 1,
        Format::Q8 => 2,
        Format::Q4 => 3,
        Format::Q3 => 4,
        Format::Q5 => 5,
        Format::Q6 => 6,
        Format::T2 => 7,
    }
}

/// A section on the GPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor {
    pub(crate) address: Address,
    pub(crate) rows: u32,
    pub(crate) cols: u32,
    pub(crate) content: Content,
}

/// All tensors of a model.
#[derive(Debug)]
pub(crate) struct Tensors {
    /// Keeps the memory.
    arena: Arena,
    /// Keeps the file's bytes, if they are read where they lie.
    registered: Option<Registered>,
    tensors: Vec<Tensor>,
    matrices: Address,
}

impl Tensors {
    /// Uploads everything but the tokenizer, or has the GPU read the file where it lies, if that is wanted and can be.
    pub(crate) fn new(device: &Device, model: &Model<'_>, in_place: bool) -> Result<Self, Error> {
        let registered = if in_place { Registered::new(device, model).ok() } else { None };
        let artifact = model.artifact();
        let sections: Vec<_> = (0..model.header().sections.count).filter_map(|id| artifact.section(id)).collect();
        let mut layout = Layout::default();
        let bytes_of = |section: &Section| artifact.bytes_of(section).unwrap_or_default();
        // Kernels take places of four bytes: those of two become that, wherever the file lies.
        let bytes_there = |(id, section): (u32, &Section)| match artifact.places(id) {
            Some(places) => places.len() * size_of::<u32>(),
            None if registered.is_some() || section.content.is_tokenizer() => 0,
            None => bytes_of(section).len(),
        };
        let places: Vec<_> = (0..).zip(&sections).map(|section| layout.add(bytes_there(section) as u64)).collect();
        let table = layout.add((size_of::<Matrix>() * sections.len().max(1)) as u64);
        let mut arena = Arena::new(device, &layout)?;
        let mut tensors = Vec::with_capacity(sections.len());
        let mut matrices = Vec::with_capacity(sections.len());
        for (id, (section, &place)) in (0..).zip(sections.iter().zip(&places)) {
            match artifact.places(id) {
                Some(places) => arena.upload(place, &places.iter().collect::<Vec<u32>>())?,
                None if place.bytes() > 0 => arena.upload(place, bytes_of(section))?,
                None => {}
            }
            let address = match &registered {
                Some(registered) if place.bytes() == 0 => registered.address(bytes_of(section)),
                _ => arena.address(place),
            };
            let tensor = Tensor { address, rows: section.rows, cols: section.cols, content: section.content };
            tensors.push(tensor);
            matrices.push(match section.content.format() {
                Some(format) => Matrix {
                    bytes: tensor.address,
                    rows: tensor.rows,
                    cols: tensor.cols,
                    format: format_number(format),
                    groups: tensor.cols.div_ceil(GROUP as u32),
                },
                None => Matrix::default(),
            });
        }
        if !matrices.is_empty() {
            arena.upload(table, &matrices)?;
        }
        device.wait()?;
        let matrices = arena.address(table);
        Ok(Tensors { arena, registered, tensors, matrices })
    }

    /// Whether the GPU reads the file where it lies.
    pub(crate) fn are_in_place(&self) -> bool {
        self.registered.is_some()
    }

    /// Bytes on the GPU.
    pub(crate) fn bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// The table of matrices, one for each section.
    pub(crate) fn matrices(&self) -> Address {
        self.matrices
    }

    /// A section. The program was checked: what it names is there.
    pub(crate) fn get(&self, id: u32) -> Tensor {
        self.tensors[id as usize]
    }

    /// Where a section lies.
    pub(crate) fn address(&self, id: u32) -> Address {
        self.get(id).address
    }

    /// Where an optional section lies, or null.
    pub(crate) fn maybe(&self, id: Option<u32>) -> Address {
        id.map_or(Address::NULL, |id| self.address(id))
    }

    /// Where the places lie of the rows of the table that begins in section `first`; null if its rows are in order.
    pub(crate) fn places_of(&self, first: u32) -> Address {
        let before = first.checked_sub(1).map(|id| self.get(id));
        before.filter(|tensor| tensor.content == Content::Places).map_or(Address::NULL, |tensor| tensor.address)
    }

    /// A matrix's format.
    pub(crate) fn format(&self, id: u32) -> Format {
        self.get(id).content.format().unwrap_or(Format::F32)
    }
}
