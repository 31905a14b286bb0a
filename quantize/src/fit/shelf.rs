//! Whole files of one model in different formats, and files mixed from their sections: a mix costs a copy, no rounding.

use crate::error::Error;
use crate::graph::Graph;
use crate::lower::{self, Layout};
use crate::recipe::Recipe;
use brooklet::Model;
use brooklet::artifact::Section;
use brooklet::kernels::quant::Format;
use brooklet::mem::{Line, MappedFile};
use std::ops::Range;
use std::path::Path;
use tempfile::TempDir;

/// Files beside the one that is made; they go when the shelf goes.
pub(super) struct Shelf<'g> {
    graph: &'g Graph<'g>,
    recipe: Recipe,
    dir: TempDir,
    files: Vec<Whole>,
}

/// A file with every tensor.
struct Whole {
    file: MappedFile,
    formats: Vec<Option<Format>>,
    /// Checksum and place of every section.
    sections: Vec<(u32, Range<usize>)>,
}

impl<'g> Shelf<'g> {
    /// An empty shelf in the folder of `out`.
    pub(super) fn new(graph: &'g Graph<'_>, recipe: &Recipe, out: &Path) -> Result<Self, Error> {
        let dir = out.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let dir = tempfile::Builder::new().prefix(".brooklet-").suffix(".tmp").tempdir_in(dir).map_err(|e| Error::io(dir, e))?;
        Ok(Shelf { graph, recipe: *recipe, dir, files: Vec::new() })
    }

    /// Adds a file with these formats.
    pub(super) fn add(&mut self, formats: &[Option<Format>], progress: &mut dyn FnMut(lower::Progress<'_>)) -> Result<(), Error> {
        let path = self.dir.path().join(format!("{}.brook", self.files.len()));
        lower::write_formats(self.graph, &self.recipe, formats, &path, progress)?;
        let file = MappedFile::open(&path).map_err(|e| Error::io(&path, e))?;
        let sections = places(&Model::from_bytes(file.bytes())?);
        self.files.push(Whole { file, formats: formats.to_vec(), sections });
        Ok(())
    }

    /// The bytes of the file that these formats make, without its proof; each tensor's must be on the shelf.
    pub(super) fn mix(&self, layout: &Layout<'_>, formats: &[Option<Format>]) -> Result<Image, Error> {
        let mut sections = layout.sections(formats);
        let mut parts = Vec::with_capacity(sections.len());
        for (i, section) in sections.iter_mut().enumerate() {
            let found = self.files.iter().find(|whole| whole.formats.get(i) == formats.get(i));
            let found = found.and_then(|whole| {
                let (crc32, place) = whole.sections.get(i)?;
                Some((*crc32, whole.file.bytes().get(place.clone())?))
            });
            let (crc32, bytes) = found.ok_or_else(|| Error::invalid(self.dir.path(), &section.name, "is in no file made so far"))?;
            section.crc32 = crc32;
            parts.push(bytes);
        }
        let header = layout.header(&sections, 0).map_err(|e| Error::invalid(self.dir.path(), "header", e))?;
        Ok(Image::new(&header, &parts))
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

/// A file in memory.
pub(crate) struct Image {
    lines: Vec<Line>,
    len: usize,
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
        Image { lines, len }
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The checked model.
    pub(crate) fn model(&self) -> Result<Model<'_>, Error> {
        Ok(Model::from_bytes(&Line::bytes(&self.lines)[..self.len])?)
    }
}
