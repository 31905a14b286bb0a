//! CRC-32 (IEEE), of files and snapshots.

/// CRC-32 of `bytes`: as fast as the processor allows.
#[cfg(feature = "std")]
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of `bytes`, with a table of 1 KiB: the fast one's would take 16 KiB of flash.
#[cfg(not(feature = "std"))]
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const IEEE: crc::Crc<u32, crc::Table<1>> = crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISO_HDLC);
    IEEE.checksum(bytes)
}
