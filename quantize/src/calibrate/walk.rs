//! From stretch to stretch: what each matrix multiplies when all before it are packed already.

use super::record::{Inputs, listen, place, recording};
use super::small_model::{Filling, SmallModel};
use super::stretch::{Stretch, matrices, stretches};
use crate::error::Error;
use crate::fit::{Calibration, Image};
use crate::graph::{Graph, Input, Operand, Values};
use crate::methods::{self, Method, Metric, Packed, Packer, takes_metric};
use crate::recipe::{Cache, CacheFormat};
use brooklet::kernels::quant::{Format, Matrix};
use brooklet::mem::{Line, lines_from};
use brooklet::ops::{Access, Op};
use brooklet::{Model, Session, State};
use rayon::prelude::*;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

/// Steps of a segment, each from an empty state.
const SEGMENT_STEPS: usize = 512;
/// Segments whose recordings are held at once, whatever the number of threads: what is summed does not depend on it.
const AT_ONCE: usize = 8;
/// Steps that the runtime handles at once.
const BATCH: usize = 64;
/// How much more an error of a tied embedding matters as the model's input than as its head: of the mean importance.
const INPUT_SHARE: f32 = 1.0;

/// A matrix whose inputs are known.
pub struct Target<'w> {
    /// Its number among the graph's tensors.
    pub tensor: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// (rows, cols)
    pub weights: &'w [f32],
    /// What it multiplies.
    pub metric: &'w Metric,
}

impl Target<'_> {
    /// Packs it; for several formats, make one [`Packer`] of the metric.
    pub fn pack(&self, method: Method, format: Format) -> Packed {
        Packer::new(self.metric, method).pack(format, self.rows, self.cols, self.weights)
    }
}

/// How far a walk has come.
#[derive(Clone, Copy, Debug)]
pub struct WalkProgress<'a> {
    /// What is looked at: a tensor, or nothing while the model runs.
    pub what: &'a str,
    /// Stretches done, and all of them.
    pub done: usize,
    /// Stretches of all passes.
    pub total: usize,
}

/// Chooses the codes of matrices: the format and bytes with which the walk goes on.
pub trait Visitor {
    /// Codes that were chosen before; asked once for every matrix, in the order of the walk.
    fn known(&mut self, _tensor: usize, _weights: &[f32]) -> Result<Option<(Format, Vec<u8>)>, Error> {
        Ok(None)
    }

    /// Codes for a matrix that is not known.
    fn choose(&mut self, target: &Target<'_>) -> Result<(Format, Vec<u8>), Error>;
}

/// Runs the model on up to `steps` steps of a stream, stretch by stretch; `visitor` packs each matrix whose format in `formats` takes a
/// metric, and those behind it see what it did.
pub fn walk(
    graph: &Graph<'_>,
    cache: Cache,
    formats: &[Option<Format>],
    calibration: &Calibration,
    steps: usize,
    visitor: &mut dyn Visitor,
    progress: &mut dyn FnMut(WalkProgress<'_>),
) -> Result<(), Error> {
    calibration.check(graph, Path::new("calibration"))?;
    if !formats.iter().flatten().any(|&format| takes_metric(format)) {
        return Ok(());
    }
    let walk = Walk::over(graph, cache, calibration, steps)?;
    let takes = |t: usize| formats[t].is_some_and(takes_metric);
    let shared: HashSet<usize> = shared(graph, &walk.pieces).into_iter().filter(|&t| takes(t)).collect();
    let mut count = Count { done: 0, total: walk.pieces.len(), progress };
    walk.go(formats, &shared, visitor, &mut count).map(drop)
}

/// The mean square of each column's input of some matrices in the float model, and the steps that it was heard on, by the tensor's number.
pub(crate) fn mean_squares(
    graph: &Graph<'_>,
    wanted: &HashSet<usize>,
    calibration: &Calibration,
    steps: usize,
) -> Result<HashMap<usize, (u64, Vec<f64>)>, Error> {
    let cache = Cache { context: SEGMENT_STEPS as u32, sink: None, format: CacheFormat::F32 };
    let walk = Walk::over(graph, cache, calibration, steps)?;
    let metrics = walk.float_metrics(wanted, &mut Count { done: 0, total: 0, progress: &mut |_| {} })?;
    let heard = metrics.into_iter().filter(|(_, metric)| metric.steps() > 0);
    Ok(heard.map(|(tensor, metric)| (tensor, (metric.steps(), metric.mean_squares()))).collect())
}

/// Matrices that several operations use, each in another stretch or as the embedding.
fn shared(graph: &Graph<'_>, pieces: &[Stretch]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let mut shared = Vec::new();
    let first = pieces.first().map_or(0, |p| p.ops.start);
    for ops in std::iter::once(0..first).chain(pieces.iter().map(|p| p.ops.clone())) {
        let own: HashSet<usize> = graph.ops[ops].iter().flat_map(|op| matrices(graph, op)).collect();
        shared.extend(own.iter().filter(|t| !seen.insert(**t)));
    }
    shared
}

/// Stretches done, told to whoever wants to know.
struct Count<'p> {
    done: usize,
    total: usize,
    progress: &'p mut dyn FnMut(WalkProgress<'_>),
}

