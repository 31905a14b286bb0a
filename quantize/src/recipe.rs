//! What the user chose: formats of the weights, and how far attention looks back.

use crate::error::Error;
use crate::graph::{Graph, Role, SlotDecl, Values};
use brooklet::artifact::{Keep, MAX_CONTEXT, Slot, SlotKind};
use brooklet::kernels::quant::Format;
use std::path::Path;

/// The choices that turn a graph into a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Format of the matrices.
    pub format: Format,
    /// Format of the embedding or encoder, and of the head; `None` picks [`Format::Q8`] for models of fewer bits, else
    /// `format`.
    pub embedding: Option<Format>,
    /// How recurrent states are kept between steps.
    pub state: StateFormat,
    /// Attention's cache.
    pub cache: Cache,
}

/// How recurrent states (Scan, Ssd, GatedDelta) are kept from step to step; they are computed with in `f32` either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateFormat {
    /// As they are.
    #[default]
    F32,
    /// In half precision: half the memory, and rounding after every step.
    F16,
}

impl CacheFormat {
    /// The name used in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            CacheFormat::F32 => "f32",
            CacheFormat::Int8 => "int8",
            CacheFormat::Int4 => "int4",
        }
    }
}

impl StateFormat {
    /// The name used in options and reports.
    pub fn name(self) -> &'static str {
        match self {
            StateFormat::F32 => "f32",
            StateFormat::F16 => "f16",
        }
    }
}

/// Choices for the attention caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Positions a cache holds.
    pub context: u32,
    /// First positions that stay when the cache slides; `None` refuses a step when it is full.
    pub sink: Option<u32>,
    /// How keys and values are kept.
    pub format: CacheFormat,
}

/// How attention's keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheFormat {
    /// As they are.
    F32,
    /// Rounded to 8 bits, with a scale for each position and head.
    Int8,
    /// Rounded to 4 bits, with a scale for each position, head and group of 32.
    Int4,
}

impl Recipe {
    /// A declared slot as the runtime sees it, under these choices.
    pub(crate) fn slot(&self, slot: SlotDecl) -> Slot {
        match slot {
            SlotDecl::Numbers(count) => Slot::numbers(count),
            SlotDecl::State(count) => match self.state {
                StateFormat::F32 => Slot::numbers(count),
                StateFormat::F16 => Slot::halves(count),
            },
            SlotDecl::Cache { heads, head_dim, window } => {
                let Cache { context, sink, format } = self.cache;
                let kind = match format {
                    CacheFormat::F32 => SlotKind::CacheF32,
                    CacheFormat::Int8 => SlotKind::CacheInt8,
                    CacheFormat::Int4 => SlotKind::CacheInt4,
                };
                // A model's own window slides, whatever the user chose for the others.
                let (capacity, sink) = window.map_or((context, sink), |window| (window, Some(0)));
                let keep = if sink.is_some() { Keep::SinkAndWindow } else { Keep::Stop };
                Slot { at: 0, capacity, heads, head_dim, sink: sink.unwrap_or(0), kind, keep }
            }
        }
    }
}

impl Default for Recipe {
    fn default() -> Self {
        Recipe {
            format: Format::Q8,
            embedding: None,
            state: StateFormat::F32,
            cache: Cache { context: 2048, sink: Some(4), format: CacheFormat::Int8 },
        }
    }
}

impl Recipe {
    /// What a stream's memory holds, by name.
    pub(crate) fn memory_name(&self) -> String {
        format!("state {}, cache {}", self.state.name(), self.cache.format.name())
    }

    /// The same recipe with whole floats in a stream's memory.
    pub(crate) fn in_float(self) -> Recipe {
        Recipe { state: StateFormat::F32, cache: Cache { format: CacheFormat::F32, ..self.cache }, ..self }
    }

    /// Refuses caches that cannot hold anything; `out` is the file that was to be written.
    pub(crate) fn check(&self, out: &Path) -> Result<(), Error> {
        let Cache { context, sink, .. } = self.cache;
        if context == 0 || context > MAX_CONTEXT {
            return Err(Error::invalid(out, "option --context", format!("is {context}, expected 1 to {MAX_CONTEXT}")));
        }
        match sink {
            Some(sink) if sink >= context => {
                Err(Error::invalid(out, "option --sink", format!("is {sink}, which leaves nothing of the {context} positions to slide")))
            }
            _ => Ok(()),
        }
    }

    /// The format of every tensor of `graph`; `None` for those that take none.
    pub fn formats(&self, graph: &Graph<'_>) -> Vec<Option<Format>> {
        let format = |values: &Values<'_>| if let Values::Matrix(role, _) = values { Some(self.format_of(*role)) } else { None };
        graph.tensors.iter().map(|tensor| format(&tensor.values)).collect()
    }

    /// The format of a matrix with this role.
    pub fn format_of(&self, role: Role) -> Format {
        // Below 8 bits.
        let coarse = self.format.is_quantized() && self.format != Format::Q8;
        match role {
            Role::Projection => self.format,
            Role::Embedding => self.embedding.unwrap_or(if coarse { Format::Q8 } else { self.format }),
            Role::Router => Format::F32,
            Role::Fine => {
                if self.format.is_quantized() {
                    Format::F16
                } else {
                    self.format
                }
            }
            // Small and sensitive: their error goes through an exponential.
            Role::StepSize => {
                if coarse {
                    Format::Q8
                } else {
                    self.format
                }
            }
        }
    }
}
