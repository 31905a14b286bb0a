//! What can go wrong on a GPU, and what to do about it.

use cudarc::driver::DriverError;
use std::fmt;

/// An error of a GPU or its driver, or one of the runtime.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no driver.
    NoDriver,
    /// The driver finds no GPU, or none of that number.
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// What the driver says.
        fault: DriverError,
    },
    /// The driver is older than the kernels.
    OldDriver {
        /// Version of CUDA that it supports, as 1000 * major + 10 * minor.
        version: i32,
    },
    /// A GPU for which there are no kernels.
    UnknownArchitecture {
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// The GPU has too little memory left.
    OutOfMemory {
        /// Bytes asked for.
        needed_bytes: u64,
        /// Bytes free.
        free_bytes: u64,
    },
    /// The driver refused something else.
    Driver {
        /// What was to be done.
        what: &'static str,
        /// What the driver says.
        fault: DriverError,
    },
    /// An archive of kernels is damaged: this build is.
    Archive {
        /// What is wrong.
        what: &'static str,
    },
    /// An operation that no kernel can do.
    Unsupported {
        /// Its number.
        index: u32,
        /// What is beyond the kernels.
        what: &'static str,
    },
    /// The model or its input: as on the CPU.
    Model(brooklet::Error),
    /// A stream that the session does not have.
    NoStream {
        /// The number asked for, from 0 on.
        stream: usize,
        /// Streams of the session.
        streams: usize,
    },
    /// Outputs that are no tokens: what is drawn of them cannot be the next input.
    NoTokens {
        /// Outputs of the model.
        outputs: usize,
        /// Tokens that it takes.
        vocab: usize,
    },
    /// A launch that the kernel asked for does not take; another one does.
    Launch {
        /// What is beyond it.
        what: &'static str,
    },
}

impl Error {
    /// Whether a kernel took what was to be queued: `false`, and nothing done, where it does not take such a shape.
    pub(crate) fn is_taken(queued: Result<(), Error>) -> Result<bool, Error> {
        match queued {
            Err(Error::Launch { .. }) => Ok(false),
            queued => queued.map(|()| true),
        }
    }

    /// Makes an error of a refused call to the driver.
    pub(crate) fn driver(what: &'static str) -> impl Fn(DriverError) -> Error {
        move |fault| Error::Driver { what, fault }
    }
}

impl From<brooklet::Error> for Error {
    fn from(error: brooklet::Error) -> Self {
        Error::Model(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoDriver => write!(f, "no CUDA driver was found (libcuda.so.1; Nvidia's driver brings it)"),
            Error::NoDevice { ordinal, fault } => write!(f, "no usable GPU {ordinal}: {} (`nvidia-smi` says more)", said(fault)),
            Error::OldDriver { version } => write!(
                f,
                "the CUDA driver supports {}.{} and the kernels need 11.4 or newer: update the driver",
                version / 1000,
                version % 1000 / 10
            ),
            Error::UnknownArchitecture { name, capability: (major, minor) } => {
                write!(f, "{name} has compute capability {major}.{minor} and there are kernels from 8.0 on (Ampere, Orin and newer)")
            }
            Error::OutOfMemory { needed_bytes, free_bytes } => write!(
                f,
                "the GPU has {} MiB free and {} MiB are needed; take a smaller file, or a smaller --context when it is made",
                free_bytes >> 20,
                needed_bytes.div_ceil(1 << 20)
            ),
            Error::Driver { what, fault } => write!(f, "{what}: {}, says the GPU's driver", said(fault)),
            Error::Archive { what } => write!(f, "the kernels in this build are damaged ({what}); build it again"),
            Error::Unsupported { index, what } => write!(f, "operation {index} of the program has {what}, which no kernel for GPUs takes"),
            Error::NoStream { stream, streams } => write!(f, "there is no stream {stream}: the session's {streams} are numbered from 0"),
            Error::NoTokens { outputs, vocab } => {
                write!(f, "the model has {outputs} outputs for {vocab} tokens: what is drawn cannot be fed back")
            }
            Error::Launch { what } => write!(f, "the GPU's kernels do not take {what} at once"),
            Error::Model(error) => write!(f, "{error}"),
        }
    }
}

/// The driver's own words for an error.
fn said(fault: &DriverError) -> String {
    match (fault.error_name(), fault.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", text.to_string_lossy(), name.to_string_lossy()),
        _ => format!("error {}", fault.0 as u32),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Model(error) => Some(error),
            _ => None,
        }
    }
}