impl Count<'_> {
    fn report(&mut self, what: &str) {
        (self.progress)(WalkProgress { what, done: self.done, total: self.total });
    }
}

struct Walk<'g, 'a> {
    graph: &'g Graph<'a>,
    cache: Cache,
    calibration: &'g Calibration,
    segments: Vec<Range<usize>>,
    pieces: Vec<Stretch>,
}

/// What enters a stretch, per segment: (steps, width).
type Hidden = Vec<Vec<f32>>;

impl<'g, 'a> Walk<'g, 'a> {
    /// A walk on up to `steps` steps of a stream.
    fn over(graph: &'g Graph<'a>, cache: Cache, calibration: &'g Calibration, steps: usize) -> Result<Self, Error> {
        calibration.check(graph, Path::new("calibration"))?;
        let channels = if let Input::Frames { channels, .. } = &graph.input { channels.len() } else { 1 };
        let segment_steps = SEGMENT_STEPS.min(cache.context as usize).max(1);
        let segments = calibration.spread(channels, steps.div_ceil(segment_steps), segment_steps);
        if segments.is_empty() {
            return Err(Error::invalid(Path::new("calibration"), "stream", "holds no steps; give a longer one"));
        }
        Ok(Walk { graph, cache, calibration, segments, pieces: stretches(graph) })
    }

    /// What some matrices multiply in the float model.
    fn float_metrics(&self, wanted: &HashSet<usize>, count: &mut Count<'_>) -> Result<HashMap<usize, Metric>, Error> {
        count.total += self.pieces.len();
        let mut metrics: HashMap<usize, Metric> = HashMap::new();
        let table = self.table();
        let mut hidden = self.empty_hidden();
        for tensor in table.clone() {
            let (weights, cols) = (self.weights(tensor)?, self.graph.tensors[tensor].cols);
            self.look_up(tensor, |row, out| out.copy_from_slice(&weights[row * cols..][..cols]), &mut hidden);
        }
        for piece in 0..self.pieces.len() {
            count.report("");
            let (small, own) = self.small_model(piece);
            let image = small.image(|_| Filling::Plain(Format::F32))?;
            let mut listened: Vec<usize> = own.iter().copied().filter(|t| wanted.contains(t)).collect();
            listened.push(small.sink);
            let head = self.head(piece).find(|t| wanted.contains(t));
            hidden = self.run(piece, &small, &image, &listened, &hidden, |tensor, inputs| {
                let tensor = if tensor == small.sink { head } else { Some(tensor) };
                if let Some(tensor) = tensor {
                    let cols = self.graph.tensors[tensor].cols;
                    metrics.entry(tensor).or_insert_with(|| Metric::new(cols)).add(inputs);
                }
            })?;
            count.done += 1;
        }
        // All rows of the head multiply the same.
        let head = self.graph.head_matrix();
        if let Some(first) = head.clone().find(|t| metrics.contains_key(t)) {
            for tensor in head.filter(|&t| t != first && wanted.contains(&t)) {
                let metric = metrics[&first].clone();
                metrics.insert(tensor, metric);
            }
        }
        for tensor in table {
            // The embedding's rows are the model's input too, where all columns matter alike.
            if let Some(metric) = metrics.get_mut(&tensor) {
                metric.add_even(INPUT_SHARE);
            }
        }
        Ok(metrics)
    }

