//! From a checkpoint to a file, and the file's proof that this machine computes what it should.
//!
//!     cargo run --release -p brooklet-examples --example 05_quantize_your_own

use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use brooklet::{Line, Model, kernels, self_test};
use brooklet_examples::asset;
use brooklet_quantize::{Checkpoint, Recipe, quantize};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let checkpoint = Checkpoint::open(asset("models/watch"))?;
    let dir = tempfile::tempdir()?;
    for format in [Format::F32, Format::Q8, Format::Q4] {
        let path = dir.path().join(format!("watch-{}.brook", format.name()));
        let recipe = Recipe { format, ..Recipe::default() };
        let report = quantize(&checkpoint, &recipe, &path, &mut |_| {})?;
        let worst = report.tensors.iter().fold(0.0f32, |m, t| m.max(t.relative_error));

        let file = MappedFile::open(&path)?;
        let model = Model::from_bytes(file.bytes())?;
        let mut state = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
        let mut scratch = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
        self_test(&model, kernels::detect(), Line::bytes_mut(&mut state), Line::bytes_mut(&mut scratch))?;
        println!("{:>4}: {:6} bytes, largest error of a tensor {:.2} %", format.name(), report.file_bytes, 100.0 * worst);
    }
    Ok(())
}
