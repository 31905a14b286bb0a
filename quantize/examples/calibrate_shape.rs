//! What GPTQ of a published shape takes: random weights, tokens drawn at random, time and peak memory by stretch.
//!
//!     cargo run --release -p brooklet-quantize --example calibrate_shape -- granite-4.0-h-1b 2048

use brooklet::kernels::quant::Format;
use brooklet_quantize::calibrate::{CalibrateProgress, Options, write_calibrated};
use brooklet_quantize::fit::Calibration;
use brooklet_quantize::graph::Input;
use brooklet_quantize::methods::Method;
use brooklet_quantize::{Recipe, families, shapes};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("give a shape's name")?;
    let steps: usize = arguments.next().as_deref().unwrap_or("2048").parse()?;
    let checkpoint = shapes::shape(&name)?;
    let graph = families::build(&checkpoint)?;
    let vocab = if let Input::Tokens { vocab, .. } = graph.input { vocab } else { return Err("the shape takes no tokens".into()) };
    let calibration = Calibration::Tokens((0..steps as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % vocab).collect());
    let recipe = Recipe { format: Format::Q4, ..Recipe::default() };
    let out = tempfile::tempdir()?;
    let options = Options { method: Method::Gptq, calibration: &calibration, steps, resume: false };
    let (start, mut last) = (Instant::now(), usize::MAX);
    write_calibrated(&graph, &recipe, &recipe.formats(&graph), options, &out.path().join("model.brook"), &mut |progress| {
        if let CalibrateProgress::Walking(walking) = progress
            && walking.done != last
        {
            last = walking.done;
            println!("{:7.1} s  {} of {} parts  peak {} MiB", start.elapsed().as_secs_f64(), walking.done, walking.total, peak_mib());
        }
    })?;
    println!("{:7.1} s  done  peak {} MiB", start.elapsed().as_secs_f64(), peak_mib());
    Ok(())
}

/// Largest resident memory so far, where the system tells.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}
