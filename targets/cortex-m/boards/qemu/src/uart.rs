//! The machine's first serial port, written byte by byte. Emulated ports need no rate.

use crate::register::{read, write, write_byte};
use core::convert::Infallible;
use core::fmt;

/// The kinds of port that the machines have, each with its base address.
#[allow(dead_code, reason = "a board has one kind")]
enum Port {
    /// Arm's CMSDK: data at 0, state at 4 (bit 0: full), control at 8 (bit 0: transmit).
    Cmsdk(usize),
    /// Nordic's nRF51: start transmission at 0x008, ready at 0x11c, enable at 0x500, data at 0x51c.
    Nrf51(usize),
    /// 16550: data at 0, line state at 5 (bit 5: empty). Registers are bytes.
    Ns16550(usize),
}

#[cfg(any(board = "mps2-an385", board = "mps2-an386", board = "mps2-an500"))]
const PORT: Port = Port::Cmsdk(0x4000_4000);
#[cfg(board = "mps2-an505")]
const PORT: Port = Port::Cmsdk(0x5020_0000);
#[cfg(board = "mps3-an547")]
const PORT: Port = Port::Cmsdk(0x5930_3000);
#[cfg(board = "microbit")]
const PORT: Port = Port::Nrf51(0x4000_2000);
#[cfg(board = "virt")]
const PORT: Port = Port::Ns16550(0x1000_0000);

/// The first serial port.
pub struct Uart(());

impl Uart {
    /// The port, ready to send.
    pub fn console() -> Self {
        match PORT {
            Port::Cmsdk(base) => write(base + 8, 1),
            Port::Nrf51(base) => {
                write(base + 0x500, 4);
                write(base + 0x008, 1);
            }
            Port::Ns16550(_) => {}
        }
        Uart(())
    }

    fn send(&mut self, byte: u8) {
        match PORT {
            Port::Cmsdk(base) => {
                while read(base + 4) & 1 != 0 {}
                write(base, byte.into());
            }
            Port::Nrf51(base) => {
                write(base + 0x11c, 0);
                write(base + 0x51c, byte.into());
                while read(base + 0x11c) == 0 {}
            }
            Port::Ns16550(base) => write_byte(base, byte),
        }
    }
}

impl embedded_io::ErrorType for Uart {
    type Error = Infallible;
}

impl embedded_io::Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        bytes.iter().for_each(|&byte| self.send(byte));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| self.send(byte));
        Ok(())
    }
}
