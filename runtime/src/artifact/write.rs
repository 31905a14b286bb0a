//! The writer: lays sections out, fills in their checksums, and puts prelude and header before them.

use super::{Content, Header, MAGIC, PRELUDE_BYTES, SECTION_ALIGN, Section, Slot, Table, VERSION};
use crate::checksum::crc32;
use crate::ops::Op;
use alloc::string::String;
use alloc::vec::Vec;
use serde::Serialize;

/// A section to write.
#[derive(Clone, Debug)]
pub struct SectionSource {
    /// Name, for reports.
    pub name: String,
    /// What it holds.
    pub content: Content,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// CRC-32 of its bytes.
    pub crc32: u32,
}

/// Encodes everything before the blob: prelude, header and padding. The sections follow it in the given order, each padded
/// with zeros to the next multiple of 64 but for the last.
///
/// `header` brings the fields that are not tables; its `names`, `sections`, `slots` and `program` are replaced.
pub fn write(header: Header<'_>, sections: &[SectionSource], slots: &[Slot], program: &[Op]) -> Result<Vec<u8>, postcard::Error> {
    let mut names = String::new();
    let mut records = Vec::new();
    let mut end = 0u64;
    for section in sections {
        let at = end.next_multiple_of(SECTION_ALIGN as u64);
        let bytes = section.content.bytes(section.rows, section.cols).ok_or(postcard::Error::SerializeBufferFull)?;
        end = at + bytes;
        records.push(Section {
            at,
            crc32: section.crc32,
            rows: section.rows,
            cols: section.cols,
            name_at: u32::try_from(names.len()).map_err(|_| postcard::Error::SerializeBufferFull)?,
            name_len: u16::try_from(section.name.len()).map_err(|_| postcard::Error::SerializeBufferFull)?,
            content: section.content,
        });
        names.push_str(&section.name);
    }
    let (sections, slots, program) = (encode(&records)?, encode(slots)?, encode_program(program)?);
    let header = Header {
        names: &names,
        sections: Table::new(sections.0, &sections.1),
        slots: Table::new(slots.0, &slots.1),
        program: Table::new(program.0, &program.1),
        ..header
    };
    let header = postcard::to_allocvec(&header)?;
    let mut out = Vec::with_capacity(PRELUDE_BYTES + header.len() + SECTION_ALIGN);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(header.len() as u32).to_le_bytes());
    out.extend_from_slice(&crc32(&header).to_le_bytes());
    out.extend_from_slice(&header);
    out.resize(out.len().next_multiple_of(SECTION_ALIGN), 0);
    Ok(out)
}

fn encode<T: Serialize>(records: &[T]) -> Result<(u32, Vec<u8>), postcard::Error> {
    let mut bytes = Vec::new();
    for record in records {
        bytes.extend_from_slice(&postcard::to_allocvec(record)?);
    }
    Ok((records.len() as u32, bytes))
}

/// The operations, with the bytes of each block that runs at a rate of its own.
fn encode_program(program: &[Op]) -> Result<(u32, Vec<u8>), postcard::Error> {
    let mut bytes = Vec::new();
    for (i, op) in program.iter().enumerate() {
        let op = match *op {
            Op::Every(mut every) => {
                let block = program.iter().skip(i + 1).take(every.ops as usize);
                let lens = block.map(|op| Ok(postcard::to_allocvec(op)?.len() as u32)).sum::<Result<u32, postcard::Error>>();
                every.bytes = lens?;
                Op::Every(every)
            }
            op => op,
        };
        bytes.extend_from_slice(&postcard::to_allocvec(&op)?);
    }
    Ok((program.len() as u32, bytes))
}
