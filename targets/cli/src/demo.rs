//! `brooklet demo`: the first thing to run. A sensor model listens, then a text model writes.

use crate::assets::{PROMPT, PROSE, RECORDING, RECORDING_NAME, WATCH};
use crate::classes::{best, class_in, class_names, probabilities};
use crate::frames::{Frames, Wanted};
use crate::generate::{Limits, generate, per_second};
use crate::interrupt::on_ctrl_c;
use crate::model_file::{Memory, chosen_kernels};
use crate::sampler::{Sampler, Sampling};
use crate::sheet::{grouped, short};
use crate::stream::{channel_names, line, verdict};
use crate::term;
use anyhow::{Context, Result};
use brooklet::artifact::InputSpec;
use brooklet::mem::lines_from;
use brooklet::{Input, Line, Model};
use brooklet_text::TextCodec;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  brooklet demo
  brooklet demo --seed 7";

/// Signal between two printed lines.
const LINE_SECONDS: f64 = 1.0;
/// More lines than this would only scroll by.
const MOST_LINES: usize = 40;
/// Pause between lines on a terminal, so that they can be watched.
const PAUSE: Duration = Duration::from_millis(60);
/// Length of the text: a paragraph, or what a slow machine manages in this time.
const TEXT_TOKENS: usize = 120;
const TEXT_TIME: Duration = Duration::from_secs(8);

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Another number gives another text
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut out = io::stdout().lock();
    let stop = on_ctrl_c()?;
    listen(&mut out, &stop).context("the bundled sensor model")?;
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    writeln!(out)?;
    write(args.seed, &mut out, &stop).context("the bundled text model")?;
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    writeln!(out, "\nBoth models ran on this CPU, one step at a time, in memory that never grew.")?;
    writeln!(
        out,
        "Try your own next: `brooklet quantize CHECKPOINT`, then `brooklet run` or `brooklet stream`; `brooklet --help` has the rest."
    )?;
    Ok(())
}

/// A model inside this program, copied to where the kernels can read it.
struct Bundled {
    lines: Vec<Line>,
    len: usize,
}

impl Bundled {
    fn new(bytes: &[u8]) -> Self {
        Bundled { lines: lines_from(bytes), len: bytes.len() }
    }

    fn model(&self) -> Result<Model<'_>> {
        Ok(Model::from_bytes(Line::bytes(&self.lines).get(..self.len).unwrap_or_default())?)
    }
}

fn introduce(out: &mut dyn Write, title: &str, model: &Model<'_>) -> io::Result<()> {
    let (file, state) = (model.artifact().file_bytes() as u64, model.state_bytes() as u64);
    writeln!(out, "{title}")?;
    writeln!(out, "   {}", model.header().card.name)?;
    writeln!(out, "   file {}, state {} per stream, {} MACs per step\n", short(file), short(state), grouped(model.plan().macs_per_step))
}

fn listen(out: &mut dyn Write, stop: &AtomicBool) -> Result<()> {
    let bundled = Bundled::new(WATCH);
    let model = bundled.model()?;
    let channels = channel_names(&model, "watch.brook")?;
    let names = class_names(&model);
    let InputSpec::Frames { rate_hz, .. } = model.header().input else { return Ok(()) };
    let rate = f64::from(rate_hz);
    introduce(out, "1. A sensor model listens to a smartwatch: which exercise is it?", &model)?;
    let wanted = Wanted::of(&model, channels, None);
    let (samples, _) = Frames::new("the bundled recording", RECORDING, wanted).read_all(1.0 / rate_hz)?;
    let width = channels.lines().count().max(1);
    let steps = samples.len() / width;
    let every = ((rate * LINE_SECONDS).round() as usize).max(steps.div_ceil(MOST_LINES)).max(1);
    let decorated = term::is_decorated();
    let mut votes = vec![0; names.len()];
    let mut probs = Vec::new();
    let mut busy = Duration::ZERO;
    Memory::new(&model, 1)?.with_session(&model, chosen_kernels()?, |session| {
        for (i, frame) in samples.chunks_exact(width).enumerate() {
            let start = Instant::now();
            probabilities(session.step(Input::Frame(frame))?, &mut probs);
            busy += start.elapsed();
            if let Some(votes) = votes.get_mut(best(&probs)) {
                *votes += 1;
            }
            if (i + 1).is_multiple_of(every) {
                let when = format!("   {:>5.1} s", (i + 1) as f64 / rate);
                let bar = term::bar(probs.get(best(&probs)).copied().unwrap_or(0.0), 24, decorated);
                writeln!(out, "{}  {}", line(&when, &names, &probs), bar.trim_end())?;
                if decorated {
                    std::thread::sleep(PAUSE);
                }
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    })?;
    let label = class_in(RECORDING_NAME, &names);
    writeln!(out, "\n   {}", verdict(&names, best(&probs), &probs, &votes, label))?;
    let seconds = steps as f64 / rate;
    writeln!(out, "   {seconds:.0} s of signal took {:.3} s", busy.as_secs_f64())?;
    Ok(())
}

fn write(seed: u64, out: &mut dyn Write, stop: &AtomicBool) -> Result<()> {
    let bundled = Bundled::new(PROSE);
    let model = bundled.model()?;
    let codec = TextCodec::of(&model, "prose.brook")?;
    introduce(out, "2. A text model writes a paragraph", &model)?;
    let prompt = codec.encode(PROMPT.as_bytes(), true)?;
    let mut sampler = Sampler::new(Sampling { temperature: 0.9, top_k: 40, top_p: 0.95, repeat_penalty: 1.1, seed });
    let limits = Limits { tokens: TEXT_TOKENS, time: Some(TEXT_TIME), at_eos: true, stop };
    out.write_all(term::dim(PROMPT, term::is_decorated()).as_bytes())?;
    out.flush()?;
    let mut memory = Memory::new(&model, prompt.len().max(1))?;
    let written =
        memory.with_session(&model, chosen_kernels()?, |session| generate(session, &codec, &prompt, &mut sampler, &limits, out))?;
    writeln!(out, "\n\n   {} tokens, {:.0} per second", written.tokens, per_second(written.tokens, written.time))?;
    Ok(())
}
