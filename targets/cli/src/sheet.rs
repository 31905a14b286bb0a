//! The memory sheet: what a model costs, before it runs.

use brooklet::Model;
use serde::Serialize;
use std::io::{self, Write};

/// Sizes that a device has to provide.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sheet {
    /// The whole file.
    pub(crate) file_bytes: u64,
    /// What a step reads of it.
    pub(crate) weights_bytes: u64,
    /// One stream.
    pub(crate) state_bytes: u64,
    /// A session that takes one token at a time.
    pub(crate) scratch_bytes: u64,
    /// Multiplications with additions.
    pub(crate) macs_per_step: u64,
}

impl Sheet {
    pub(crate) fn of(model: &Model<'_>) -> Self {
        Sheet {
            file_bytes: model.artifact().file_bytes() as u64,
            weights_bytes: model.plan().weights_bytes,
            state_bytes: model.state_bytes() as u64,
            scratch_bytes: model.scratch_bytes(1) as u64,
            macs_per_step: model.plan().macs_per_step,
        }
    }

    pub(crate) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "Memory")?;
        let rows = [
            ("file", self.file_bytes, "read-only: flash, or a mapped file"),
            ("weights", self.weights_bytes, "part of the file that steps read"),
            ("state", self.state_bytes, "RAM per stream, never grows"),
            ("scratch", self.scratch_bytes, "RAM per session, one token at a time"),
        ];
        for (name, bytes, what) in rows {
            writeln!(out, "  {name:<8} {:>10}  {:>15} bytes  {what}", short(bytes), grouped(bytes))?;
        }
        writeln!(out, "  {:<8} {:>10}  {:>15} MACs   per step", "work", "", grouped(self.macs_per_step))
    }
}

/// A size in the largest unit that leaves at least one whole.
pub(crate) fn short(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = "B";
    for larger in units {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{size:.1} {unit}") }
}

/// Digits in groups of three: 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{grouped, short};

    #[test]
    fn sizes_are_readable() {
        assert_eq!(short(1023), "1023 B");
        assert_eq!(short(1536), "1.5 KiB");
        assert_eq!(short(u64::MAX), "16777216.0 TiB");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }
}
