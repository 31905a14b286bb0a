//! A file mapped into memory: weights are read from where they lie, and shared between processes.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Bytes that [`MappedFile::fetch`] asks for at once.
#[cfg(target_os = "linux")]
const FETCH_BYTES: usize = 4 << 20;

/// A read-only mapped file. Its bytes start on a page boundary.
#[derive(Debug)]
pub struct MappedFile(Arc<memmap2::Mmap>);

impl MappedFile {
    /// Maps the file at `path`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        #[allow(unsafe_code)]
        // SAFETY: the map is read-only and private to this process's view. If another process cuts the file short while it is
        // in use, the system ends this process (as with every mapped library); the contents are checked before use, and no
        // kernel turns a value it reads into an address.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        Ok(MappedFile(Arc::new(map)))
    }

    /// Starts to bring the file into memory, from the front to the back, on a thread of its own that ends by itself: whoever checks the file behind it
    /// waits neither for the disk nor for each page. A wish: where the system has no such thing, pages come when they are read.
    pub fn fetch(&self) {
        #[cfg(target_os = "linux")]
        {
            use memmap2::Advice;
            let (map, len) = (Arc::downgrade(&self.0), self.0.len());
            let fetch = move || {
                for at in (0..len).step_by(FETCH_BYTES) {
                    // Whoever has closed the file does not wait for the rest.
                    let Some(map) = map.upgrade() else { return };
                    let part = |at: usize| (at, FETCH_BYTES.min(len - at));
                    // The disk goes on with the next part while this one's pages are handed over.
                    for (at, bytes) in (at == 0).then_some(at).into_iter().chain([at + FETCH_BYTES]).filter(|&at| at < len).map(part) {
                        let _ = map.advise_range(Advice::WillNeed, at, bytes);
                    }
                    let (at, bytes) = part(at);
                    let _ = map.advise_range(Advice::PopulateRead, at, bytes);
                }
            };
            let _ = std::thread::Builder::new().name("brooklet-fetch".into()).stack_size(64 << 10).spawn(fetch);
        }
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
