//! From a graph to a file: gives every operand its place in the frame, every slot its place in the state, every tensor its
//! format and section; writes, proves itself, renames.

use crate::checkpoint::Checkpoint;
use crate::destination::Destination;
use crate::error::Error;
use crate::families;
use crate::graph::{Graph, Input, Operand, Output, TensorDecl, Values};
use crate::methods::{self, Packed};
use crate::recipe::Recipe;
use brooklet::artifact::{self, Card, Content, Golden, Header, InputSpec, OutputSpec, SECTION_ALIGN, SectionSource, Slot, Table};
use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::mem::{Line, MappedFile};
use brooklet::ops::{Op, Span};
use brooklet::{Model, fingerprint};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// How far the work has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Tensor about to be written.
    pub tensor: &'a str,
    /// Bytes of the blob written.
    pub done_bytes: u64,
    /// Bytes of the whole blob.
    pub total_bytes: u64,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Every tensor, in file order.
    pub tensors: Vec<TensorReport>,
}

/// One tensor of a [`Report`].
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// Name in the checkpoint.
    pub name: String,
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub cols: u32,
    /// Storage format.
    pub format: &'static str,
    /// Bytes in the file.
    pub bytes: u64,
    /// Root-mean-square error over root-mean-square of the weights.
    pub relative_error: f32,
    /// Share of nearest rounding's squared error that its method left ([`Packed::left`]).
    pub left: f32,
}

/// Most steps of the golden input.
const GOLDEN_STEPS: u32 = 16;
/// Numbers after which the golden input takes no further step: it lies in the header, which must stay small.
const GOLDEN_NUMBERS: u32 = 2048;
/// The same for a model with a delay.
const GOLDEN_NUMBERS_DELAYED: u32 = 1 << 14;

/// Quantizes `checkpoint` by `recipe` into the file `out`.
///
/// The file is written beside `out`, loaded and run once, and renamed into place: `out` is either whole or as it was.
pub fn quantize(checkpoint: &Checkpoint, recipe: &Recipe, out: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
    let graph = families::build(checkpoint)?;
    write_graph(&graph, recipe, out, progress)
}

/// Writes a graph: the second half of [`quantize`].
pub fn write_graph(graph: &Graph<'_>, recipe: &Recipe, out: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Report, Error> {
    write_formats(graph, recipe, &recipe.formats(graph), out, progress)
}

/// Like [`write_graph`], but every tensor has its own format ([`Recipe::formats`] gives the recipe's).
pub fn write_formats(
    graph: &Graph<'_>,
    recipe: &Recipe,
    formats: &[Option<Format>],
    out: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, Error> {
    write_packed(graph, recipe, formats, out, &mut |tensor, format| pack_nearest(graph, tensor, format), progress)
}

/// Rounds matrix `tensor` of the graph to the nearest codes.
pub fn pack_nearest(graph: &Graph<'_>, tensor: usize, format: Format) -> Result<Packed, Error> {
    let decl = &graph.tensors[tensor];
    match &decl.values {
        Values::Matrix(_, load) => Ok(methods::pack(format, decl.rows, decl.cols, &load()?)),
        Values::Array(_) | Values::Turns(_) | Values::Places(_) => {
            Err(Error::invalid(Path::new(&decl.name), "format", "is of a tensor that takes none"))
        }
    }
}

/// Chooses the codes of a matrix: its number among the graph's tensors and its format.
pub type Pack<'p> = dyn FnMut(usize, Format) -> Result<Packed, Error> + 'p;

/// Like [`write_formats`], with matrices as `pack` makes them, asked for in file order.
pub fn write_packed(
    graph: &Graph<'_>,
    recipe: &Recipe,
    formats: &[Option<Format>],
    out: &Path,
    pack: &mut Pack<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Report, Error> {
    let io = |e| Error::io(out, e);
    let layout = Layout::new(graph, recipe, out)?;
    let mut sections = layout.sections(formats);
    let encode = |sections: &[SectionSource], fingerprint| {
        layout.header(sections, fingerprint).map_err(|e| Error::invalid(out, "header", format!("cannot be written: {e}")))
    };

    let destination = Destination::of(out)?;
    let mut file = destination.unfinished()?;
    // Records have fixed sizes: the header that follows from the checksums is as long as this one.
    let start = encode(&sections, 0)?;
    file.write_all(&start).map_err(io)?;
    let bytes_of = |s: &SectionSource| s.content.bytes(s.rows, s.cols).unwrap_or(0);
    let total_bytes = sections.iter().map(bytes_of).sum();
    let mut report = Report { file_bytes: 0, tensors: Vec::new() };
    let (mut written, mut done_bytes) = (0usize, 0u64);
    for (i, section) in sections.iter_mut().enumerate() {
        progress(Progress { tensor: &section.name, done_bytes, total_bytes });
        let Packed { bytes, relative_error, left } = match graph.tensors.get(i) {
            Some(tensor) => encode_tensor(tensor, i, section.content, pack)?,
            None => exact(layout.tokenizer.clone().unwrap_or_default()),
        };
        section.crc32 = crc32fast::hash(&bytes);
        let padding = written.next_multiple_of(SECTION_ALIGN) - written;
        file.write_all(&[0; SECTION_ALIGN][..padding]).and_then(|()| file.write_all(&bytes)).map_err(io)?;
        written += padding + bytes.len();
        done_bytes += bytes.len() as u64;
        let (name, format) = (section.name.clone(), section.content.name());
        report.tensors.push(TensorReport {
            name,
            rows: section.rows,
            cols: section.cols,
            format,
            bytes: bytes.len() as u64,
            relative_error,
            left,
        });
    }
    progress(Progress { tensor: "", done_bytes, total_bytes });
    report.file_bytes = (start.len() + written) as u64;

    put_header(&mut file, &encode(&sections, 0)?).map_err(io)?;
    let fingerprint = prove(file.path())?;
    put_header(&mut file, &encode(&sections, fingerprint)?).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    destination.replace(file)?;
    Ok(report)
}

fn put_header(file: &mut tempfile::NamedTempFile, header: &[u8]) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(header)?;
    file.flush()
}

/// Loads what was written and runs its golden input.
fn prove(path: &Path) -> Result<u64, Error> {
    let map = MappedFile::open(path).map_err(|e| Error::io(path, e))?;
    let model = Model::from_bytes(map.bytes())?;
    let mut state = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
    let mut scratch = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
    Ok(fingerprint(&model, kernels::detect(), Line::bytes_mut(&mut state), Line::bytes_mut(&mut scratch))?)
}

/// Everything of a file but the numbers of its tensors and their formats.
pub(crate) struct Layout<'g> {
    graph: &'g Graph<'g>,
    texts: Texts,
    frame_len: u32,
    program: Vec<Op>,
    slots: Vec<Slot>,
    golden_steps: u32,
    golden: Vec<u8>,
    /// The tokenizer's zlib stream.
    tokenizer: Option<Vec<u8>>,
}

