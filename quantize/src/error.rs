//! What can be wrong with a checkpoint: each error names the file, the thing and the remedy.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error of the quantizer.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in a file is not as it should be.
    Invalid {
        /// The file.
        path: PathBuf,
        /// The thing in it: a config key, a tensor.
        thing: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// The runtime refuses what was written: a defect of the quantizer.
    Runtime(brooklet::Error),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn invalid(path: &Path, thing: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Error::Invalid { path: path.to_owned(), thing: thing.to_string(), problem: problem.to_string() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Invalid { path, thing, problem } => write!(f, "{}: {thing}: {problem}", path.display()),
            Error::Runtime(error) => write!(f, "the written file does not load: {error}"),
        }
    }
}

// `Display` tells the whole story, cause included: a `source` would make reporters tell it twice.
impl std::error::Error for Error {}

impl From<brooklet::Error> for Error {
    fn from(error: brooklet::Error) -> Self {
        Error::Runtime(error)
    }
}
