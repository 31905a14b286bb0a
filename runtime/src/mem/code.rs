//! Program code that only a start needs.

use rustix::mm::{Advice, madvise};
use std::fs::read_to_string;
use std::sync::Once;

/// Gives back the memory that program code takes, once in a process: what only a start ran through (arguments, checks of a file, a tokenizer)
/// does not stay resident beside a model. Code that runs on is mapped again from the system's cache, some pages at a time. A wish: where it
/// cannot be had nothing changes.
pub fn forget_code() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A debugger's breakpoints are in pages of the process's own, which would be lost.
        if is_traced(&read_to_string("/proc/self/status").unwrap_or_default()) {
            return;
        }
        for (at, len) in code(&read_to_string("/proc/self/maps").unwrap_or_default()) {
            #[allow(unsafe_code)]
            // SAFETY: these pages are a file's, readable and executable but not writable: they hold what the file holds, which the system reads
            // again when one is next run or read.
            let _ = unsafe { madvise(at as *mut _, len, Advice::LinuxDontNeed) };
        }
    });
}

fn is_traced(status: &str) -> bool {
    status.lines().filter_map(|line| line.strip_prefix("TracerPid:")).any(|pid| pid.trim() != "0")
}

/// Where code of files lies, by address and bytes: `start-end r-xp offset device inode path`.
fn code(maps: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    maps.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let (access, inode) = (fields.next()?, fields.nth(2)?);
        if access != "r-xp" || inode == "0" {
            return None;
        }
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        Some((start, end.checked_sub(start)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_what_files_hold_and_nobody_writes() {
        let maps = "\
559d2c400000-559d2c4b1000 r--p 00000000 fe:00 1234 /usr/bin/brooklet
559d2c4b1000-559d2c800000 r-xp 000b1000 fe:00 1234 /usr/bin/brooklet
559d2c800000-559d2c890000 r--p 003ff000 fe:00 1234 /usr/bin/brooklet
559d2d000000-559d2d021000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0000001000 rwxp 00000000 fe:00 99 /tmp/written
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0 [vdso]
nonsense
";
        assert!(code(maps).eq([(0x559d_2c4b_1000, 0x34_f000)]));
    }

    #[test]
    fn a_debugger_is_left_alone() {
        assert!(is_traced("Name:\tx\nTracerPid:\t17\n") && !is_traced("TracerPid:\t0\n") && !is_traced(""));
    }

    #[test]
    fn code_runs_on_when_it_was_forgotten() {
        forget_code();
        forget_code();
        assert_eq!("a step".split(' ').count(), 2);
    }
}