    fn go(
        &self,
        formats: &[Option<Format>],
        shared: &HashSet<usize>,
        visitor: &mut dyn Visitor,
        count: &mut Count<'_>,
    ) -> Result<Hidden, Error> {
        let takes = |t: usize| formats[t].is_some_and(takes_metric);
        let mut packed: HashMap<usize, (Format, Vec<u8>)> = HashMap::new();
        // What several places use is packed where it comes first, for all of them: what these multiply is seen in a float run.
        let mut early: Option<HashMap<usize, Metric>> = None;
        let mut hidden = self.empty_hidden();
        for table in self.table() {
            let known = if takes(table) { visitor.known(table, &self.weights(table)?)? } else { None };
            let chosen = match known {
                Some(known) => known,
                None if takes(table) => {
                    if shared.contains(&table) && early.is_none() {
                        early = Some(self.float_metrics(shared, count)?);
                    }
                    let looked_up = Metric::new(self.graph.tensors[table].cols);
                    let metric = early.as_ref().and_then(|early| early.get(&table)).unwrap_or(&looked_up);
                    self.choose(table, metric, visitor, count)?
                }
                None => {
                    let format = formats[table].unwrap_or(Format::F32);
                    (format, self.packed_plainly(table, format)?)
                }
            };
            self.look_up_packed(table, &chosen, &mut hidden)?;
            packed.insert(table, chosen);
        }
        for piece in 0..self.pieces.len() {
            count.report("");
            let (small, own) = self.small_model(piece);
            let head = self.head(piece);
            // Those that nobody has chosen yet.
            let mut open: Vec<usize> = Vec::new();
            for tensor in own.iter().copied().chain(head.clone()).filter(|t| takes(*t)) {
                if let Entry::Vacant(entry) = packed.entry(tensor) {
                    match visitor.known(tensor, &self.weights(tensor)?)? {
                        Some(known) => {
                            entry.insert(known);
                        }
                        None => open.push(tensor),
                    }
                }
            }
            if early.is_none() && open.iter().any(|t| shared.contains(t)) {
                early = Some(self.float_metrics(shared, count)?);
            }
            let leaders = leaders(self.graph, &self.pieces[piece].ops);
            for wave in waves(self.graph, &self.pieces[piece].ops, &open) {
                let mut metrics: HashMap<usize, Metric> = HashMap::new();
                // All rows of the head multiply the same; so do matrices side by side, of which one is listened to.
                let of_head = wave.iter().copied().find(|t| !shared.contains(t) && head.contains(t));
                let key = |t: usize| match leaders.get(&t) {
                    _ if head.contains(&t) => of_head.unwrap_or(t),
                    Some(leader) if wave.contains(leader) && !shared.contains(leader) => *leader,
                    _ => t,
                };
                let mut listened: Vec<usize> =
                    wave.iter().copied().filter(|&t| !shared.contains(&t) && key(t) == t && !head.contains(&t)).collect();
                listened.extend(of_head.map(|_| small.sink));
                if !listened.is_empty() {
                    let image = small.image(|t| filling(t, formats, &packed, &open))?;
                    self.run(piece, &small, &image, &listened, &hidden, |tensor, inputs| {
                        let tensor = if tensor == small.sink { of_head.unwrap_or(tensor) } else { tensor };
                        let cols = self.graph.tensors[tensor].cols;
                        metrics.entry(tensor).or_insert_with(|| Metric::new(cols)).add(inputs);
                    })?;
                }
                for &tensor in &wave {
                    let unseen = Metric::new(self.graph.tensors[tensor].cols);
                    let before = early.as_ref().and_then(|early| early.get(&tensor));
                    let metric = before.or(metrics.get(&key(tensor))).unwrap_or(&unseen);
                    let chosen = self.choose(tensor, metric, visitor, count)?;
                    packed.insert(tensor, chosen);
                }
            }
            if piece + 1 < self.pieces.len() || cfg!(test) {
                let image = small.image(|t| filling(t, formats, &packed, &[]))?;
                hidden = self.run(piece, &small, &image, &[small.sink], &hidden, |_, _| {})?;
            }
            // What no later stretch uses is the visitor's alone.
            packed.retain(|t, _| shared.contains(t));
            count.done += 1;
        }
        count.report("");
        Ok(hidden)
    }

