//! The boards: those that QEMU emulates, and those that can be bought.

/// A machine of QEMU's.
pub(crate) struct Board {
    /// Its name here and in `targets/cortex-m/boards/qemu/memory/`; QEMU's name of the machine.
    pub(crate) name: &'static str,
    /// Its processor.
    pub(crate) core: &'static str,
    /// Rust's name of the target.
    pub(crate) target: &'static str,
    /// Code for this very processor (`-Ctarget-cpu`), instead of for every one of the target.
    pub(crate) cpu: Option<&'static str>,
    /// The model in its flash: a file in `examples/models/`.
    pub(crate) model: &'static str,
}

/// Boards of one target stand side by side: all but the first find its libraries built.
pub(crate) const BOARDS: [Board; 7] = [
    Board { name: "mps2-an386", core: "Cortex-M4F", target: "thumbv7em-none-eabihf", cpu: None, model: "watch" },
    Board { name: "mps2-an500", core: "Cortex-M7", target: "thumbv7em-none-eabihf", cpu: None, model: "watch" },
    Board { name: "mps2-an505", core: "Cortex-M33", target: "thumbv8m.main-none-eabihf", cpu: Some("cortex-m33"), model: "watch" },
    Board { name: "mps3-an547", core: "Cortex-M55", target: "thumbv8m.main-none-eabihf", cpu: Some("cortex-m55"), model: "watch" },
    // The Cortex-M0's instructions, with memory for the larger model.
    Board { name: "mps2-an385", core: "Cortex-M3", target: "thumbv6m-none-eabi", cpu: None, model: "watch" },
    Board { name: "microbit", core: "Cortex-M0", target: "thumbv6m-none-eabi", cpu: None, model: "watch-small" },
    Board { name: "virt", core: "RV32IMAC", target: "riscv32imac-unknown-none-elf", cpu: None, model: "watch" },
];

/// A board that can be bought; its firmware is built, and runs on it alone.
pub(crate) struct Kit {
    /// Its folder in `targets/cortex-m/boards/`, and the program's name.
    pub(crate) name: &'static str,
    /// Its processor.
    pub(crate) core: &'static str,
    /// Rust's name of the target.
    pub(crate) target: &'static str,
}

pub(crate) const KITS: [Kit; 2] = [
    Kit { name: "nrf52840", core: "Cortex-M4F", target: "thumbv7em-none-eabihf" },
    Kit { name: "stm32f411", core: "Cortex-M4F", target: "thumbv7em-none-eabihf" },
];
