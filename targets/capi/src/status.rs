//! Error codes. Their numbers never change; new ones are added at free numbers.

use brooklet::{Error, SnapshotFault};
use core::ffi::{CStr, c_char};

/// Version of this interface: it changes when a program compiled against an older header would go wrong.
pub const ABI: u32 = 1;

/// BROOKLET_ABI of the library, for programs that load it when they run.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_abi() -> u32 {
    ABI
}

/// What a call came to. 0 is success; brooklet_error_string has a sentence for each.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It worked.
    Ok = 0,

    /// A pointer is NULL that must not be.
    NullPointer = 1,
    /// The model was not opened, or the stream not initialised.
    NotOpen = 2,
    /// The struct's own address is not a multiple of its alignment.
    HandleAlignment = 3,
    /// A length is larger than memory can be.
    TooLong = 4,

    /// The bytes are no .brook file.
    NotBrook = 10,
    /// The file's format version is not the one this build reads.
    FormatVersion = 11,
    /// The file was cut short or added to.
    FileLength = 12,
    /// The file's header is damaged or contradicts itself.
    Header = 13,
    /// A section of the file is damaged.
    Section = 14,
    /// A state slot does not fit the memory plan.
    Slot = 15,
    /// An operation of the model's program is not valid.
    Operation = 16,
    /// The file does not start on a 64-byte boundary.
    FileAlignment = 17,

    /// The state does not start on a 16-byte boundary.
    StateAlignment = 20,
    /// The state has fewer bytes than brooklet_state_bytes.
    StateTooSmall = 21,
    /// The scratch does not start on a 16-byte boundary.
    ScratchAlignment = 22,
    /// The scratch has fewer bytes than brooklet_scratch_bytes.
    ScratchTooSmall = 23,
    /// There is room for fewer bytes than brooklet_snapshot_bytes.
    SnapshotTooSmall = 24,
    /// There is room for fewer numbers than brooklet_outputs.
    OutputsTooSmall = 25,
    /// Two buffers overlap that must not.
    Overlap = 26,
    /// The stream was initialised with another model.
    OtherModel = 27,

    /// A frame for a token model, or the reverse.
    WrongInput = 30,
    /// There is no token.
    EmptyInput = 31,
    /// A token is outside the vocabulary.
    TokenOutOfRange = 32,
    /// A frame has more or fewer values than the model has channels.
    FrameWidth = 33,
    /// A sample is not a finite number.
    FrameNotFinite = 34,
    /// The time since the last frame is not a finite number of seconds above 0.
    GapNotPositive = 35,
    /// This model knows its own rate alone.
    GapUnsupported = 36,
    /// The attention cache is full and the model was made to stop there.
    ContextFull = 37,
    /// Numbers do not start on a 4-byte boundary.
    NumberAlignment = 38,
    /// A logit is NaN or plus infinity, or all are minus infinity.
    LogitNotFinite = 39,

    /// Not a snapshot, or cut short.
    SnapshotFormat = 40,
    /// A snapshot of a version this build does not read.
    SnapshotVersion = 41,
    /// A snapshot of another model.
    SnapshotOtherModel = 42,
    /// The snapshot is damaged.
    SnapshotChecksum = 43,

    /// This device did not reproduce the file's golden outputs.
    SelfTest = 50,

    /// An error that this version of the interface has no number for.
    Other = 99,
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::NotBrook => Status::NotBrook,
            Error::Version { .. } => Status::FormatVersion,
            Error::Length { .. } => Status::FileLength,
            Error::Header(_) => Status::Header,
            Error::Section { .. } => Status::Section,
            Error::Slot { .. } => Status::Slot,
            Error::Op { .. } => Status::Operation,
            Error::Alignment { what: "state", .. } => Status::StateAlignment,
            Error::Alignment { what: "scratch", .. } => Status::ScratchAlignment,
            Error::Alignment { .. } => Status::FileAlignment,
            Error::BufferTooSmall { what: "state", .. } => Status::StateTooSmall,
            Error::BufferTooSmall { what: "scratch", .. } => Status::ScratchTooSmall,
            Error::BufferTooSmall { .. } => Status::SnapshotTooSmall,
            Error::OtherModel => Status::OtherModel,
            Error::WrongInput { .. } => Status::WrongInput,
            Error::EmptyInput => Status::EmptyInput,
            Error::TokenOutOfRange { .. } => Status::TokenOutOfRange,
            Error::FrameWidth { .. } => Status::FrameWidth,
            Error::FrameNotFinite { .. } => Status::FrameNotFinite,
            Error::GapNotPositive { .. } => Status::GapNotPositive,
            Error::GapUnsupported => Status::GapUnsupported,
            Error::ContextFull { .. } => Status::ContextFull,
            Error::Snapshot(SnapshotFault::Format) => Status::SnapshotFormat,
            Error::Snapshot(SnapshotFault::Version) => Status::SnapshotVersion,
            Error::Snapshot(SnapshotFault::OtherModel) => Status::SnapshotOtherModel,
            Error::Snapshot(SnapshotFault::Checksum) => Status::SnapshotChecksum,
            Error::SelfTest { .. } => Status::SelfTest,
            _ => Status::Other,
        }
    }
}