    fn choose(&self, tensor: usize, metric: &Metric, visitor: &mut dyn Visitor, count: &mut Count<'_>) -> Result<(Format, Vec<u8>), Error> {
        let decl = &self.graph.tensors[tensor];
        count.report(&decl.name);
        let weights = self.weights(tensor)?;
        visitor.choose(&Target { tensor, rows: decl.rows, cols: decl.cols, weights: &weights, metric })
    }

    fn weights(&self, tensor: usize) -> Result<Vec<f32>, Error> {
        match &self.graph.tensors[tensor].values {
            Values::Matrix(_, load) => load(),
            Values::Array(_) | Values::Turns(_) | Values::Places(_) => Ok(Vec::new()),
        }
    }

    fn packed_plainly(&self, tensor: usize, format: Format) -> Result<Vec<u8>, Error> {
        let decl = &self.graph.tensors[tensor];
        Ok(methods::pack(format, decl.rows, decl.cols, &self.weights(tensor)?).bytes)
    }

    /// The embedding, where tokens go in.
    fn table(&self) -> Range<usize> {
        self.graph.embedding()
    }

    /// The head's matrix, if the stretch ends the model.
    fn head(&self, piece: usize) -> Range<usize> {
        if self.pieces[piece].ops.end == self.graph.ops.len() { self.graph.head_matrix() } else { 0..0 }
    }

    /// The model of a stretch, and its matrices; the head's is not among them.
    fn small_model(&self, piece: usize) -> (SmallModel<'_>, Vec<usize>) {
        let stretch = &self.pieces[piece];
        let mut own: Vec<usize> = Vec::new();
        for op in self.graph.ops[stretch.ops.clone()].iter().filter(|op| !matches!(op, Op::Head(_) | Op::CappedHead(_))) {
            let new: Vec<usize> = matrices(self.graph, op).into_iter().filter(|t| !own.contains(t)).collect();
            own.extend(new);
        }
        let steps = self.segments.first().map_or(1, ExactSizeIterator::len);
        (SmallModel::new(self.graph, stretch, &own, self.cache, steps), own)
    }

    /// Room for what a token model's embedding gives; nothing for others.
    fn empty_hidden(&self) -> Hidden {
        let width = if let Some(Op::Embed(embed)) = self.graph.ops.first() { embed.out.len as usize } else { return Hidden::new() };
        self.segments.iter().map(|segment| vec![0.0; segment.len() * width]).collect()
    }

    /// Looks those tokens up whose rows tensor `piece` of the embedding has.
    fn look_up(&self, piece: usize, row_of: impl Fn(usize, &mut [f32]), hidden: &mut Hidden) {
        let (Some(Op::Embed(embed)), Calibration::Tokens(tokens)) = (self.graph.ops.first(), self.calibration) else { return };
        let first: usize = self.table().take_while(|&before| before < piece).map(|before| self.graph.tensors[before].rows).sum();
        let rows = first..first + self.graph.tensors[piece].rows;
        let places = self.graph.places_of(embed.table as usize);
        for (segment, hidden) in self.segments.iter().zip(hidden) {
            for (out, &token) in hidden.chunks_exact_mut(embed.out.len as usize).zip(&tokens[segment.clone()]) {
                let row = places.map_or(token, |places| places[token as usize]) as usize;
                if rows.contains(&row) {
                    row_of(row - first, out);
                    out.iter_mut().for_each(|x| *x *= embed.scale);
                }
            }
        }
    }

