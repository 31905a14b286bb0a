//! What `bench` is asked for.

use crate::device::Target;
use crate::quantize::{cache_format, format, state_format};
use brooklet::artifact::MAX_CONTEXT;
use brooklet::kernels::quant::Format;
use brooklet_quantize::shapes::SHAPES;
use brooklet_quantize::{Cache, CacheFormat, Recipe, StateFormat};
use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  brooklet bench model.brook
  brooklet bench model.brook --threads 1,2 --prompt 512 --json
  brooklet bench --shape granite-4.0-h-350m --format q4 --keep granite.brook
  brooklet bench --shape mamba-130m --backends all
  brooklet bench --shape mamba-130m --depth 0,8k,64k
  brooklet bench model.brook --streams 1,8,64 --ops
  brooklet bench --context --svg context.svg
  brooklet bench --shape granite-4.0-h-350m --cold
  brooklet bench --shape mamba2-130m --device cuda --ops
  BROOKLET_BACKEND=avx2 brooklet bench model.brook

The share of the roofline is how close a step comes to what memory allows: the bytes that it has to move (weights once,
recurrent state read and written, the filled part of attention caches read) over the bandwidth of a plain read of 256 MiB
by as many threads, measured in turn with the steps. What fits into the caches can be above 100 %.";

/// Shapes of `--context`, without `--shape`: attention alone, a little of it, none.
const CONTEXT_SHAPES: [&str; 3] = ["llama-130m", "hybrid-130m", "mamba2-130m"];

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Model (.brook)
    #[arg(required_unless_present_any = ["shape", "context"])]
    pub(super) model: Option<PathBuf>,
    /// Time a published shape with random weights: no checkpoint needed. Several, separated by commas, with --context
    #[arg(long, value_name = "NAME", conflicts_with = "model", value_delimiter = ',', value_parser = PossibleValuesParser::new(SHAPES.iter().map(|(name, what)| PossibleValue::new(name).help(what))))]
    shape: Vec<String>,
    /// Format of the random weights
    #[arg(long, default_value = "q4", conflicts_with = "model", value_parser = format)]
    format: Format,
    /// How random weights store the embedding and the head [default: q6 for formats of fewer bits, else as the others]
    #[arg(long, value_name = "FORMAT", conflicts_with = "model", value_parser = format)]
    embedding: Option<Format>,
    /// How a shape's recurrent states are kept between steps: f32 or f16
    #[arg(long, value_name = "FORMAT", default_value = "f32", conflicts_with = "model", value_parser = state_format)]
    state: StateFormat,
    /// How a shape's attention keeps keys and values: int8, int4 or f32
    #[arg(long, value_name = "FORMAT", default_value = "int8", conflicts_with = "model", value_parser = cache_format)]
    cache: CacheFormat,
    /// Keep the file of random weights, for other commands
    #[arg(long, value_name = "FILE", requires = "shape", conflicts_with_all = ["model", "context"])]
    pub(super) keep: Option<PathBuf>,
    /// Positions of the shape's attention caches [default: 2k, or what --depth needs]
    #[arg(long, value_name = "N", requires = "shape", conflicts_with_all = ["model", "context"], value_parser = cache_positions)]
    pub(super) cache_positions: Option<u64>,
    /// Tokens or frames of one run [default: what takes about a fifth of a second]
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(super) tokens: Option<u32>,
    /// Tokens or frames of one prefill
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(super) prompt: u32,
    /// Tokens that a prefill handles at once [default: 64; on a GPU 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: Option<u32>,
    /// Runs of each kind, after one to warm up: figures are their medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) runs: u32,
    /// Threads inside a step: one number or several
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) threads: Vec<u32>,
    /// Which sets of kernels to time
    #[arg(long, value_enum, default_value_t = Backends::Best)]
    pub(super) backends: Backends,
    /// Positions to step from (8k is 8192), reached by a prefill of that many tokens
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = position, conflicts_with = "context")]
    pub(super) depth: Vec<u64>,
    /// Numbers of streams to step together, which share one reading of the weights
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1 << 16), conflicts_with = "context")]
    pub(super) streams: Vec<u32>,
    /// Show where a step's time goes, operation by operation
    #[arg(long, conflicts_with = "context")]
    pub(super) ops: bool,
    /// Compare memory, speed and time to the first token at these positions, by default for attention alone, a hybrid and
    /// none. Up to 8k the position is reached by a prefill; beyond, the caches are filled with random keys and values, on which
    /// the speed does not depend
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = position, num_args = 0..=1, default_missing_value = "1k,8k,64k,100k")]
    pub(super) context: Vec<u64>,
    /// Draw what --context found into this file
    #[arg(long, value_name = "FILE", requires = "context")]
    pub(super) svg: Option<PathBuf>,
    /// Measure a cold start instead: the time to the first answer of a process whose file is not in memory, and its memory
    #[arg(long, conflicts_with_all = ["depth", "streams", "ops", "context", "threads", "backends", "tokens", "prompt", "batch"])]
    pub(super) cold: bool,
    /// Where the model runs: on a GPU steps and prefills are timed, beside how fast it copies
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t, conflicts_with_all = ["context", "cold", "depth", "streams"])]
    pub(super) device: Target,
    /// Keep the file's pages in memory
    #[arg(long)]
    pub(super) lock: bool,
    /// What --cold starts: one step, and how long it took
    #[arg(long, hide = true, requires = "model")]
    pub(super) first_answer: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

