//! What quantizing a published shape takes: random weights, tokens drawn at random, time, processor time and peak memory by stretch.
//!
//!     cargo run --release -p brooklet-quantize --example calibrate_shape -- granite-4.0-h-1b nearest
//!     cargo run --release -p brooklet-quantize --example calibrate_shape -- granite-4.0-h-1b gptq 2048 [STRETCHES]
//!
//! Files are made as `brooklet quantize --method` makes them, and go again. With a number of stretches the walk ends behind so many: its first show
//! what the others will take.

use brooklet::kernels::quant::Format;
use brooklet_quantize::calibrate::{CalibrateProgress, Options, suitable_steps, write_calibrated};
use brooklet_quantize::fit::Calibration;
use brooklet_quantize::graph::Input;
use brooklet_quantize::methods::Method;
use brooklet_quantize::{Recipe, families, lower, shapes};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or("give a shape's name")?;
    let method = match arguments.next().as_deref() {
        Some("nearest") => Method::Nearest,
        Some("weighted") => Method::Weighted,
        Some("gptq") => Method::Gptq,
        _ => return Err("give a method behind the name: nearest, weighted or gptq".into()),
    };
    let steps = arguments.next().map(|n| n.parse::<usize>()).transpose()?;
    let most_parts = arguments.next().map(|n| n.parse::<usize>()).transpose()?;
    let checkpoint = shapes::shape(&name)?;
    let graph = families::build(&checkpoint)?;
    let recipe = Recipe { format: Format::Q4, ..Recipe::default() };
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("model.brook");
    let start = Instant::now();
    let say = |what: &str| {
        println!("{:7.1} s  {:7.1} s of processors  {what}  peak {} MiB", start.elapsed().as_secs_f64(), processor_seconds(), peak_mib());
    };
    let mut last = String::new();
    let mut say_once = |what: String| {
        if what != last {
            say(&what);
            last = what;
        }
    };
    let report = if method == Method::Nearest {
        lower::write_graph(&graph, &recipe, &out, &mut |p| say_once(format!("{} % written", 100 * p.done_bytes / p.total_bytes.max(1))))?
    } else {
        let vocab = if let Input::Tokens { vocab, .. } = graph.input { vocab } else { return Err("the shape takes no tokens".into()) };
        let steps = steps.unwrap_or_else(|| suitable_steps(&graph));
        let calibration = Calibration::Tokens((0..steps as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % vocab).collect());
        let options = Options { method, calibration: &calibration, steps, resume: false };
        let progress = &mut |progress: CalibrateProgress<'_>| {
            if let CalibrateProgress::Walking(walking) = progress {
                say_once(format!("{} of {} parts: {}", walking.done, walking.total, walking.what));
                if most_parts.is_some_and(|most| walking.done >= most) {
                    // Nobody waits for the file.
                    let _ = std::fs::remove_dir_all(dir.path());
                    std::process::exit(0);
                }
            }
        };
        write_calibrated(&graph, &recipe, &recipe.formats(&graph), options, &out, progress)?.0
    };
    say(&format!("done: {} bytes", report.file_bytes));
    Ok(())
}

/// A number of kilobytes of this process's status, where the system tells.
fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0)
}

/// Largest resident memory so far.
fn peak_mib() -> u64 {
    status_kib("VmHWM") / 1024
}

/// Time of all processors together, the user's and the system's, where the system tells (Linux counts it in hundredths).
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11..13).into_iter().flatten().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}
