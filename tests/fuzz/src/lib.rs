//! What the targets share.

use brooklet_quantize::graph::Values;
use brooklet_quantize::{Checkpoint, families};
use std::path::{Path, PathBuf};

/// A folder of this process, in memory where there is such a place.
pub fn place() -> PathBuf {
    let shm = Path::new("/dev/shm");
    let root = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    let dir = root.join(format!("brooklet-fuzz-{}", std::process::id()));
    let _ = std::fs::create_dir_all(&dir);
    dir
}

/// Opens a checkpoint and does what quantizing it would do before it writes.
pub fn explore(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let _ = checkpoint.notes();
    let _ = checkpoint.tokenizer();
    if let Ok(graph) = families::build(&checkpoint) {
        for tensor in &graph.tensors {
            if let Values::Matrix(_, load) = &tensor.values {
                let _ = load();
            }
        }
    }
    for name in checkpoint.names() {
        let _ = checkpoint.shape(name).and_then(|shape| checkpoint.tensor(name, &shape));
    }
}
