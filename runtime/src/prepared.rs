//! The program and what it refers to. Where there is a heap they are decoded once, when a session begins; a device decodes them as it
//! goes: a file's records are small, and its memory is smaller.

use crate::artifact::{Artifact, Places, Slot};
use crate::kernels::quant::{Format, Matrix};
use crate::model::Model;
use crate::ops::Op;

#[cfg(feature = "alloc")]
pub(crate) use decoded::{Ops, Prepared};
#[cfg(not(feature = "alloc"))]
pub(crate) use stored::{Ops, Prepared};

/// What operations look up in a model's file.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'b, 'a> {
    artifact: &'b Artifact<'a>,
    prepared: &'b Prepared<'a>,
}

impl<'b, 'a> Tensors<'b, 'a> {
    pub(crate) fn new(artifact: &'b Artifact<'a>, prepared: &'b Prepared<'a>) -> Self {
        Tensors { artifact, prepared }
    }

    /// Tensor `id` as a matrix, and its format.
    pub(crate) fn matrix(self, id: u32) -> Option<(Matrix<'a>, Format)> {
        self.prepared.matrix(self.artifact, id)
    }

    /// Tensor `id` as an array of `f32`.
    pub(crate) fn array(self, id: u32) -> Option<&'a [f32]> {
        self.prepared.array(self.artifact, id)
    }

    /// Tensor `id` as rotary turns.
    pub(crate) fn turns(self, id: u32) -> Option<&'a [u64]> {
        self.artifact.turns(id)
    }

    /// Where the rows lie of the table that begins with tensor `first`, if not in their order.
    pub(crate) fn places_of(self, first: u32) -> Option<Places<'a>> {
        self.artifact.places_of(first)
    }

    /// A slot of the state.
    pub(crate) fn slot(self, id: u32) -> Option<Slot> {
        self.prepared.slot(self.artifact, id)
    }
}

#[cfg(feature = "alloc")]
mod decoded {
    use super::{Artifact, Format, Matrix, Model, Op, Slot};
    use crate::artifact::Content;
    use alloc::vec::Vec;

    /// A model's header, decoded.
    #[derive(Debug)]
    pub(crate) struct Prepared<'a> {
        ops: Vec<Op>,
        tensors: Vec<Tensor<'a>>,
        slots: Vec<Slot>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Tensor<'a> {
        Matrix(Matrix<'a>, Format),
        Array(&'a [f32]),
        /// Few, or none of an operation's business.
        Other,
        /// To be looked up each time: while a file is still on its way, nobody waits for what is not needed yet.
        #[cfg(feature = "std")]
        Unread,
    }

    impl<'a> Prepared<'a> {
        pub(crate) fn new(model: &Model<'a>) -> Self {
            let artifact = model.artifact();
            let header = artifact.header();
            let tensor = |id| {
                #[cfg(feature = "std")]
                if !model.is_checked(id) {
                    return Some(Tensor::Unread);
                }
                let section = artifact.section(id)?;
                match section.content.format() {
                    Some(format) => Some(Tensor::Matrix(artifact.matrix(id)?, format)),
                    None if section.content == Content::Array => Some(Tensor::Array(artifact.array(id)?)),
                    None => None,
                }
            };
            // The header was checked: there are as many records as it says.
            let mut prepared = Prepared {
                ops: Vec::with_capacity(header.program.count as usize),
                tensors: (0..header.sections.count).map(|id| tensor(id).unwrap_or(Tensor::Other)).collect(),
                slots: Vec::with_capacity(header.slots.count as usize),
            };
            prepared.ops.extend(header.program.iter().map_while(|op| op));
            prepared.slots.extend((0..header.slots.count).map_while(|id| header.slots.get(id)));
            prepared
        }

        pub(crate) fn ops<'p>(&'p self, _: &Model<'a>) -> Ops<'p> {
            Ops(&self.ops)
        }

        pub(super) fn matrix(&self, _artifact: &Artifact<'a>, id: u32) -> Option<(Matrix<'a>, Format)> {
            match self.tensors.get(id as usize)? {
                Tensor::Matrix(matrix, format) => Some((*matrix, *format)),
                #[cfg(feature = "std")]
                Tensor::Unread => Some((_artifact.matrix(id)?, _artifact.section(id)?.content.format()?)),
                _ => None,
            }
        }

        pub(super) fn array(&self, _artifact: &Artifact<'a>, id: u32) -> Option<&'a [f32]> {
            match self.tensors.get(id as usize)? {
                Tensor::Array(array) => Some(array),
                #[cfg(feature = "std")]
                Tensor::Unread => _artifact.array(id),
                _ => None,
            }
        }

        pub(super) fn slot(&self, _: &Artifact<'a>, id: u32) -> Option<Slot> {
            self.slots.get(id as usize).copied()
        }
    }

    /// The operations that are left of a program.
    #[derive(Clone, Debug)]
    pub(crate) struct Ops<'p>(&'p [Op]);

    impl<'p> Ops<'p> {
        /// Steps over the next `count` operations and returns them.
        pub(crate) fn block(&mut self, count: u32, _: Option<u32>) -> Option<Ops<'p>> {
            let (block, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
            self.0 = rest;
            Some(Ops(block))
        }
    }

    impl<'p> Iterator for Ops<'p> {
        type Item = Option<&'p Op>;

        fn next(&mut self) -> Option<Self::Item> {
            let (op, rest) = self.0.split_first()?;
            self.0 = rest;
            Some(Some(op))
        }
    }
}

#[cfg(not(feature = "alloc"))]
mod stored {
    use super::{Artifact, Format, Matrix, Model, Op, Slot};
    use crate::artifact::Records;
    use core::marker::PhantomData;

    /// Nothing: the file is asked each time.
    #[derive(Debug)]
    pub(crate) struct Prepared<'a>(PhantomData<&'a ()>);

    impl<'a> Prepared<'a> {
        pub(crate) fn new(_: &Model<'a>) -> Self {
            Prepared(PhantomData)
        }

        pub(crate) fn ops<'p>(&'p self, model: &Model<'a>) -> Ops<'p> {
            Ops(model.header().program.iter())
        }

        pub(super) fn matrix(&self, artifact: &Artifact<'a>, id: u32) -> Option<(Matrix<'a>, Format)> {
            Some((artifact.matrix(id)?, artifact.section(id)?.content.format()?))
        }

        pub(super) fn array(&self, artifact: &Artifact<'a>, id: u32) -> Option<&'a [f32]> {
            artifact.array(id)
        }

        pub(super) fn slot(&self, artifact: &Artifact<'a>, id: u32) -> Option<Slot> {
            artifact.header().slots.get(id)
        }
    }

    /// The operations that are left of a program.
    #[derive(Clone, Debug)]
    pub(crate) struct Ops<'p>(Records<'p, Op>);

    impl<'p> Ops<'p> {
        /// Steps over the next `count` operations, which take up `bytes` if that is known, and returns them.
        pub(crate) fn block(&mut self, count: u32, bytes: Option<u32>) -> Option<Ops<'p>> {
            if let Some(bytes) = bytes {
                return self.0.split_off(count, bytes).map(Ops);
            }
            let from = self.0.bytes_left();
            let mut block = self.0.clone();
            self.0.by_ref().take(count as usize).for_each(drop);
            block.split_off(count, (from - self.0.bytes_left()) as u32).map(Ops)
        }
    }

    impl Iterator for Ops<'_> {
        type Item = Option<Op>;

        fn next(&mut self) -> Option<Self::Item> {
            self.0.next()
        }
    }
}