impl<'g> Layout<'g> {
    /// Lays `graph` out by the recipe's caches; `out` is the file that errors name.
    pub(crate) fn new(graph: &'g Graph<'_>, recipe: &Recipe, out: &Path) -> Result<Self, Error> {
        recipe.check(out)?;
        let (spans, frame_len) = place_values(graph);
        let program = graph.ops.iter().map(|op| op.map(|v, _| Span { at: spans[v.value] + v.at, len: v.len })).collect();
        let mut slots: Vec<Slot> = graph.slots.iter().map(|&slot| recipe.slot(slot)).collect();
        brooklet::plan::place_slots(&mut slots)
            .ok_or_else(|| Error::invalid(out, "state", "is larger than any memory; choose a smaller --context"))?;
        // A cache that stops when it is full must hold the golden input too.
        let width = if let Input::Frames { channels, .. } = &graph.input { channels.len() as u32 } else { 1 };
        let golden_steps = GOLDEN_STEPS.min(recipe.cache.context).min((GOLDEN_NUMBERS / width.max(1)).max(2));
        // What looks ahead answers late, and only answers prove something.
        let golden_steps = (golden_steps + graph.delay_steps()).min((GOLDEN_NUMBERS_DELAYED / width.max(1)).max(2));
        let golden = golden_input(&graph.input, golden_steps);
        let tokenizer = graph.tokenizer.as_deref().map(packed).transpose().map_err(|e| Error::io(out, e))?;
        Ok(Layout { graph, texts: Texts::new(graph), frame_len, program, slots, golden_steps, golden, tokenizer })
    }

    /// The slots of the state, in their places.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The file's sections, without checksums: every tensor, then the tokenizer.
    pub(crate) fn sections(&self, formats: &[Option<Format>]) -> Vec<SectionSource> {
        let tokenizer = self.tokenizer.as_ref().map(|packed| SectionSource {
            name: "tokenizer.json".to_owned(),
            content: Content::PackedTokenizer,
            rows: packed.len() as u32,
            cols: 1,
            crc32: crc32fast::hash(packed),
        });
        self.graph.tensors.iter().zip(formats).map(|(tensor, &format)| declare(tensor, format)).chain(tokenizer).collect()
    }

    /// All bytes before the first section.
    pub(crate) fn header(&self, sections: &[SectionSource], fingerprint: u64) -> Result<Vec<u8>, impl std::fmt::Display + use<>> {
        let golden = Golden { steps: self.golden_steps, input: &self.golden, fingerprint };
        artifact::write(header(self.graph, &self.texts, self.frame_len, golden), sections, &self.slots, &self.program)
    }
}

/// A zlib stream of `text`: a vocabulary shrinks to a sixth.
fn packed(text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    stream.write_all(text)?;
    stream.finish()
}

