//! The header's types. postcard does not describe itself: fields and variants are only ever added at the end, and a change of
//! an existing one is a new format version.

use super::places::Places;
use super::table::{Record, Table};
use crate::ops::Op;
use brooklet_kernels::quant::Format;
use serde::{Deserialize, Serialize};

/// Everything but the weights.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Header<'a> {
    /// What the model is.
    #[serde(borrow)]
    pub card: Card<'a>,
    /// What goes in.
    pub input: InputSpec<'a>,
    /// What comes out.
    pub output: OutputSpec<'a>,
    /// Numbers in one token's working memory: operands are spans of it.
    pub frame_len: u32,
    /// Names of the sections, one behind the other.
    pub names: &'a str,
    /// The blob's sections, in file order.
    pub sections: Table<'a, Section>,
    /// The state's slots, in memory order.
    pub slots: Table<'a, Slot>,
    /// The operations of one step, in order; the last is the head.
    pub program: Table<'a, Op>,
    /// A short input and the fingerprint of what it gives.
    pub golden: Golden<'a>,
}

/// Facts about a model, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Card<'a> {
    /// Name.
    pub name: &'a str,
    /// Model family, as its config calls it.
    pub family: &'a str,
    /// Where the checkpoint came from.
    pub source: &'a str,
    /// Licence of the weights.
    pub license: &'a str,
}

/// What goes into a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum InputSpec<'a> {
    /// Token ids.
    Tokens {
        /// Ids run from 0 to `vocab - 1`.
        vocab: u32,
        /// Token that begins a text, if the config names one.
        bos: Option<u32>,
        /// Token that ends a text.
        eos: Option<u32>,
        /// Section with the tokenizer's `tokenizer.json`; none for byte-level models.
        tokenizer: Option<u32>,
    },
    /// Sensor frames.
    Frames {
        /// Channel names, one per line.
        channels: &'a str,
        /// Units, one per line, in the order of the channels.
        units: &'a str,
        /// Sampling rate that the model was trained at.
        rate_hz: f32,
    },
}

/// What comes out of a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum OutputSpec<'a> {
    /// One logit per token.
    Logits {
        /// How many.
        count: u32,
    },
    /// One logit per class.
    Classes {
        /// Class names, one per line.
        names: &'a str,
    },
    /// Numbers that mean what they are.
    Values {
        /// Names, one per line.
        names: &'a str,
        /// Units, one per line, in the order of the names.
        units: &'a str,
    },
}

/// Lines of a list of names.
pub(crate) fn line_count(names: &str) -> usize {
    let ended = names.bytes().filter(|&byte| byte == b'\n').count();
    ended + usize::from(!names.is_empty() && !names.ends_with('\n'))
}

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// Row-major `f32`, (rows, cols).
    Array,
    /// A tiled matrix of `f32`.
    MatrixF32,
    /// A tiled matrix of half-precision floats.
    MatrixF16,
    /// A tiled matrix of 8-bit codes.
    MatrixQ8,
    /// A tiled matrix of 4-bit codes.
    MatrixQ4,
    /// Row-major `u64`, (rows, cols): rotary turns per position.
    Turns,
    /// A `tokenizer.json`, `rows` bytes.
    Tokenizer,
    /// A tiled matrix of 3-bit codes.
    MatrixQ3,
    /// A tiled matrix of 5-bit codes.
    MatrixQ5,
    /// A tiled matrix of 6-bit codes.
    MatrixQ6,
    /// A tiled matrix of -1, 0 and 1.
    MatrixT2,
    /// A `tokenizer.json` as a zlib stream, `rows` bytes: only hosts read text, and they have room to unpack it.
    PackedTokenizer,
    /// (rows, cols) numbers of two bytes, or four where there are more than 65,536: where each row of a table lies among its pieces.
    Places,
}

impl Content {
    /// The matrix format, if it is one.
    pub fn format(self) -> Option<Format> {
        match self {
            Content::MatrixF32 => Some(Format::F32),
            Content::MatrixF16 => Some(Format::F16),
            Content::MatrixQ8 => Some(Format::Q8),
            Content::MatrixQ4 => Some(Format::Q4),
            Content::MatrixQ3 => Some(Format::Q3),
            Content::MatrixQ5 => Some(Format::Q5),
            Content::MatrixQ6 => Some(Format::Q6),
            Content::MatrixT2 => Some(Format::T2),
            Content::Array | Content::Turns | Content::Tokenizer | Content::PackedTokenizer | Content::Places => None,
        }
    }

