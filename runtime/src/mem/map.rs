//! A file mapped into memory: weights are read from where they lie, and shared between processes.

use std::fs::File;
use std::io;
use std::path::Path;

/// A read-only mapped file. Its bytes start on a page boundary.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the file at `path`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        #[allow(unsafe_code)]
        // SAFETY: the map is read-only and private to this process's view. If another process cuts the file short while it is
        // in use, the system ends this process (as with every mapped library); the contents are checked before use, and no
        // kernel turns a value it reads into an address.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(MappedFile(map))
    }

    /// Keeps the file's pages in memory until it is dropped.
    pub fn lock(&self) -> io::Result<()> {
        #[cfg(unix)]
        return self.0.lock();
        #[cfg(not(unix))]
        return Err(io::ErrorKind::Unsupported.into());
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
