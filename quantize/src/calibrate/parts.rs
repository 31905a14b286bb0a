//! Packed matrices in a folder beside the output, until the file is whole: an interrupted run goes on from them.
//!
//! A part's key covers everything that its codes follow from: what the run was asked for, and the numbers of its own matrix and of all
//! matrices before it. A part with another key is not taken.

use crate::error::Error;
use crate::methods::Packed;
use brooklet::kernels::quant::Format;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"brkpart3";
/// Magic, key, format, error, what is left, checksum.
const HEAD_BYTES: usize = 8 + 8 + 4 + 4 + 4 + 4;

/// How the names of parts begin that are still being written.
const UNFINISHED: &str = ".brooklet-part-";

/// The parts of one run.
pub struct Parts {
    dir: PathBuf,
    /// Of everything so far.
    key: u64,
    /// Keys of the parts that belong to this run.
    keys: HashMap<usize, u64>,
}

impl Parts {
    /// The folder for the parts of `out`. Without `resume` it begins empty.
    pub fn open(out: &Path, run: u64, resume: bool) -> Result<Self, Error> {
        let mut name = out.as_os_str().to_owned();
        name.push(".parts");
        let dir = PathBuf::from(name);
        refuse_others(&dir)?;
        if !resume {
            remove(&dir)?;
        }
        std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
        Ok(Parts { dir, key: run, keys: HashMap::new() })
    }

    /// Takes matrix `tensor` into the key of what follows; gives the part back that was made of it under the same key.
    pub fn find(&mut self, tensor: usize, weights: &[f32]) -> Option<(Format, Packed)> {
        self.key = hash(hash(self.key, &(tensor as u64).to_le_bytes()), bytemuck::cast_slice(weights));
        self.keys.insert(tensor, self.key);
        self.read(tensor)
    }

    /// The part of a matrix that [`Parts::find`] was asked for in this run.
    pub fn read(&self, tensor: usize) -> Option<(Format, Packed)> {
        let key = self.keys.get(&tensor)?;
        let bytes = std::fs::read(self.path(tensor)).ok()?;
        let (head, bytes) = bytes.split_at_checked(HEAD_BYTES)?;
        let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
        let fits = head.starts_with(MAGIC) && head.get(8..16)? == key.to_le_bytes() && word(28)? == crc32fast::hash(bytes);
        let format = *Format::ALL.get(word(16)? as usize)?;
        let (relative_error, left) = (f32::from_bits(word(20)?), f32::from_bits(word(24)?));
        fits.then(|| (format, Packed { bytes: bytes.to_vec(), relative_error, left }))
    }

    /// Keeps a matrix that [`Parts::find`] did not find.
    pub fn keep(&self, tensor: usize, format: Format, packed: &Packed) -> Result<(), Error> {
        let path = self.path(tensor);
        let io = |e| Error::io(&path, e);
        let number = Format::ALL.iter().position(|&f| f == format).unwrap_or(0) as u32;
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir).map_err(io)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&self.keys.get(&tensor).copied().unwrap_or_default().to_le_bytes());
        for word in [number, packed.relative_error.to_bits(), packed.left.to_bits(), crc32fast::hash(&packed.bytes)] {
            head.extend_from_slice(&word.to_le_bytes());
        }
        file.write_all(&head).and_then(|()| file.write_all(&packed.bytes)).map_err(io)?;
        file.persist(&path).map_err(|e| Error::io(&path, e.error))?;
        Ok(())
    }

    /// Removes the folder: the file is whole.
    pub fn done(self) -> Result<(), Error> {
        remove(&self.dir)
    }

    fn path(&self, tensor: usize) -> PathBuf {
        self.dir.join(format!("{tensor}.part"))
    }
}

/// Refuses a folder that somebody else keeps things in: it would be removed.
fn refuse_others(dir: &Path) -> Result<(), Error> {
    match entries(dir)?.iter().find(|path| !is_part(path)) {
        Some(path) => Err(Error::invalid(path, "folder of parts", "holds what is no part of a file; move it away, or name another output")),
        None => Ok(()),
    }
}

/// Whether a file is a part, or the beginning of one that an end cut short.
fn is_part(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_number = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    name.strip_suffix(".part").is_some_and(is_number) || name.starts_with(UNFINISHED)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |e| Error::io(dir, e);
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(io)?.path())).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io(e)),
    }
}

/// Removes the folder and all parts in it, and nothing else.
fn remove(dir: &Path) -> Result<(), Error> {
    for path in entries(dir)?.iter().filter(|path| is_part(path)) {
        std::fs::remove_file(path).map_err(|e| Error::io(path, e))?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(dir, e)),
        _ => Ok(()),
    }
}

/// Goes on with a 64-bit FNV-1a hash, eight bytes at a time.
pub(super) fn hash(so_far: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let all = words.iter().chain(std::iter::once(&last)).map(|word| u64::from_le_bytes(*word));
    // The rotation brings high bits back to where the product spreads them.
    all.chain([bytes.len() as u64])
        .fold(so_far ^ 0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29))
}
