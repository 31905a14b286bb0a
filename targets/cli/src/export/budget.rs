//! What a device has room for.

use crate::sheet::{Sheet, short};

/// Room that the user gives a model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// For the file.
    pub(crate) flash_bytes: Option<u64>,
    /// For state and scratch.
    pub(crate) ram_bytes: Option<u64>,
}

impl Budget {
    /// What does not fit, in words.
    pub(crate) fn excesses(self, sheet: &Sheet) -> Vec<String> {
        let needs = [
            ("flash", "the model", sheet.file_bytes, self.flash_bytes),
            ("ram", "state and scratch", sheet.state_bytes + sheet.scratch_bytes, self.ram_bytes),
        ];
        let over = needs.into_iter().filter_map(|(option, what, needed, given)| given.map(|g| (option, what, needed, g)));
        over.filter(|(_, _, needed, given)| needed > given)
            .map(|(option, what, needed, given)| {
                format!(
                    "--{option} {}: {what} take{} {needed} bytes, {} more",
                    short(given),
                    if option == "ram" { "" } else { "s" },
                    needed - given
                )
            })
            .collect()
    }
}

/// Reads a size such as `163840`, `160KiB` or `1.5MiB`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text.get(digits.len()..).unwrap_or_default().trim().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        _ => return Err("use bytes, KiB, MiB or GiB".to_owned()),
    };
    let number: f64 = digits.parse().map_err(|_| "must be a number of bytes, KiB, MiB or GiB, such as 160KiB".to_owned())?;
    let bytes = number * factor;
    if bytes >= 1.0 && bytes <= 2f64.powi(50) { Ok(bytes as u64) } else { Err("must be from 1 byte to 1 PiB".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_have_units() {
        let sizes = ["163840", "160KiB", "160 kib", "160K", "1.5MiB", "2kB"].map(size);
        assert_eq!(sizes, [163_840, 163_840, 163_840, 163_840, 1_572_864, 2000].map(Ok));
        for bad in ["", "KiB", "-3", "12parsec", "0", "nan", "1e99"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }
}
