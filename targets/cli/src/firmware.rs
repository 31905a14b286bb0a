//! What a firmware around a model takes, before it is built: the model's own numbers, and what every firmware adds to them.

use crate::sheet::{Sheet, grouped};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// Measured on linked programs; `cargo xtask size` keeps it within 2 % of them.
const BUDGET: &str = include_str!("../../cortex-m/budget.json");
/// Larger models fit no microcontroller's flash, inside or memory-mapped.
const LARGEST_FILE_BYTES: u64 = 16 << 20;

#[derive(Deserialize)]
struct Budget {
    firmware: Vec<Overhead>,
}

/// What the least firmware for a target takes besides its model.
#[derive(Default, Deserialize)]
pub(crate) struct Overhead {
    target: String,
    core: String,
    /// Code and tables, every operation included.
    pub(crate) flash_bytes: u64,
    /// Variables.
    pub(crate) static_bytes: u64,
    /// The deepest chain of calls, proven from the program.
    pub(crate) stack_bytes: u64,
}

/// Cores that the table knows.
pub(crate) const CORES: [&str; 4] = ["Cortex-M0", "Cortex-M4F", "Cortex-M33", "Cortex-M55"];

impl Overhead {
    /// That of a core; without one, the most of any.
    pub(crate) fn of(core: Option<&str>) -> Self {
        let all = serde_json::from_str::<Budget>(BUDGET).map(|budget| budget.firmware).unwrap_or_default();
        let named = all.into_iter().filter(|o| core.is_none_or(|core| o.core.eq_ignore_ascii_case(core)));
        named.fold(Overhead::default(), |a, b| Overhead {
            flash_bytes: a.flash_bytes.max(b.flash_bytes),
            static_bytes: a.static_bytes.max(b.static_bytes),
            stack_bytes: a.stack_bytes.max(b.stack_bytes),
            ..b
        })
    }
}

/// A firmware for one stream.
#[derive(Serialize)]
pub(crate) struct Firmware {
    core: String,
    target: String,
    flash_bytes: u64,
    ram_bytes: u64,
    runtime_flash_bytes: u64,
    static_bytes: u64,
    stack_bytes: u64,
}

impl Firmware {
    /// One per target; none if the model is too large for any.
    pub(crate) fn of(sheet: &Sheet) -> Vec<Firmware> {
        if sheet.file_bytes > LARGEST_FILE_BYTES {
            return Vec::new();
        }
        let Ok(budget) = serde_json::from_str::<Budget>(BUDGET) else { return Vec::new() };
        let firmware = |o: Overhead| Firmware {
            core: o.core,
            target: o.target,
            flash_bytes: sheet.file_bytes + o.flash_bytes,
            ram_bytes: sheet.state_bytes + sheet.scratch_bytes + o.static_bytes + o.stack_bytes,
            runtime_flash_bytes: o.flash_bytes,
            static_bytes: o.static_bytes,
            stack_bytes: o.stack_bytes,
        };
        budget.firmware.into_iter().map(firmware).collect()
    }

    pub(crate) fn print(sheet: &Sheet, out: &mut dyn Write) -> io::Result<()> {
        let all = Firmware::of(sheet);
        if all.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nFirmware, one stream (RAM: state, scratch, stack as proven from the program, variables)")?;
        for firmware in all {
            writeln!(
                out,
                "  {:<11} flash {:>9} bytes = model + {} of code   RAM {:>7} bytes = {} + {} + {} + {}   {}",
                firmware.core,
                grouped(firmware.flash_bytes),
                grouped(firmware.runtime_flash_bytes),
                grouped(firmware.ram_bytes),
                grouped(sheet.state_bytes),
                grouped(sheet.scratch_bytes),
                grouped(firmware.stack_bytes),
                grouped(firmware.static_bytes),
                firmware.target,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_core_is_in_the_table() {
        let most = Overhead::of(None);
        for core in CORES {
            let one = Overhead::of(Some(core));
            assert!(one.core == core && one.flash_bytes > 0 && one.flash_bytes <= most.flash_bytes, "{core}");
        }
    }

    #[test]
    fn the_table_is_readable_and_added_to_the_models_numbers() {
        let sheet = Sheet { file_bytes: 1000, weights_bytes: 0, state_bytes: 200, scratch_bytes: 30, macs_per_step: 0 };
        let all = Firmware::of(&sheet);
        assert!(!all.is_empty());
        for firmware in all {
            assert_eq!(firmware.flash_bytes, 1000 + firmware.runtime_flash_bytes);
            assert_eq!(firmware.ram_bytes, 230 + firmware.static_bytes + firmware.stack_bytes);
        }
        assert!(Firmware::of(&Sheet { file_bytes: LARGEST_FILE_BYTES + 1, ..sheet }).is_empty());
    }
}
