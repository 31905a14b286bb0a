//! Bundles the model and the memory layout.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    brooklet_bundle::model(&here.join("../../../../examples/models/watch.brook"));
    brooklet_bundle::memory(&here.join("memory.x"));
    println!("cargo::rustc-link-arg-bins=-Tlink.x");
    println!("cargo::rustc-link-arg-bins=--nmagic");
    if std::env::var_os("CARGO_FEATURE_DEFMT").is_some() {
        println!("cargo::rustc-link-arg-bins=-Tdefmt.x");
    }
}
