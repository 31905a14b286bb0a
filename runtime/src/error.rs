//! What can go wrong, and what to do about it.

use core::fmt;

/// An error of the runtime: flat, copyable, without text of its own; `Display` says what, where and what to do.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are no `.brook` file.
    NotBrook,
    /// A format version this build does not read.
    Version {
        /// Version in the file.
        found: u32,
    },
    /// The file ends too early, or has bytes behind its end.
    Length {
        /// Bytes the file should have.
        needed_bytes: u64,
        /// Bytes it has.
        have_bytes: u64,
    },
    /// The header is damaged.
    Header(HeaderFault),
    /// A section of the blob is damaged.
    Section {
        /// Its number.
        index: u32,
        /// What is wrong.
        fault: SectionFault,
    },
    /// A state slot does not fit the plan.
    Slot {
        /// Its number.
        index: u32,
    },
    /// An operation of the program is not valid.
    Op {
        /// Its number.
        index: u32,
        /// What is wrong.
        fault: OpFault,
    },
    /// A buffer starts at an address that numbers cannot be read from.
    Alignment {
        /// Which buffer.
        what: &'static str,
        /// Bytes its address must be a multiple of.
        align: u32,
    },
    /// A buffer is too small.
    BufferTooSmall {
        /// Which buffer.
        what: &'static str,
        /// Bytes it needs.
        needed_bytes: u64,
        /// Bytes it has.
        have_bytes: u64,
    },
    /// A state made for another model.
    OtherModel,
    /// A frame for a token model, or the reverse.
    WrongInput {
        /// What the model takes.
        wants: &'static str,
    },
    /// A prefill without a token.
    EmptyInput,
    /// A token id beyond the vocabulary.
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Number of tokens there are.
        vocab: u32,
    },
    /// A frame of the wrong width.
    FrameWidth {
        /// Values it has.
        got: u32,
        /// Channels of the model.
        want: u32,
    },
    /// A sample that is infinite, or no number for a model that has nothing to stand in for it.
    FrameNotFinite {
        /// Its channel.
        channel: u32,
    },
    /// A time since the last frame that is no positive number.
    GapNotPositive {
        /// Its place among the frames given.
        frame: u32,
    },
    /// More or fewer times than frames.
    GapCount {
        /// Times given.
        got: u32,
        /// Frames given.
        want: u32,
    },
    /// More or fewer inputs than streams.
    StreamCount {
        /// Inputs given.
        got: u32,
        /// Streams given.
        want: u32,
    },
    /// A time between frames for a model that knows one rate alone.
    GapUnsupported,
    /// The attention cache is full and the model was made to stop there.
    ContextFull {
        /// Positions it holds.
        capacity: u32,
    },
    /// A snapshot cannot be restored.
    Snapshot(SnapshotFault),
    /// The device did not reproduce the file's golden outputs.
    SelfTest {
        /// Fingerprint in the file.
        want: u64,
        /// Fingerprint of this device's outputs.
        got: u64,
    },
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderFault {
    /// Its CRC-32 does not match.
    Checksum,
    /// It is not postcard of this version's types.
    Encoding,
    /// Tables, names or counts contradict each other or exceed a limit.
    Inconsistent,
}

/// What is wrong with a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SectionFault {
    /// It does not start where the previous one ends (rounded up to 64), or the padding between is not zero.
    Place,
    /// Its length is not that of its shape.
    Length,
    /// Its CRC-32 does not match.
    Checksum,
    /// Its scales or code table are not usable numbers.
    Values,
    /// Its name is not in the table of names.
    Name,
    /// Its matrix is of a format that this build leaves out (feature `planes`).
    Format,
}

/// What is wrong with an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpFault {
    /// It cannot be decoded.
    Encoding,
    /// An operand lies outside the frame.
    Span,
    /// Operands overlap that must not.
    Overlap,
    /// It names a tensor that does not exist or is of another kind.
    Tensor,
    /// Operand and tensor shapes do not fit together.
    Shape,
    /// It names a state slot that does not exist, is of another kind, or belongs to another operation.
    Slot,
    /// A parameter is out of range.
    Value,
    /// It stands where it must not, or is missing at the start or the end.
    Order,
    /// It keeps its state as this build cannot (feature `narrow-states`).
    NarrowState,
    /// This build leaves it out (feature `hadamard`).
    LeftOut,
}

