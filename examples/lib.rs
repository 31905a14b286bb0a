//! Where the examples find their models and recordings.

use std::path::{Path, PathBuf};

/// A file under `examples/`.
pub fn asset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The samples of a recording, one list of channels per line.
pub fn recording(name: &str) -> std::io::Result<Vec<Vec<f32>>> {
    let text = std::fs::read_to_string(asset("recordings").join(name))?;
    Ok(text.lines().skip(1).map(|line| line.split(',').filter_map(|x| x.parse().ok()).collect()).collect())
}
