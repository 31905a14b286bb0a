//! Any bytes as a GGUF file: opened, its tokenizer made, its graph built, its tensors read.

#![no_main]

use brooklet_fuzz::{explore, place};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = place();
    let path = dir.join("model.gguf");
    if std::fs::write(&path, bytes).is_ok() {
        explore(&path);
    }
});