    /// The same by packed rows.
    fn look_up_packed(&self, piece: usize, (format, bytes): &(Format, Vec<u8>), hidden: &mut Hidden) -> Result<(), Error> {
        let decl = &self.graph.tensors[piece];
        let lines = lines_from(bytes);
        let matrix = Matrix::from_bytes(*format, decl.rows, decl.cols, &Line::bytes(&lines)[..bytes.len()]);
        let matrix = matrix.map_err(|e| Error::invalid(Path::new(&decl.name), "embedding", format!("cannot be read back: {e:?}")))?;
        self.look_up(piece, |row, out| matrix.unpack_row(row, out), hidden);
        Ok(())
    }

    /// Runs a stretch over all segments; `heard` gets the inputs of the matrices that are listened to, segment by segment, and what
    /// leaves the stretch comes back, if its sink is among them.
    fn run(
        &self,
        piece: usize,
        small: &SmallModel<'_>,
        image: &Image,
        listened: &[usize],
        hidden: &Hidden,
        mut heard: impl FnMut(usize, &[f32]),
    ) -> Result<Hidden, Error> {
        let model = image.model()?;
        let places = |&tensor: &usize| Some((place(&model.artifact().matrix(tensor as u32)?)?, tensor));
        let places: Vec<(usize, usize)> = listened.iter().filter_map(places).collect();
        let is_first = self.pieces[piece].ops.start == 0;
        let (calibration, segments, entering) = (self.calibration, &self.segments, small.entering);
        let mut left = Hidden::new();
        let numbers: Vec<usize> = (0..segments.len()).collect();
        for some in numbers.chunks(AT_ONCE) {
            let recorded: Vec<Result<Inputs, Error>> = some
                .par_iter()
                .map(|&i| {
                    let segment = &segments[i];
                    let samples = match calibration {
                        Calibration::Frames { samples, .. } if is_first => &samples[segment.start * entering..segment.end * entering],
                        _ => &hidden[i],
                    };
                    let seconds = match calibration {
                        Calibration::Frames { seconds: Some(seconds), .. } => Some(&seconds[segment.clone()]),
                        _ => None,
                    };
                    let (done, inputs) = listen(&places, || stream(&model, samples, seconds));
                    done.map(|()| inputs)
                })
                .collect();
            for inputs in recorded {
                let mut inputs = inputs?;
                for tensor in listened {
                    if let Some(inputs) = inputs.get(tensor) {
                        heard(*tensor, inputs);
                    }
                }
                left.extend(inputs.remove(&small.sink));
            }
        }
        Ok(left)
    }
}

/// Matrices that multiply the very same as one before them in the stretch, and that one.
fn leaders(graph: &Graph<'_>, ops: &Range<usize>) -> HashMap<usize, usize> {
    let mut leaders = HashMap::new();
    // Operands as they are now, and the first matrix that multiplied each.
    let mut first: Vec<(Operand, usize)> = Vec::new();
    // A block sees some of the steps only: where it ends, counted from its beginning.
    let mut block_end = None;
    for (i, op) in graph.ops[ops.clone()].iter().enumerate() {
        let length = match op {
            Op::Route(route) => Some(route.ops),
            Op::Every(every) => Some(every.ops),
            _ => None,
        };
        if length.is_some() || block_end == Some(i) {
            first.clear();
        }
        block_end = length.map(|ops| i + 1 + ops as usize).or(block_end);
        if let Op::Linear(linear) = op {
            match first.iter().find(|(x, _)| *x == linear.x) {
                Some(&(_, leader)) => drop(leaders.insert(linear.w as usize, leader)),
                None => first.push((linear.x, linear.w as usize)),
            }
        }
        let _ = op.map(|v: Operand, access| {
            if access != Access::Read {
                first.retain(|(x, _)| x.value != v.value);
            }
        });
    }
    leaders
}