fn declare(tensor: &TensorDecl<'_>, format: Option<Format>) -> SectionSource {
    let content = match &tensor.values {
        Values::Array(_) => Content::Array,
        Values::Turns(_) => Content::Turns,
        Values::Places(_) => Content::Places,
        Values::Matrix(..) => Content::of(format.unwrap_or(Format::F32)),
    };
    SectionSource { name: tensor.name.clone(), content, rows: tensor.rows as u32, cols: tensor.cols as u32, crc32: 0 }
}

fn encode_tensor(tensor: &TensorDecl<'_>, number: usize, content: Content, pack: &mut Pack<'_>) -> Result<Packed, Error> {
    match tensor.values.stored() {
        Some(bytes) => Ok(exact(bytes)),
        None => pack(number, content.format().unwrap_or(Format::F32)),
    }
}

/// What is stored as it is.
fn exact(bytes: Vec<u8>) -> Packed {
    Packed { bytes, relative_error: 0.0, left: 1.0 }
}

/// Gives each value a place in the frame for as long as it lives; values that do not live together share places.
fn place_values(graph: &Graph<'_>) -> (Vec<u32>, u32) {
    /// Values start on multiples of 16 numbers: one cache line.
    const ALIGN: u32 = 16;
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; graph.values.len()];
    for (i, op) in graph.ops.iter().enumerate() {
        let _ = op.map(|v: Operand, _| {
            let life = lives[v.value].get_or_insert((i, i));
            life.1 = i;
        });
    }
    let mut order: Vec<usize> = (0..lives.len()).filter(|&v| lives[v].is_some()).collect();
    // Long-lived and large values first: the residual gets a place of its own.
    order.sort_by_key(|&v| std::cmp::Reverse((lives[v].map(|l| l.1 - l.0), graph.values[v])));
    let mut places = vec![0u32; lives.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut frame_len = 0;
    for v in order {
        let overlaps = |a: Option<(usize, usize)>, b: Option<(usize, usize)>| a.zip(b).is_some_and(|(a, b)| a.0 <= b.1 && b.0 <= a.1);
        let mut taken: Vec<(u32, u32)> =
            placed.iter().filter(|&&p| overlaps(lives[p], lives[v])).map(|&p| (places[p], places[p] + graph.values[p])).collect();
        taken.sort_unstable();
        let mut at = 0;
        for (start, end) in taken {
            if at + graph.values[v] <= start {
                break;
            }
            at = at.max(end.next_multiple_of(ALIGN));
        }
        places[v] = at;
        frame_len = frame_len.max(at + graph.values[v]);
        placed.push(v);
    }
    (places, frame_len)
}

/// The header's lists, joined by line breaks.
struct Texts {
    channels: String,
    units: String,
    /// Names of classes or values.
    outputs: String,
    output_units: String,
}

impl Texts {
    fn new(graph: &Graph<'_>) -> Self {
        let (channels, units) = match &graph.input {
            Input::Frames { channels, units, .. } => (channels.join("\n"), units.join("\n")),
            Input::Tokens { .. } => Default::default(),
        };
        let (outputs, output_units) = match &graph.output {
            Output::Classes(names) => (names.join("\n"), String::new()),
            Output::Values { names, units } => (names.join("\n"), units.join("\n")),
            Output::Logits(_) => Default::default(),
        };
        Texts { channels, units, outputs, output_units }
    }
}

fn header<'h>(graph: &'h Graph<'_>, texts: &'h Texts, frame_len: u32, golden: Golden<'h>) -> Header<'h> {
    let input = match graph.input {
        Input::Tokens { vocab, bos, eos } => {
            InputSpec::Tokens { vocab, bos, eos, tokenizer: graph.tokenizer.as_ref().map(|_| graph.tensors.len() as u32) }
        }
        Input::Frames { rate_hz, .. } => InputSpec::Frames { channels: &texts.channels, units: &texts.units, rate_hz },
    };
    let output = match graph.output {
        Output::Logits(count) => OutputSpec::Logits { count },
        Output::Classes(_) => OutputSpec::Classes { names: &texts.outputs },
        Output::Values { .. } => OutputSpec::Values { names: &texts.outputs, units: &texts.output_units },
    };
    Header {
        card: Card { name: &graph.card.name, family: &graph.card.family, source: &graph.card.source, license: &graph.card.license },
        input,
        output,
        frame_len,
        names: "",
        sections: Table::new(0, &[]),
        slots: Table::new(0, &[]),
        program: Table::new(0, &[]),
        golden,
    }
}

/// Reproducible tokens, or samples within two standard deviations of the mean.
fn golden_input(input: &Input, steps: u32) -> Vec<u8> {
    let mut x = 0x9e37_79b9_u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x >> 8
    };
    match input {
        Input::Tokens { vocab, .. } => (0..steps).flat_map(|_| (next() % vocab).to_le_bytes()).collect(),
        Input::Frames { mean, std, .. } => (0..steps)
            .flat_map(|_| mean.iter().zip(std))
            .flat_map(|(mean, std)| (mean + std * (next() as f32 / (1 << 22) as f32 - 2.0)).to_le_bytes())
            .collect(),
    }
}