    /// The content that a matrix format makes.
    pub fn of(format: Format) -> Self {
        match format {
            Format::F32 => Content::MatrixF32,
            Format::F16 => Content::MatrixF16,
            Format::Q8 => Content::MatrixQ8,
            Format::Q4 => Content::MatrixQ4,
            Format::Q3 => Content::MatrixQ3,
            Format::Q5 => Content::MatrixQ5,
            Format::Q6 => Content::MatrixQ6,
            Format::T2 => Content::MatrixT2,
        }
    }

    /// Whether it is a tokenizer, in either form.
    pub fn is_tokenizer(self) -> bool {
        matches!(self, Content::Tokenizer | Content::PackedTokenizer)
    }

    /// Bytes of a section of this content and shape; `None` when that overflows.
    pub fn bytes(self, rows: u32, cols: u32) -> Option<u64> {
        let (rows, cols) = (usize::try_from(rows).ok()?, usize::try_from(cols).ok()?);
        let bytes = match (self, self.format()) {
            (_, Some(format)) => format.matrix_bytes(rows, cols)?,
            (Content::Array, _) => rows.checked_mul(cols)?.checked_mul(4)?,
            (Content::Places, _) => rows.checked_mul(cols).and_then(|count| count.checked_mul(Places::bytes_each(count)))?,
            (Content::Turns, _) => rows.checked_mul(cols)?.checked_mul(8)?,
            _ => rows.checked_mul(cols)?,
        };
        u64::try_from(bytes).ok()
    }

    /// Name for reports.
    pub fn name(self) -> &'static str {
        match (self, self.format()) {
            (_, Some(format)) => format.name(),
            (Content::Array, _) => "array",
            (Content::Turns, _) => "turns",
            (Content::Places, _) => "places",
            _ => "bytes",
        }
    }
}

/// A section of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Start, in bytes from the blob's start.
    #[serde(with = "postcard::fixint::le")]
    pub at: u64,
    /// CRC-32 (IEEE) of its bytes.
    #[serde(with = "postcard::fixint::le")]
    pub crc32: u32,
    /// Rows.
    #[serde(with = "postcard::fixint::le")]
    pub rows: u32,
    /// Columns.
    #[serde(with = "postcard::fixint::le")]
    pub cols: u32,
    /// Start of its name in the header's names.
    #[serde(with = "postcard::fixint::le")]
    pub name_at: u32,
    /// Bytes of its name.
    #[serde(with = "postcard::fixint::le")]
    pub name_len: u16,
    /// What it holds.
    pub content: Content,
}

impl Record for Section {
    const BYTES: usize = 8 + 4 * 4 + 2 + 1;
}

/// What a slot of the state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotKind {
    /// `capacity` numbers.
    Numbers,
    /// Keys and values of `capacity` positions, as they are.
    CacheF32,
    /// Keys and values of `capacity` positions, rounded to 8 bits with one scale per position and head.
    CacheInt8,
    /// `capacity` numbers of a recurrent state in half precision: rounded after every step.
    NumbersF16,
    /// Keys and values of `capacity` positions, rounded to 4 bits with one scale per position, head and group of 32.
    CacheInt4,
}

/// What happens when an attention cache is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// A step is refused.
    Stop,
    /// The first `sink` positions stay, the others make room for the latest.
    SinkAndWindow,
}

/// A slot of a stream's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Start, in bytes from the state's start.
    #[serde(with = "postcard::fixint::le")]
    pub at: u64,
    /// Numbers, or positions of a cache.
    #[serde(with = "postcard::fixint::le")]
    pub capacity: u32,
    /// Key-value heads of a cache (else 0).
    #[serde(with = "postcard::fixint::le")]
    pub heads: u32,
    /// Width of a head of a cache (else 0).
    #[serde(with = "postcard::fixint::le")]
    pub head_dim: u32,
    /// First positions that a sliding cache keeps (else 0).
    #[serde(with = "postcard::fixint::le")]
    pub sink: u32,
    /// What it holds.
    pub kind: SlotKind,
    /// What a full cache does.
    pub keep: Keep,
}

impl Record for Slot {
    const BYTES: usize = 8 + 4 * 4 + 2;
}

impl Slot {
    /// A slot of plain numbers.
    pub fn numbers(count: u32) -> Self {
        Slot { at: 0, capacity: count, heads: 0, head_dim: 0, sink: 0, kind: SlotKind::Numbers, keep: Keep::Stop }
    }

    /// A slot of numbers in half precision.
    pub fn halves(count: u32) -> Self {
        Slot { kind: SlotKind::NumbersF16, ..Slot::numbers(count) }
    }
}

/// A short input and the fingerprint of its outputs: a device proves itself with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Golden<'a> {
    /// Steps.
    pub steps: u32,
    /// Token ids as `u32`, or frames as `f32`, little-endian.
    pub input: &'a [u8],
    /// [`crate::fingerprint`] over the outputs of all steps.
    #[serde(with = "postcard::fixint::le")]
    pub fingerprint: u64,
}