/// Matrices of a stretch that are `open`, in groups that do not see each other's rounding: what one multiplies depends on those of the
/// groups before alone.
fn waves(graph: &Graph<'_>, ops: &Range<usize>, open: &[usize]) -> Vec<Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    // Values that follow from the latest wave's products.
    let mut new: HashSet<usize> = HashSet::new();
    for op in &graph.ops[ops.clone()] {
        let own: Vec<usize> = matrices(graph, op).into_iter().filter(|t| open.contains(t)).collect();
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        let _ = op.map(|v: Operand, access| {
            if access != Access::Write {
                reads.push(v.value);
            }
            if access != Access::Read {
                writes.push(v.value);
            }
        });
        let mut follows = reads.iter().any(|v| new.contains(v));
        if !own.is_empty() {
            if follows || waves.is_empty() {
                waves.push(Vec::new());
                new.clear();
            }
            let seen: HashSet<usize> = waves.iter().flatten().copied().collect();
            if let Some(wave) = waves.last_mut() {
                wave.extend(own.into_iter().filter(|t| !seen.contains(t)));
            }
            follows = true;
        }
        if follows {
            new.extend(writes);
        }
    }
    waves
}

/// How a matrix enters a stretch: those that are `open` in float, those packed as they are, the others as the recipe says.
fn filling<'p>(tensor: usize, formats: &[Option<Format>], packed: &'p HashMap<usize, (Format, Vec<u8>)>, open: &[usize]) -> Filling<'p> {
    match packed.get(&tensor) {
        Some((format, bytes)) => Filling::Packed(*format, bytes),
        None if open.contains(&tensor) => Filling::Plain(Format::F32),
        None => Filling::Plain(formats[tensor].unwrap_or(Format::F32)),
    }
}