impl From<Result<(), Status>> for Status {
    fn from(result: Result<(), Status>) -> Self {
        result.err().unwrap_or(Status::Ok)
    }
}

/// Every status with what happened and what to do about it.
const TEXTS: &[(Status, &CStr)] = &[
    (Status::Ok, c"it worked"),
    (Status::NullPointer, c"a pointer is NULL"),
    (Status::NotOpen, c"the model was not opened or the stream not initialised; call brooklet_open or brooklet_init first"),
    (Status::HandleAlignment, c"the struct's address is not aligned; declare it as brooklet_model or brooklet_stream"),
    (Status::TooLong, c"a length is larger than memory can be"),
    (Status::NotBrook, c"not a .brook file (it does not start with the letters BROK); make one with `brooklet quantize`"),
    (Status::FormatVersion, c"the file's format version is not the one this build reads; quantize the checkpoint again or update Brooklet"),
    (Status::FileLength, c"the file was cut short or added to; copy it again, and give its length in bytes"),
    (Status::Header, c"the file's header is damaged or contradicts itself; copy the file again or quantize the checkpoint again"),
    (Status::Section, c"a section of the file is damaged; copy the file again"),
    (Status::Slot, c"a state slot of the file does not fit the memory plan; quantize the checkpoint again"),
    (Status::Operation, c"an operation of the file's program is not valid; quantize the checkpoint again with this version"),
    (
        Status::FileAlignment,
        c"the file must start on a 64-byte boundary; use the array that `brooklet export` makes, or BROOKLET_ALIGN(64)",
    ),
    (Status::StateAlignment, c"the state must start on a 16-byte boundary; declare it with BROOKLET_ALIGN(16)"),
    (Status::StateTooSmall, c"the state has fewer bytes than brooklet_state_bytes says"),
    (Status::ScratchAlignment, c"the scratch must start on a 16-byte boundary; declare it with BROOKLET_ALIGN(16)"),
    (Status::ScratchTooSmall, c"the scratch has fewer bytes than brooklet_scratch_bytes says"),
    (Status::SnapshotTooSmall, c"there is room for fewer bytes than brooklet_snapshot_bytes says"),
    (Status::OutputsTooSmall, c"there is room for fewer numbers than brooklet_outputs says"),
    (Status::Overlap, c"two buffers overlap; file, model, stream, state, scratch, inputs and outputs each need their own memory"),
    (Status::OtherModel, c"the stream was initialised with another model; call brooklet_init again"),
    (Status::WrongInput, c"the model takes the other kind of input: frames for a sensor model, tokens for a text model"),
    (Status::EmptyInput, c"there is no token; give at least one"),
    (Status::TokenOutOfRange, c"a token is outside the vocabulary; ids run from 0 to brooklet_vocab - 1"),
    (Status::FrameWidth, c"the frame has more or fewer values than brooklet_channels says"),
    (Status::FrameNotFinite, c"a sample is not a finite number; leave the frame out, or repeat the last good sample"),
    (Status::GapNotPositive, c"the time since the last frame is not a finite number of seconds above 0; drop frames that come twice"),
    (Status::GapUnsupported, c"this model knows its own rate alone; resample the frames and use brooklet_step"),
    (Status::ContextFull, c"the attention cache is full; reset the stream, or quantize with a larger --context or without --stop"),
    (Status::NumberAlignment, c"numbers must start on a 4-byte boundary"),
    (
        Status::LogitNotFinite,
        c"a logit is NaN or plus infinity, or all are minus infinity; give a step's outputs, and leave at least one of them finite",
    ),
    (Status::SnapshotFormat, c"this is not a snapshot, or it was cut short"),
    (Status::SnapshotVersion, c"the snapshot is of a version this build does not read; start the stream anew"),
    (Status::SnapshotOtherModel, c"the snapshot was taken with another model; start the stream anew"),
    (Status::SnapshotChecksum, c"the snapshot is damaged; use an older one, or start the stream anew"),
    (Status::SelfTest, c"this device did not reproduce the file's golden outputs: the file or this build is not to be trusted"),
    (Status::Other, c"an error that this version of the C interface has no number for"),
];

/// A sentence for a status: what happened and what to do. Never NULL; lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn brooklet_error_string(status: i32) -> *const c_char {
    let known = TEXTS.iter().find(|(s, _)| *s as i32 == status);
    known.map_or(c"no status of this version of Brooklet", |(_, text)| text).as_ptr()
}
