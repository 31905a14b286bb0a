//! Says whether the target is a Cortex-M core with the DSP extension and a single-precision FPU (`cfg(cortex_m_dsp)`), and whether it
//! has Helium (`cfg(cortex_m_helium)`): the compiler knows, but stable Rust does not tell it to the code.

use std::env;

/// Cores whose `-Ctarget-cpu` brings the DSP extension to `thumbv8m.main`; the second half has Helium too.
const DSP_CORES: [&str; 7] = ["cortex-m33", "cortex-m33f", "cortex-m35p", "star-mc1", "cortex-m55", "cortex-m85", "cortex-m52"];
const HELIUM_CORES: [&str; 3] = ["cortex-m55", "cortex-m85", "cortex-m52"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(cortex_m_dsp, cortex_m_helium, cortex_m_v8)");
    let target = env::var("TARGET").unwrap_or_default();
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let is_core =
        |cores: &[&str]| flags.split('\x1f').any(|flag| flag.split_once("target-cpu=").is_some_and(|(_, core)| cores.contains(&core)));
    let dsp = match target.as_str() {
        "thumbv7em-none-eabihf" => true,
        "thumbv8m.main-none-eabihf" => is_core(&DSP_CORES),
        _ => false,
    };
    if dsp {
        println!("cargo::rustc-cfg=cortex_m_dsp");
        if target.starts_with("thumbv8m") {
            println!("cargo::rustc-cfg=cortex_m_v8");
        }
    }
    if dsp && is_core(&HELIUM_CORES) {
        if !flags.contains("-mve.fp") {
            // Where the compiler may use them, the bits are no longer those of other CPUs.
            println!("cargo::error=Helium's float instructions flush subnormal numbers to zero: add -Ctarget-feature=-mve.fp to RUSTFLAGS");
        }
        println!("cargo::rustc-cfg=cortex_m_helium");
    }
}