/// Feeds a stretch from an empty state.
fn stream(model: &Model<'_>, samples: &[f32], seconds: Option<&[f32]>) -> Result<(), Error> {
    let lines = |bytes: usize| vec![Line::ZERO; bytes.div_ceil(size_of::<Line>())];
    let (mut state, mut scratch) = (lines(model.state_bytes()), lines(model.scratch_bytes(BATCH)));
    let mut state = State::new(model, Line::bytes_mut(&mut state))?;
    let mut session = Session::new(model, recording(), &mut state, Line::bytes_mut(&mut scratch))?;
    let mut each = |_: usize, _: &[f32]| {};
    // A stretch that does not know the time has no use for it.
    match seconds.filter(|_| model.plan().takes_gaps) {
        Some(seconds) => session.prefill_frames_after_each(samples, seconds, &mut each)?,
        None => session.prefill_frames_each(samples, &mut each)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::write_formats;
    use crate::passes::{cut_projections, cut_tables};
    use crate::{CacheFormat, Checkpoint, Recipe, StateFormat, families};
    use brooklet::artifact::InputSpec;
    use brooklet::mem::MappedFile;

    /// Rounds to the nearest, and remembers what the head multiplied.
    struct Nearest<'f> {
        formats: &'f [Option<Format>],
        seen: Vec<usize>,
    }

    impl Visitor for Nearest<'_> {
        fn choose(&mut self, target: &Target<'_>) -> Result<(Format, Vec<u8>), Error> {
            self.seen.push(target.tensor);
            let format = self.formats[target.tensor].unwrap();
            Ok((format, methods::pack(format, target.rows, target.cols, target.weights).bytes))
        }
    }

    /// What the head of a whole file multiplies, by segment.
    fn whole(file: &[u8], calibration: &Calibration, segments: &[Range<usize>]) -> Vec<Vec<f32>> {
        let lines = lines_from(file);
        let model = Model::from_bytes(&Line::bytes(&lines)[..file.len()]).unwrap();
        let head = model.header().program.iter().flatten().last().unwrap().head().unwrap().w;
        let places = [(place(&model.artifact().matrix(head).unwrap()).unwrap(), 0)];
        let buffers = |bytes: usize| vec![Line::ZERO; bytes.div_ceil(64)];
        let of = |segment: &Range<usize>| {
            let (mut state, mut scratch) = (buffers(model.state_bytes()), buffers(model.scratch_bytes(BATCH)));
            let mut state = State::new(&model, Line::bytes_mut(&mut state)).unwrap();
            let mut session = Session::new(&model, recording(), &mut state, Line::bytes_mut(&mut scratch)).unwrap();
            let each: &mut dyn FnMut(usize, &[f32]) = &mut |_, _| {};
            let (done, mut inputs) = listen(&places, || match (calibration, model.header().input) {
                (Calibration::Tokens(tokens), _) => session.prefill_tokens_each(&tokens[segment.clone()], each),
                (Calibration::Frames { samples, seconds }, InputSpec::Frames { .. }) => {
                    let channels = model.channels().unwrap();
                    let samples = &samples[segment.start * channels..segment.end * channels];
                    match seconds {
                        Some(seconds) => session.prefill_frames_after_each(samples, &seconds[segment.clone()], each),
                        None => session.prefill_frames_each(samples, each),
                    }
                }
                _ => unreachable!(),
            });
            done.unwrap();
            inputs.remove(&0).unwrap()
        };
        segments.iter().map(of).collect()
    }

    #[test]
    fn a_walk_gives_the_bits_of_the_whole_model() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/families");
        let mut dirs: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
        dirs.sort();
        for dir in dirs {
            let name = dir.file_name().unwrap().to_string_lossy().into_owned();
            let checkpoint = Checkpoint::open(&dir).unwrap();
            for (format, in_pieces) in [(Format::F32, false), (Format::Q4, false), (Format::Q4, true)] {
                let mut graph = families::build(&checkpoint).unwrap();
                let vocab = if let Input::Tokens { vocab, .. } = graph.input { vocab } else { 0 };
                let backwards: Vec<u32> = (0..vocab).rev().collect();
                if in_pieces && cut_tables(&mut graph, 1, Some(&backwards)) + cut_projections(&mut graph, 1) == 0 {
                    continue;
                }
                let cache = Cache { context: 128, sink: None, format: CacheFormat::Int8 };
                let recipe = Recipe { format, embedding: Some(Format::F32), state: StateFormat::F32, cache };
                let mut formats = recipe.formats(&graph);
                graph.head_matrix().for_each(|w| formats[w] = Some(Format::F32));
                let out = tempfile::tempdir().unwrap();
                let path = out.path().join("whole.brook");
                write_formats(&graph, &recipe, &formats, &path, &mut |_| {}).unwrap();
                let file = MappedFile::open(&path).unwrap();
                let takes_gaps = Model::from_bytes(file.bytes()).unwrap().plan().takes_gaps;
                let calibration = Calibration::noise(&graph, takes_gaps, 96);
                let channels = if let Input::Frames { channels, .. } = &graph.input { channels.len() } else { 1 };
                let segments = calibration.spread(channels, 2, 48);

                let walk = Walk { graph: &graph, cache, calibration: &calibration, segments: segments.clone(), pieces: stretches(&graph) };
                let mut visitor = Nearest { formats: &formats, seen: Vec::new() };
                let mut count = Count { done: 0, total: 0, progress: &mut |_| {} };
                let shared: HashSet<usize> =
                    shared(&graph, &walk.pieces).into_iter().filter(|&t| formats[t].is_some_and(takes_metric)).collect();
                let left = walk.go(&formats, &shared, &mut visitor, &mut count).unwrap();
                assert_eq!(left, whole(file.bytes(), &calibration, &segments), "{name}");

                let wanted = formats.iter().filter(|f| f.is_some_and(takes_metric)).count();
                assert_eq!(visitor.seen.len(), wanted, "{name}: matrices were left out");
                println!("{name}: {} in {} pieces, {wanted} matrices", format.name(), walk.pieces.len());
            }
        }
    }
}
