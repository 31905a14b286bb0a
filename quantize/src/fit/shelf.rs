//! Whole files of one model in different formats, and files mixed from their sections: a mix costs a copy, no rounding.

use crate::destination::unfinished_prefix;
use crate::error::Error;
use crate::lower::{Layout, Report};
use brooklet::Model;
use brooklet::artifact::Section;
use brooklet::kernels::quant::Format;
use brooklet::mem::{Line, MappedFile};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Mixes of more bytes than this lie in a file, not in memory.
const LARGE_BYTES: usize = 512 << 20;

/// Files beside the one that is made; they go when the shelf goes.
pub(crate) struct Shelf {
    dir: TempDir,
    files: Vec<Whole>,
}

/// A file with every tensor.
struct Whole {
    path: PathBuf,
    file: MappedFile,
    formats: Vec<Option<Format>>,
    /// Checksum and place of every section.
    sections: Vec<(u32, Range<usize>)>,
}

impl Shelf {
    /// An empty shelf in the folder of `out`.
    pub(crate) fn new(out: &Path) -> Result<Self, Error> {
        let dir = out.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = tempfile::Builder::new().prefix(&unfinished_prefix()).suffix(".tmp").tempdir_in(dir).map_err(|e| Error::io(dir, e))?;
        Ok(Shelf { dir, files: Vec::new() })
    }

    /// Adds the file that `write` makes of these formats.
    pub(crate) fn add(&mut self, formats: &[Option<Format>], write: &mut dyn FnMut(&Path) -> Result<Report, Error>) -> Result<(), Error> {
        let path = self.dir.path().join(format!("{}.brook", self.files.len()));
        write(&path)?;
        self.files.push(Whole::open(&path, formats)?);
        Ok(())
    }

    /// A shelf with the first file of this one and the file in `path`, which stays where it is.
    pub(crate) fn first_and(&self, path: &Path, formats: &[Option<Format>]) -> Result<Self, Error> {
        let mut other = Shelf::new(&self.dir.path().join("made"))?;
        for first in self.files.iter().take(1) {
            other.files.push(Whole::open(&first.path, &first.formats)?);
        }
        other.files.push(Whole::open(path, formats)?);
        Ok(other)
    }

    /// Whether every tensor is there in these formats.
    pub(crate) fn holds(&self, formats: &[Option<Format>]) -> bool {
        (0..formats.len()).all(|i| self.files.iter().any(|whole| whole.formats.get(i) == formats.get(i)))
    }

    /// A checksum of the first `count` tensors of the first file.
    pub(crate) fn checksum(&self, count: usize) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        let sections = self.files.iter().take(1).flat_map(|whole| whole.sections.iter().take(count));
        sections.for_each(|(crc32, place)| {
            sum.update(&crc32.to_le_bytes());
            sum.update(&(place.len() as u64).to_le_bytes());
        });
        sum.finalize()
    }

    /// The bytes of the file that these formats make, without its proof; each tensor's must be on the shelf.
    pub(crate) fn mix(&self, layout: &Layout<'_>, formats: &[Option<Format>]) -> Result<Image, Error> {
        let mut sections = layout.sections(formats);
        let mut parts = Vec::with_capacity(sections.len());
        for (i, section) in sections.iter_mut().enumerate() {
            let found = self.files.iter().find(|whole| whole.formats.get(i) == formats.get(i));
            let found = found.and_then(|whole| Some((whole, whole.sections.get(i)?)));
            let (whole, (crc32, place)) =
                found.ok_or_else(|| Error::invalid(self.dir.path(), &section.name, "is in no file made so far"))?;
            section.crc32 = *crc32;
            parts.push((whole, place.clone()));
        }
        let header = layout.header(&sections, 0).map_err(|e| Error::invalid(self.dir.path(), "header", e))?;
        if parts.iter().map(|(_, place)| place.len()).sum::<usize>() > LARGE_BYTES {
            return Image::in_file(self.dir.path(), &header, &parts).map_err(|e| Error::io(self.dir.path(), e));
        }
        let parts: Vec<&[u8]> = parts.iter().map(|(whole, place)| &whole.file.bytes()[place.clone()]).collect();
        Ok(Image::new(&header, &parts))
    }
}

impl Whole {
    fn open(path: &Path, formats: &[Option<Format>]) -> Result<Self, Error> {
        let file = MappedFile::open(path).map_err(|e| Error::io(path, e))?;
        let sections = places(&Model::from_bytes(file.bytes())?);
        Ok(Whole { path: path.to_owned(), file, formats: formats.to_vec(), sections })
    }
}

/// Checksum and place in the file of every section of a model.
fn places(model: &Model<'_>) -> Vec<(u32, Range<usize>)> {
    let artifact = model.artifact();
    let records = || (0..model.header().sections.count).filter_map(|i| artifact.section(i));
    let bytes_of = |record: &Section| artifact.bytes_of(record).map_or(0, <[u8]>::len);
    // The blob ends with its last section, and with the file.
    let blob_bytes = records().next_back().map_or(0, |last| last.at as usize + bytes_of(&last));
    let blob_at = artifact.file_bytes() - blob_bytes;
    let place = |record: Section| {
        let start = blob_at + record.at as usize;
        (record.crc32, start..start + bytes_of(&record))
    };
    records().map(place).collect()
}

/// A file that has no name.
pub(crate) struct Image {
    bytes: Bytes,
    len: usize,
}

enum Bytes {
    Memory(Vec<Line>),
    /// Pages that the system can drop and read again.
    File(MappedFile),
}

impl Image {
    /// The header, then each section on a line of its own.
    pub(crate) fn new(header: &[u8], sections: &[&[u8]]) -> Self {
        let line = size_of::<Line>();
        let whole: usize = header.len() + sections.iter().map(|s| s.len().next_multiple_of(line)).sum::<usize>();
        let mut lines = vec![Line::ZERO; whole.div_ceil(line)];
        let bytes = Line::bytes_mut(&mut lines);
        bytes[..header.len()].copy_from_slice(header);
        let mut len = header.len();
        for section in sections {
            let at = len.next_multiple_of(line);
            bytes[at..at + section.len()].copy_from_slice(section);
            len = at + section.len();
        }
        Image { bytes: Bytes::Memory(lines), len }
    }

    /// The same in a file in the folder `dir`, without any of it in memory.
    fn in_file(dir: &Path, header: &[u8], sections: &[(&Whole, Range<usize>)]) -> io::Result<Self> {
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        file.write_all(header)?;
        let mut len = header.len();
        for (whole, place) in sections {
            let at = len.next_multiple_of(size_of::<Line>());
            file.write_all(&Line::bytes(&[Line::ZERO])[..at - len])?;
            let mut from = File::open(&whole.path)?;
            from.seek(SeekFrom::Start(place.start as u64))?;
            io::copy(&mut from.take(place.len() as u64), file.as_file_mut())?;
            len = at + place.len();
        }
        Ok(Image { bytes: Bytes::File(MappedFile::open(file.path())?), len })
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The checked model.
    pub(crate) fn model(&self) -> Result<Model<'_>, Error> {
        let bytes = match &self.bytes {
            Bytes::Memory(lines) => Line::bytes(lines),
            Bytes::File(file) => file.bytes(),
        };
        Ok(Model::from_bytes(&bytes[..self.len])?)
    }
}
