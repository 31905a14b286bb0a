//! Any bytes as a checkpoint folder: up to the first zero byte config.json, behind it model.safetensors.

#![no_main]

use brooklet_fuzz::{explore, place};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = place();
    let cut = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    let (config, weights) = (&bytes[..cut], bytes.get(cut + 1..).unwrap_or_default());
    if std::fs::write(dir.join("config.json"), config).and_then(|()| std::fs::write(dir.join("model.safetensors"), weights)).is_ok() {
        explore(&dir);
    }
});
