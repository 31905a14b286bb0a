//! `bench --device cuda`: steps and prefills on a GPU, beside how fast it copies.

use super::energy::{Energy, Meter};
use super::inputs::Inputs;
use super::traffic::Traffic;
use anyhow::{Result, bail};
use brooklet::{Input, Model};
use brooklet_cuda::{Arithmetic, CudaModel, CudaSession, Device, Options, Timed, copy_bytes_per_second};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Instant;

/// Steps of a run whose number was left open.
const STEPS: usize = 256;

/// How fast a model runs on a GPU.
#[derive(Serialize)]
pub(super) struct GpuReport {
    name: String,
    device: String,
    /// Whether sums are in the CPU's order.
    has_cpus_bits: bool,
    compute_capability: (i32, i32),
    /// Weights, and everything else, on the GPU.
    weights_bytes: u64,
    /// Whether the GPU reads the file where it lies: then the weights are none of its bytes.
    weights_in_place: bool,
    session_bytes: u64,
    /// What a large copy reads and writes.
    copy_bytes_per_second: f64,
    /// Weights once, recurrent states read and written.
    step_bytes: u64,
    steps: usize,
    /// Steps whose tokens are drawn on the GPU: nothing comes back between them. Text models only.
    drawn_steps_per_second: Option<f64>,
    /// Steps whose outputs come back, one after the other.
    steps_per_second: f64,
    prompt: usize,
    prompt_tokens_per_second: f64,
    /// Of those steps, drawn on the GPU where they can be; nothing where the board does not say.
    energy: Option<Energy>,
    /// Seconds of a step by operation, without a graph; with --ops.
    operations: Operations,
    /// The same of as many tokens of a prefill as it handles at once.
    prefill_operations: Operations,
}

