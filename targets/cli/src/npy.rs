//! NumPy's file format, version 1.0: enough to write a table of floats.

use std::io::{self, Write};

/// Writes the head of a file with `shape` little-endian `f32`, row-major; the numbers follow with [`write_row`].
pub(crate) fn write_head(out: &mut dyn Write, shape: [usize; 2]) -> io::Result<()> {
    let [rows, cols] = shape;
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    // Magic, version and length take 10 bytes; the numbers start on a multiple of 64.
    let len = (10 + dict.len() + 1).next_multiple_of(64) - 10;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&(len as u16).to_le_bytes())?;
    writeln!(out, "{dict:<width$}", width = len - 1)
}

/// Writes the next numbers.
pub(crate) fn write_row(out: &mut dyn Write, row: &[f32]) -> io::Result<()> {
    row.iter().try_for_each(|x| out.write_all(&x.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bytes_are_those_of_numpy() {
        let mut file = Vec::new();
        super::write_head(&mut file, [2, 3]).unwrap();
        super::write_row(&mut file, &[1.0; 6]).unwrap();
        assert_eq!(file.len(), 128 + 24);
        assert_eq!(&file[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert!(file[10..128].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  ") && file[127] == b'\n');
    }
}
