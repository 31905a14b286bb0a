//! Lets a text model write: prompt in, text out as it comes.

use crate::reader::Reader;
use crate::sampler::Sampler;
use anyhow::{Result, anyhow};
use brooklet::Error;
use brooklet_text::TextCodec;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// When a text ends.
pub(crate) struct Limits<'a> {
    /// After this many tokens.
    pub(crate) tokens: usize,
    /// After this time.
    pub(crate) time: Option<Duration>,
    /// At the model's own end token.
    pub(crate) at_eos: bool,
    /// When someone asks.
    pub(crate) stop: &'a AtomicBool,
}

/// How it went.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) prompt_tokens: usize,
    pub(crate) prompt_time: Duration,
    pub(crate) tokens: usize,
    pub(crate) time: Duration,
    /// Positions after which the model refused to go on.
    pub(crate) full_at: Option<u32>,
}

/// Reads `prompt`, which has at least one token, and writes what follows to `out`.
pub(crate) fn generate(
    session: &mut impl Reader,
    codec: &TextCodec,
    prompt: &[u32],
    sampler: &mut Sampler,
    limits: &Limits<'_>,
    out: &mut dyn Write,
) -> Result<Written> {
    let mut written = Written { prompt_tokens: prompt.len(), ..Written::default() };
    prompt.iter().for_each(|&token| sampler.saw(token));
    let start = Instant::now();
    let mut logits = session.read(prompt).map_err(|error| match error.downcast_ref() {
        Some(&Error::ContextFull { capacity }) => anyhow!(
            "the prompt has {} tokens and the attention cache holds {capacity} positions; shorten it, or quantize with a larger --context or without \
             --stop",
            prompt.len()
        ),
        _ => error,
    })?;
    written.prompt_time = start.elapsed();
    let start = Instant::now();
    let mut decoder = codec.decoder(prompt);
    while written.tokens < limits.tokens {
        let token = sampler.choose(logits, codec.known);
        if limits.at_eos && codec.eos == Some(token) {
            break;
        }
        sampler.saw(token);
        written.tokens += 1;
        let text = decoder.push(token)?;
        if !text.is_empty() {
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        if limits.stop.load(Ordering::Relaxed) || limits.time.is_some_and(|time| start.elapsed() >= time) || written.tokens == limits.tokens
        {
            break;
        }
        logits = match session.read(&[token]) {
            Ok(logits) => logits,
            Err(error) => match error.downcast_ref() {
                Some(&Error::ContextFull { capacity }) => {
                    written.full_at = Some(capacity);
                    break;
                }
                _ => return Err(error),
            },
        };
    }
    written.time = start.elapsed();
    out.write_all(decoder.finish()?.as_bytes())?;
    out.flush()?;
    Ok(written)
}

/// Number per second; 0 where no time passed.
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