/// Why a snapshot is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotFault {
    /// Not a snapshot, or cut short.
    Format,
    /// Of a version this build does not read.
    Version,
    /// Of another model.
    OtherModel,
    /// Its CRC-32 does not match.
    Checksum,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::NotBrook => write!(f, "not a .brook file (it does not start with the letters BROK); make one with `brooklet quantize`"),
            Error::Version { found } => {
                write!(
                    f,
                    "format version {found}, this build reads version {}; quantize the checkpoint again or update Brooklet",
                    crate::artifact::VERSION
                )
            }
            Error::Length { needed_bytes, have_bytes } => {
                write!(f, "the file has {have_bytes} bytes where {needed_bytes} belong: it was cut short or added to; copy it again")
            }
            Error::Header(HeaderFault::Checksum) => write!(f, "the header is damaged (its checksum does not match); copy the file again"),
            Error::Header(HeaderFault::Encoding) => {
                write!(f, "the header cannot be decoded; quantize the checkpoint again with this version")
            }
            Error::Header(HeaderFault::Inconsistent) => write!(f, "the header contradicts itself; quantize the checkpoint again"),
            Error::Section { index, fault } => {
                let what = match fault {
                    SectionFault::Place => "does not lie where it should",
                    SectionFault::Length => "is not as long as its shape says",
                    SectionFault::Checksum => "is damaged (its checksum does not match)",
                    SectionFault::Values => "holds scales or tables that are no usable numbers",
                    SectionFault::Name => "has no valid name",
                    SectionFault::Format => {
                        return write!(
                            f,
                            "section {index} is a matrix of a format that this build leaves out; build with the feature `planes`, or quantize to q4 or q8"
                        );
                    }
                };
                write!(f, "section {index} {what}; copy the file again, or quantize the checkpoint again")
            }
            Error::Slot { index } => write!(f, "state slot {index} does not fit the memory plan; quantize the checkpoint again"),
            Error::Op { index, fault: OpFault::NarrowState } => write!(
                f,
                "operation {index} keeps its state or cache in a way that this build leaves out; build with the feature `narrow-states`, \
                 or quantize with --state f32 and --cache int8"
            ),
            Error::Op { index, fault } => {
                let what = match fault {
                    OpFault::Encoding => "cannot be decoded",
                    OpFault::Span => "reaches outside the frame",
                    OpFault::Overlap => "has operands that overlap",
                    OpFault::Tensor => "names a tensor that is missing or of another kind",
                    OpFault::Shape => "has operands and tensors whose shapes do not fit",
                    OpFault::Slot => "names a state slot that is missing, of another kind or taken",
                    OpFault::Value => "has a parameter out of range",
                    OpFault::Order => "stands where it must not",
                    OpFault::NarrowState => "keeps its state as this build cannot",
                    OpFault::LeftOut => "is left out of this build; build with the feature `hadamard`, or quantize with --passes fold",
                };
                write!(f, "operation {index} of the program {what}; quantize the checkpoint again with this version")
            }
            Error::Alignment { what, align } => {
                write!(f, "the {what} buffer must start at a multiple of {align} bytes; allocate it as brooklet::Line")
            }
            Error::BufferTooSmall { what, needed_bytes, have_bytes } => {
                write!(f, "the {what} buffer has {have_bytes} bytes and needs {needed_bytes}")
            }
            Error::OtherModel => write!(f, "this state was made for another model; make a new one with State::new"),
            Error::WrongInput { wants } => write!(f, "this model takes {wants}"),
            Error::EmptyInput => write!(f, "there is nothing to prefill; give at least one token"),
            Error::TokenOutOfRange { token, vocab } => {
                write!(f, "token {token} is outside the vocabulary of {vocab}; ids run from 0 to {}", vocab.saturating_sub(1))
            }
            Error::FrameWidth { got, want } => write!(f, "the frame has {got} values, the model takes {want} channels"),
            Error::FrameNotFinite { channel } => {
                write!(
                    f,
                    "channel {channel} of the frame is not a finite number; leave the sample out, or repeat the last good one \
                     (a NaN may stay where the model's config says what stands in, `input.missing`)"
                )
            }
            Error::GapNotPositive { frame } => {
                write!(f, "the time before frame {frame} is not a finite number of seconds above 0; drop frames that come twice")
            }
            Error::GapCount { got, want } => write!(f, "there are {got} times for {want} frames; give one per frame"),
            Error::StreamCount { got, want } => write!(f, "there are inputs for {got} streams, but {want} streams; give one step of each"),
            Error::GapUnsupported => write!(
                f,
                "this model knows its own rate alone; resample the frames and leave the times out, or make it with `irregular` in its config"
            ),
            Error::ContextFull { capacity } => {
                write!(
                    f,
                    "the attention cache is full after {capacity} positions; reset the stream, or quantize with a larger --context, or without --stop to let it slide"
                )
            }
            Error::Snapshot(fault) => match fault {
                SnapshotFault::Format => write!(f, "this is not a snapshot, or it was cut short"),
                SnapshotFault::Version => write!(f, "the snapshot is of a version this build does not read; start the stream anew"),
                SnapshotFault::OtherModel => write!(f, "the snapshot was taken with another model; start the stream anew"),
                SnapshotFault::Checksum => write!(f, "the snapshot is damaged (its checksum does not match); use an older one"),
            },
            Error::SelfTest { want, got } => {
                write!(
                    f,
                    "this device computed fingerprint {got:016x} where the file says {want:016x}: the file or this build is not to be trusted"
                )
            }
        }
    }
}

impl core::error::Error for Error {}