/// Which sets of kernels to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backends {
    /// The fastest of this CPU
    Best,
    /// All that this CPU can run
    All,
}

impl Args {
    /// How random weights are stored, and what steps keep. Where others use six bits for the embedding and the head, the figures are for as
    /// many.
    pub(super) fn recipe(&self) -> Recipe {
        let below_six = matches!(self.format, Format::Q5 | Format::Q4 | Format::Q3 | Format::T2);
        let usual = Recipe::default();
        Recipe {
            format: self.format,
            embedding: self.embedding.or(below_six.then_some(Format::Q6)),
            state: self.state,
            cache: Cache { format: self.cache, ..usual.cache },
        }
    }

    /// Tokens that a prefill handles at once on the CPU.
    pub(super) fn batch(&self) -> usize {
        self.batch.unwrap_or(64) as usize
    }

    /// The same on a GPU.
    #[cfg(feature = "cuda")]
    pub(super) fn batch_on_gpu(&self) -> u32 {
        self.batch.unwrap_or(brooklet_cuda::Options::default().batch)
    }

    /// What a file of random weights is called.
    pub(super) fn random_name(&self, shape: &str) -> String {
        let usual = Recipe::default();
        let mut name = format!("{shape} {}", self.format.name());
        if self.state != usual.state {
            name += &format!(", {} state", self.state.name());
        }
        if self.cache != usual.cache.format {
            name += &format!(", {} cache", self.cache.name());
        }
        name
    }

    /// The shapes to time; none with a model.
    pub(super) fn shapes(&self) -> Vec<&str> {
        match (&self.model, self.shape.as_slice()) {
            (Some(_), _) => Vec::new(),
            (None, []) => CONTEXT_SHAPES.to_vec(),
            (None, shapes) => shapes.iter().map(String::as_str).collect(),
        }
    }
}

/// A position: a number, or with a `k` behind it that many times 1024.
fn position(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.strip_suffix(['k', 'K']).map_or((text, 1), |digits| (digits, 1024));
    let number = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    let most = u64::from(MAX_CONTEXT) / 2;
    number.filter(|&n| n <= most).ok_or_else(|| format!("must be a position from 0 to {most}, such as 8192 or 8k"))
}

fn cache_positions(text: &str) -> Result<u64, String> {
    position(text).ok().filter(|&n| n > 4).ok_or_else(|| "must be a number of positions above 4, such as 8192 or 8k".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{cache_positions, position};

    #[test]
    fn positions_have_units() {
        assert_eq!([position("0"), position("8k"), position("100")], [Ok(0), Ok(8192), Ok(100)]);
        for bad in ["", "k", "-1", "1m", "8.5k", "99999999999999999999", "9007199254740993k"] {
            assert!(position(bad).is_err(), "{bad}");
        }
        assert!(cache_positions("4").is_err() && cache_positions("5").is_ok());
    }
}