/// Name, seconds in all, how many.
type Operations = Vec<(&'static str, f64, usize)>;

/// What to run.
pub(super) struct Work {
    pub(super) steps: Option<usize>,
    pub(super) prompt: usize,
    pub(super) batch: u32,
    pub(super) runs: u32,
    pub(super) with_operations: bool,
    pub(super) arithmetic: Arithmetic,
}

impl GpuReport {
    pub(super) fn measure(device: &Device, model: &Model<'_>, name: String, work: &Work) -> Result<Self> {
        let gpu = CudaModel::with(device, model, work.arithmetic)?;
        let mut session = CudaSession::new(&gpu, Options { batch: work.batch, ..Options::default() })?;
        let room = model.plan().context.map_or(usize::MAX, |context| context as usize);
        let (steps, prompt) = (work.steps.unwrap_or(STEPS).min(room), work.prompt.min(room));
        if steps == 0 || prompt == 0 {
            bail!("there is no room for a step");
        }
        let inputs = Inputs::random(model, steps.max(prompt));
        // The median of so many runs, after one to warm up; every run begins a stream anew.
        let mut per_second = |count: usize, run: &mut dyn FnMut(&mut CudaSession<'_, '_>) -> Result<()>| {
            let mut seconds = Vec::new();
            for number in 0..=work.runs {
                session.reset()?;
                device.wait()?;
                let start = Instant::now();
                run(&mut session)?;
                device.wait()?;
                if number > 0 {
                    seconds.push(start.elapsed().as_secs_f64());
                }
            }
            seconds.sort_by(f64::total_cmp);
            anyhow::Ok(count as f64 / seconds[seconds.len() / 2])
        };
        let drawn_steps_per_second = match &inputs {
            Inputs::Tokens(tokens) => Some(per_second(steps, &mut |session| Ok(session.greedy(tokens[0], steps).map(drop)?))?),
            Inputs::Frames(..) => None,
        };
        let step_all = |session: &mut CudaSession<'_, '_>| {
            match &inputs {
                Inputs::Tokens(tokens) => tokens[..steps].iter().try_for_each(|&token| session.step(Input::Token(token)).map(drop))?,
                Inputs::Frames(frames, channels) => {
                    frames.chunks_exact(*channels).take(steps).try_for_each(|frame| session.step(Input::Frame(frame)).map(drop))?;
                }
            }
            anyhow::Ok(())
        };
        let steps_per_second = per_second(steps, &mut |session| step_all(session))?;
        let prompt_tokens_per_second = per_second(prompt, &mut |session| {
            match &inputs {
                Inputs::Tokens(tokens) => session.prefill_tokens(0, &tokens[..prompt])?,
                Inputs::Frames(frames, channels) => session.prefill_frames(0, &frames[..prompt * channels])?,
            };
            Ok(())
        })?;
        let measured = Meter::of(device).map(|meter| {
            meter.measure(|| {
                session.reset()?;
                match &inputs {
                    Inputs::Tokens(tokens) => session.greedy(tokens[0], steps).map(drop)?,
                    Inputs::Frames(..) => step_all(&mut session)?,
                }
                device.wait()?;
                Ok(steps)
            })
        });
        let energy = measured.transpose()?.flatten();
        let (mut operations, mut prefill_operations) = (Vec::new(), Vec::new());
        if let (true, Inputs::Tokens(tokens)) = (work.with_operations, &inputs) {
            session.reset()?;
            operations = by_operation(10, || Ok(session.profile(&tokens[..1])?))?;
            prefill_operations = by_operation(3, || {
                session.reset()?;
                Ok(session.profile_prefill(&tokens[..prompt])?)
            })?;
        }
        let session_bytes = session.bytes();
        Ok(GpuReport {
            name,
            device: device.name(),
            has_cpus_bits: work.arithmetic == Arithmetic::Exact,
            compute_capability: device.capability(),
            weights_bytes: gpu.weights_bytes(),
            weights_in_place: gpu.is_in_place(),
            session_bytes,
            copy_bytes_per_second: copy_bytes_per_second(device)?,
            step_bytes: Traffic::of(model, 0).total_bytes(),
            steps,
            drawn_steps_per_second,
            steps_per_second,
            prompt,
            prompt_tokens_per_second,
            energy,
            operations,
            prefill_operations,
        })
    }

    /// For people.
    pub(super) fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let (major, minor) = self.compute_capability;
        writeln!(out, "{} on {} ({major}.{minor}), which copies {:.0} GB/s", self.name, self.device, self.copy_bytes_per_second / 1e9)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let where_they_lie = if self.weights_in_place { " beside the file, which is read where it lies" } else { "" };
        let (weights, session) = (mib(self.weights_bytes), mib(self.session_bytes));
        writeln!(out, "  memory   {weights:.1} MiB weights{where_they_lie}, {session:.1} MiB of all else")?;
        let share = |rate: f64| 100.0 * rate * self.step_bytes as f64 / self.copy_bytes_per_second;
        if let Some(rate) = self.drawn_steps_per_second {
            writeln!(out, "  decode   {rate:>9.1} tokens/s, drawn on the GPU     {:.1} % of what copies allow", share(rate))?;
        }
        let rate = self.steps_per_second;
        writeln!(out, "  decode   {rate:>9.1} steps/s, outputs to the host   {:.1} %", share(rate))?;
        writeln!(out, "  prefill  {:>9.1} tokens/s, {} tokens", self.prompt_tokens_per_second, self.prompt)?;
        writeln!(out, "  energy   {}", self.energy.as_ref().map_or("        -".to_owned(), Energy::text))?;
        for (of, operations) in [("a step", &self.operations), ("a prefill", &self.prefill_operations)] {
            if !operations.is_empty() {
                writeln!(out, "  {of}, by operation")?;
            }
            for (name, seconds, count) in operations {
                writeln!(out, "    {name:<14} {count:>4} × {:>8.2} µs = {:>9.1} µs", seconds * 1e6 / *count as f64, seconds * 1e6)?;
            }
        }
        Ok(())
    }
}

/// Means over the later half of `runs`, the first being cold, the longest operations first.
fn by_operation(runs: usize, mut profile: impl FnMut() -> Result<Vec<Timed>>) -> Result<Operations> {
    let mut sums: BTreeMap<&'static str, (f64, usize)> = BTreeMap::new();
    let judged = runs.div_ceil(2);
    for run in 0..runs {
        for (_, name, seconds) in profile()? {
            if run >= runs - judged {
                let sum = sums.entry(name).or_default();
                *sum = (sum.0 + seconds / judged as f64, sum.1 + 1);
            }
        }
    }
    let mut operations: Operations = sums.into_iter().map(|(name, (seconds, count))| (name, seconds, count / judged)).collect();
    operations.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(operations)
}
