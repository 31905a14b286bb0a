//! Device registers: the one file with `unsafe` in it.
//!
//! Only for addresses of this machine's registers, constants in the files beside this one.

pub(crate) fn read(address: usize) -> u32 {
    // SAFETY: the address is a register's, which this machine has; reading it has no effect on memory.
    unsafe { (address as *const u32).read_volatile() }
}

pub(crate) fn write(address: usize, value: u32) {
    // SAFETY: the address is a register's, which this machine has; it is no memory of the program.
    unsafe { (address as *mut u32).write_volatile(value) }
}

pub(crate) fn write_byte(address: usize, value: u8) {
    // SAFETY: as `write`.
    unsafe { (address as *mut u8).write_volatile(value) }
}
