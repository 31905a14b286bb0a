//! The reader: checks every byte of a file once, then gives out views of it.
//!
//! All arithmetic is checked and every size is compared with what is there before it is used. Nothing is allocated.

use super::{
    Content, Header, InputSpec, MAGIC, MAX_CHANNELS, MAX_FRAME, MAX_OPS, MAX_SECTIONS, MAX_SLOTS, PRELUDE_BYTES, Places, Record,
    SECTION_ALIGN, Section, Slot, VERSION, line_count,
};
use crate::checksum::crc32;
use crate::error::{Error, HeaderFault, SectionFault};
use brooklet_kernels::quant::{Matrix, MatrixError};
use core::ops::Range;

/// A file whose structure and checksums hold.
#[derive(Clone, Copy, Debug)]
pub struct Artifact<'a> {
    header: Header<'a>,
    /// Identifies the model: it covers the header, and so every section's checksum.
    hash: u64,
    file_bytes: usize,
    blob: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Artifact<'a> {
    /// Checks `bytes`, which must start on a 64-byte boundary, and borrows them.
    pub fn from_bytes(bytes: &'a [u8]) -> Result<Self, Error> {
        let artifact = Self::from_header(bytes)?;
        artifact.check_contents(0..u32::MAX)?;
        Ok(artifact)
    }

    /// Checks the header alone: whether what it says of the rest is true is for [`Artifact::check_contents`] to find out.
    #[inline(always)] // Firmware has it once.
    pub(crate) fn from_header(bytes: &'a [u8]) -> Result<Self, Error> {
        let have_bytes = bytes.len() as u64;
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::NotBrook);
        }
        let short = Error::Length { needed_bytes: PRELUDE_BYTES as u64, have_bytes };
        let version = u32_at(bytes, 4).ok_or(short)?;
        let header_len = u32_at(bytes, 8).ok_or(short)?;
        let header_crc = u32_at(bytes, 12).ok_or(short)?;
        if version != VERSION {
            return Err(Error::Version { found: version });
        }
        let needed_bytes = PRELUDE_BYTES as u64 + u64::from(header_len);
        let rest = bytes.get(PRELUDE_BYTES..).ok_or(short)?;
        let (header_bytes, rest) = rest.split_at_checked(header_len as usize).ok_or(Error::Length { needed_bytes, have_bytes })?;
        if crc32(header_bytes) != header_crc {
            return Err(Error::Header(HeaderFault::Checksum));
        }
        let (header, after) = postcard::take_from_bytes::<Header<'a>>(header_bytes).map_err(|_| Error::Header(HeaderFault::Encoding))?;
        let padding = (needed_bytes as usize).next_multiple_of(SECTION_ALIGN) - needed_bytes as usize;
        let blob_at = needed_bytes + padding as u64;
        let (padding, blob) = rest.split_at_checked(padding).ok_or(Error::Length { needed_bytes: blob_at, have_bytes })?;
        if !after.is_empty() || padding.iter().any(|&b| b != 0) {
            return Err(Error::Header(HeaderFault::Inconsistent));
        }
        if bytes.as_ptr().align_offset(SECTION_ALIGN) != 0 {
            return Err(Error::Alignment { what: "model", align: SECTION_ALIGN as u32 });
        }
        let artifact = Artifact { header, hash: crate::selftest::fnv1a(header_bytes), file_bytes: bytes.len(), blob };
        artifact.check_tables()?;
        Ok(artifact)
    }

    /// Checks where sections lie, what `wanted` ones hold, and the golden input.
    #[inline(always)] // Firmware has it once.
    pub(crate) fn check_contents(&self, wanted: Range<u32>) -> Result<(), Error> {
        let have_bytes = self.file_bytes as u64;
        self.check_sections(wanted, have_bytes - self.blob.len() as u64, have_bytes)?;
        self.check_input()
    }

    fn check_tables(&self) -> Result<(), Error> {
        let h = &self.header;
        let whole =
            |count: u32, most: u32, bytes: usize, record: usize| count <= most && (count as usize).checked_mul(record) == Some(bytes);
        let consistent = h.program.count <= MAX_OPS
            && h.program.is_whole()
            && h.frame_len <= MAX_FRAME
            && whole(h.sections.count, MAX_SECTIONS, h.sections.bytes.len(), Section::BYTES)
            && whole(h.slots.count, MAX_SLOTS, h.slots.bytes.len(), Slot::BYTES)
            && h.sections.is_whole()
            && h.slots.is_whole();
        if consistent { Ok(()) } else { Err(Error::Header(HeaderFault::Inconsistent)) }
    }

    /// The golden input must be whole steps of what the model takes, a time between them must be one, the tokenizer a section and the tokens
    /// around a text ids that exist.
    fn check_input(&self) -> Result<(), Error> {
        let golden = self.header.golden;
        let (width, consistent) = match self.header.input {
            InputSpec::Tokens { vocab, bos, eos, tokenizer } => {
                let known = |id: Option<u32>| id.is_none_or(|id| id < vocab);
                let is_tokenizer = |index| self.section(index).is_some_and(|s| s.content.is_tokenizer());
                (1, known(bos) && known(eos) && tokenizer.is_none_or(is_tokenizer))
            }
            InputSpec::Frames { channels, rate_hz, .. } => {
                let width = line_count(channels);
                (width, (1..=MAX_CHANNELS).contains(&width) && rate_hz.is_finite() && rate_hz > 0.0)
            }
        };
        let golden_bytes = width.checked_mul(4).and_then(|frame| frame.checked_mul(golden.steps as usize));
        if consistent && golden_bytes == Some(golden.input.len()) { Ok(()) } else { Err(Error::Header(HeaderFault::Inconsistent)) }
    }

    #[inline(always)] // Firmware has it once, and wants all.
    fn check_sections(&self, wanted: Range<u32>, blob_at: u64, have_bytes: u64) -> Result<(), Error> {
        let mut end = 0usize;
        for index in 0..self.header.sections.count {
            let fail = |fault| Error::Section { index, fault };
            let section = self.header.sections.get(index).ok_or(fail(SectionFault::Place))?;
            self.name_of(&section).ok_or(fail(SectionFault::Name))?;
            let start = end.checked_next_multiple_of(SECTION_ALIGN).ok_or(fail(SectionFault::Place))?;
            if section.at != start as u64 {
                return Err(fail(SectionFault::Place));
            }
            let len = section.content.bytes(section.rows, section.cols).ok_or(fail(SectionFault::Length))?;
            let needed_bytes = section.at.checked_add(len).and_then(|n| n.checked_add(blob_at)).ok_or(fail(SectionFault::Length))?;
            let missing = Error::Length { needed_bytes, have_bytes };
            if cfg!(feature = "std") && !wanted.contains(&index) {
                let after = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
                end = after.filter(|&after| after <= self.blob.len()).ok_or(missing)?;
                continue;
            }
            let padding = self.blob.get(end..start).ok_or(missing)?;
            if padding.iter().any(|&b| b != 0) {
                return Err(fail(SectionFault::Place));
            }
            let bytes = self.blob.get(start..).and_then(|b| b.get(..usize::try_from(len).ok()?)).ok_or(missing)?;
            if crc32(bytes) != section.crc32 {
                return Err(fail(SectionFault::Checksum));
            }
            if let Some(format) = section.content.format() {
                let matrix = Matrix::from_bytes(format, section.rows as usize, section.cols as usize, bytes)
                    .map_err(|e| fail(if e == MatrixError::Format { SectionFault::Format } else { SectionFault::Values }))?;
                if section.rows == 0 || section.cols == 0 || !matrix.scales_are_finite() {
                    return Err(fail(SectionFault::Values));
                }
            }
            end = start + bytes.len();
        }
        if end != self.blob.len() {
            return Err(Error::Length { needed_bytes: blob_at + end as u64, have_bytes });
        }
        Ok(())
    }

    /// The header.
    pub fn header(&self) -> &Header<'a> {
        &self.header
    }

    /// A number that two different models do not share.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> usize {
        self.file_bytes
    }

    /// A section's record.
    pub fn section(&self, index: u32) -> Option<Section> {
        self.header.sections.get(index)
    }

    /// A section's name.
    pub fn name_of(&self, section: &Section) -> Option<&'a str> {
        let at = usize::try_from(section.name_at).ok()?;
        self.header.names.get(at..at.checked_add(usize::from(section.name_len))?)
    }

    /// A section's bytes.
    pub fn bytes_of(&self, section: &Section) -> Option<&'a [u8]> {
        let at = usize::try_from(section.at).ok()?;
        let len = usize::try_from(section.content.bytes(section.rows, section.cols)?).ok()?;
        self.blob.get(at..at.checked_add(len)?)
    }

    /// Section `index` as a matrix.
    pub fn matrix(&self, index: u32) -> Option<Matrix<'a>> {
        let section = self.section(index)?;
        let bytes = self.bytes_of(&section)?;
        Matrix::from_bytes(section.content.format()?, section.rows as usize, section.cols as usize, bytes).ok()
    }

    /// Section `index` as an array of `f32`.
    pub fn array(&self, index: u32) -> Option<&'a [f32]> {
        let section = self.section(index)?;
        (section.content == Content::Array).then_some(())?;
        crate::mem::numbers(self.bytes_of(&section)?)
    }

    /// Section `index` as rotary turns.
    pub fn turns(&self, index: u32) -> Option<&'a [u64]> {
        let section = self.section(index)?;
        (section.content == Content::Turns).then_some(())?;
        crate::mem::numbers(self.bytes_of(&section)?)
    }

    /// Section `index` as places of rows.
    pub fn places(&self, index: u32) -> Option<Places<'a>> {
        let section = self.section(index)?;
        (section.content == Content::Places).then_some(())?;
        let bytes = self.bytes_of(&section)?;
        let count = (section.rows as usize).checked_mul(section.cols as usize)?;
        match Places::bytes_each(count) {
            2 => crate::mem::numbers(bytes).map(Places::Short),
            _ => crate::mem::numbers(bytes).map(Places::Long),
        }
    }
}
