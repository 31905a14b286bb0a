//! A session on the GPU: the interface of [`brooklet::Session`], for one stream or several.

use crate::arena::{Address, Arena, Layout, Place};
use crate::batch::Batch;
use crate::error::Error;
use crate::input::{Inputs, gaps};
use crate::launch::Rounded;
use crate::model::CudaModel;
use crate::needs::ROUTE_BYTES;
use crate::queue::{Context, Room};
use brooklet::artifact::InputSpec;
use brooklet::{Input, Line, State, snapshot_bytes};
use cudarc::driver::{CudaGraph, sys};
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

/// Rows whose outputs are made together when every token's are wanted.
const OUTPUT_ROWS: u32 = 16;
/// Most captured graphs: a program of several rates has one for every set of blocks that run together.
const MAX_GRAPHS: usize = 128;
/// Tokens that are drawn on the GPU before they are asked for.
const LOG_LEN: u32 = 4096;

/// What a session is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Streams that step together.
    pub streams: u32,
    /// Tokens that a prefill handles at once.
    pub batch: u32,
    /// Whether a step is captured once and then started as one graph.
    pub graphs: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { streams: 1, batch: 512, graphs: true }
    }
}

/// An operation's number and name, and the seconds that it took.
pub type Timed = (u32, &'static str, f64);

/// A model at work on a GPU.
pub struct CudaSession<'s, 'm> {
    gpu: &'s CudaModel<'m>,
    options: Options,
    arena: Arena,
    places: Places,
    room: Room,
    /// Numbers from frame to frame.
    stride: u32,
    /// Bytes from a stream's state to the next.
    state_stride: u64,
    /// (streams): steps taken since each began, as the GPU has them too.
    positions: Vec<u64>,
    graphs: HashMap<Captured, CudaGraph>,
    /// (streams, outputs) of the latest step, or (outputs) of the latest prefill.
    output: Vec<f32>,
    has_gaps: bool,
}

/// What a graph does: a step of every stream in which some blocks run, with the next token drawn or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Captured {
    pattern: u64,
    is_greedy: bool,
}

#[derive(Clone, Copy, Debug)]
struct Places {
    state: Place,
    positions: Place,
    gaps: Place,
    input: Place,
    output: Place,
    frames: Place,
    log: Place,
}

/// What happens to the outputs of a batch.
enum Wanted<'w> {
    Nothing,
    Last,
    Each(usize, &'w mut dyn FnMut(usize, &[f32])),
}

impl fmt::Debug for CudaSession<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaSession").field("options", &self.options).field("positions", &self.positions).finish_non_exhaustive()
    }
}

impl<'s, 'm> CudaSession<'s, 'm> {
    /// Empty streams. All memory is taken here, once.
    pub fn new(gpu: &'s CudaModel<'m>, options: Options) -> Result<Self, Error> {
        let options = Options { streams: options.streams.clamp(1, 1024), batch: options.batch.max(1), ..options };
        let (model, needs) = (gpu.model(), gpu.needs);
        let rows = options.batch.max(options.streams);
        let (rows_u64, streams) = (u64::from(rows), u64::from(options.streams));
        let too_large = || Error::OutOfMemory { needed_bytes: u64::MAX, free_bytes: 0 };
        let stride = model.plan().scratch(rows as usize, 1).ok_or_else(too_large)?.stride;
        let stride = u32::try_from(stride).map_err(|_| too_large())?;
        let state_stride = (model.state_bytes() as u64).next_multiple_of(256).max(256);
        let input_width = model.channels().unwrap_or(1).max(1) as u64;
        let output_rows = u64::from(options.streams.max(OUTPUT_ROWS.min(rows)));
        let picks = if needs.has_experts { rows_u64 * 32 * 4 } else { 0 };

        let mut layout = Layout::default();
        let places = Places {
            state: layout.add(state_stride * streams),
            positions: layout.add(8 * streams),
            gaps: layout.add(4 * rows_u64),
            input: layout.add(4 * rows_u64 * input_width),
            output: layout.add(4 * output_rows * model.outputs() as u64),
            frames: layout.add(4 * rows_u64 * u64::from(stride)),
            log: layout.add(4 * streams * u64::from(LOG_LEN)),
        };
        let codes = layout.add(rows_u64 * needs.rounded);
        let [scales, sums] = [(); 2].map(|()| layout.add(rows_u64 * needs.rounded / 32 * 4));
        let spread = layout.add(gpu.spread_bytes(rows));
        let attention = layout.add(gpu.attention_bytes(rows));
        let [chosen, weights] = [(); 2].map(|()| layout.add(picks));
        let hidden = layout.add(4 * rows_u64 * needs.hidden);
        let experts = layout.add(4 * rows_u64 * needs.experts);
        let entry = layout.add(ROUTE_BYTES);
        let made = layout.add(if gpu.has_places() { 4 * output_rows * model.outputs() as u64 } else { 0 });
        let arena = Arena::new(gpu.device(), &layout)?;
        let room = Room {
            input: arena.address(places.input),
            output: arena.address(places.output),
            made: arena.address(made),
            rounded: Rounded { codes: arena.address(codes), scales: arena.address(scales), sums: arena.address(sums) },
            spread: (arena.address(spread), spread.bytes()),
            attention: arena.address(attention),
            chosen: arena.address(chosen),
            weights: arena.address(weights),
            hidden: arena.address(hidden),
            experts: arena.address(experts),
            entry: arena.address(entry),
        };
        let mut session = CudaSession {
            gpu,
            options,
            arena,
            places,
            room,
            stride,
            state_stride,
            positions: vec![0; options.streams as usize],
            graphs: HashMap::new(),
            output: vec![0.0; options.streams as usize * model.outputs()],
            has_gaps: model.plan().takes_gaps,
        };
        session.reset()?;
        session.arena.upload(session.places.gaps, &vec![1.0f32; rows as usize])?;
        session.gpu.device().wait()?;
        Ok(session)
    }

    /// Bytes on the GPU, without the weights.
    pub fn bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// Begins all streams anew.
    pub fn reset(&mut self) -> Result<(), Error> {
        self.arena.clear(self.places.state)?;
        self.arena.clear(self.places.positions)?;
        self.positions.fill(0);
        Ok(())
    }

    /// Steps that a stream has taken since it began.
    ///
    /// # Panics
    ///
    /// If the session has no such stream.
    pub fn position(&self, stream: usize) -> u64 {
        self.positions[stream]
    }

    /// The outputs of the latest step, (streams, outputs), or of the latest prefill's last token, (outputs).
    pub fn output(&self) -> &[f32] {
        &self.output
    }

    /// The same, to change in place.
    pub fn output_mut(&mut self) -> &mut [f32] {
        &mut self.output
    }

    /// The model.
    pub fn gpu(&self) -> &'s CudaModel<'m> {
        self.gpu
    }

    /// One step of the one stream: a token or a frame in, the outputs out, (outputs).
    pub fn step(&mut self, input: Input<'_>) -> Result<&[f32], Error> {
        if let (Input::Frame(frame) | Input::FrameAfter(frame, _), Some(channels)) = (input, self.gpu.model().channels())
            && channels != frame.len()
        {
            return Err(brooklet::Error::FrameWidth { got: frame.len() as u32, want: channels as u32 }.into());
        }
        match input {
            Input::Token(token) => self.step_all(Inputs::Tokens(&[token]), None),
            Input::Frame(frame) => self.step_all(Inputs::Frames(frame), None),
            Input::FrameAfter(frame, seconds) => self.step_all(Inputs::Frames(frame), Some(&[seconds])),
        }
    }

    /// One step of every stream: a token each, (streams); their outputs out, (streams, outputs).
    pub fn step_tokens(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.step_all(Inputs::Tokens(tokens), None)
    }

    /// One step of every stream: a frame each, (streams, channels); their outputs out, (streams, outputs).
    pub fn step_frames(&mut self, frames: &[f32]) -> Result<&[f32], Error> {
        self.step_all(Inputs::Frames(frames), None)
    }

    /// Several tokens of a stream at once; the outputs are those of the last.
    pub fn prefill_tokens(&mut self, stream: usize, tokens: &[u32]) -> Result<&[f32], Error> {
        self.prefill(stream, Inputs::Tokens(tokens), None, None)
    }

    /// Several frames of a stream at once, (frames, channels); the outputs are those of the last.
    pub fn prefill_frames(&mut self, stream: usize, frames: &[f32]) -> Result<&[f32], Error> {
        self.prefill(stream, Inputs::Frames(frames), None, None)
    }

    /// Like [`CudaSession::prefill_tokens`], and calls `each` with every token's number and outputs.
    pub fn prefill_tokens_each(&mut self, stream: usize, tokens: &[u32], each: &mut dyn FnMut(usize, &[f32])) -> Result<(), Error> {
        self.prefill(stream, Inputs::Tokens(tokens), None, Some(each)).map(|_| ())
    }

    /// Like [`CudaSession::prefill_frames`], and calls `each` with every frame's number and outputs; `seconds`, (frames), is the time from the frame
    /// before to each.
    pub fn prefill_frames_each(
        &mut self,
        stream: usize,
        frames: &[f32],
        seconds: Option<&[f32]>,
        each: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Error> {
        self.prefill(stream, Inputs::Frames(frames), seconds, Some(each)).map(|_| ())
    }

    /// Draws `count` tokens, each the likeliest after those before: `first` is the first that the one stream takes. Nothing comes from the GPU between them.
    pub fn greedy(&mut self, first: u32, count: usize) -> Result<Vec<u32>, Error> {
        let model = self.gpu.model();
        let total = Inputs::Tokens(&[first]).check(model)?;
        self.check_streams(total)?;
        model.check_context(self.positions[0], count)?;
        if let InputSpec::Tokens { vocab, .. } = model.header().input
            && model.outputs() > vocab as usize
        {
            return Err(Error::NoTokens { outputs: model.outputs(), vocab: vocab as usize });
        }
        self.arena.upload(self.places.input, &[first])?;
        let mut drawn = Vec::with_capacity(count);
        let mut log = vec![0u32; LOG_LEN as usize];
        while drawn.len() < count {
            let from = self.positions[0] % u64::from(LOG_LEN);
            let steps = (count - drawn.len()).min((u64::from(LOG_LEN) - from) as usize);
            for _ in 0..steps {
                self.queue_step(true)?;
            }
            self.arena.download(self.places.log, &mut log)?;
            drawn.extend_from_slice(&log[from as usize..from as usize + steps]);
        }
        Ok(drawn)
    }

    /// Copies a stream to a state of the CPU's, which continues it.
    pub fn store(&self, stream: usize, state: &mut State<'_>) -> Result<(), Error> {
        self.check_stream(stream)?;
        if state.model_hash() != self.gpu.model().artifact().hash() {
            return Err(brooklet::Error::OtherModel.into());
        }
        state.refill(self.positions[stream], |bytes| self.arena.download_at(self.places.state, stream as u64 * self.state_stride, bytes))
    }

    /// Continues a state of the CPU's in a stream.
    pub fn load(&mut self, stream: usize, state: &State<'_>) -> Result<(), Error> {
        self.check_stream(stream)?;
        if state.model_hash() != self.gpu.model().artifact().hash() {
            return Err(brooklet::Error::OtherModel.into());
        }
        self.arena.upload_at(self.places.state, stream as u64 * self.state_stride, state.bytes())?;
        self.arena.upload_at(self.places.positions, 8 * stream as u64, &[state.position()])?;
        self.positions[stream] = state.position();
        self.gpu.device().wait()
    }

    /// A snapshot of a stream, as [`State::snapshot`] writes it.
    pub fn snapshot(&self, stream: usize) -> Result<Vec<u8>, Error> {
        let model = self.gpu.model();
        let mut lines = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
        let mut state = State::new(model, Line::bytes_mut(&mut lines))?;
        self.store(stream, &mut state)?;
        let mut out = vec![0; snapshot_bytes(model)];
        state.snapshot(&mut out)?;
        Ok(out)
    }

    /// Continues a snapshot in a stream. On an error the stream is as it was before.
    pub fn restore(&mut self, stream: usize, snapshot: &[u8]) -> Result<(), Error> {
        let model = self.gpu.model();
        let mut lines = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
        let state = State::restore(model, snapshot, Line::bytes_mut(&mut lines))?;
        self.load(stream, &state)
    }

    /// Seconds that each operation of a step of all streams took, by number and name, the head last. The streams move on by that step.
    pub fn profile(&mut self, tokens: &[u32]) -> Result<Vec<Timed>, Error> {
        let total = Inputs::Tokens(tokens).check(self.gpu.model())?;
        self.check_streams(total)?;
        self.profile_batch(tokens, 0..self.options.streams, 1)
    }

    /// The same of a prefill of the first stream, as many tokens as it handles at once.
    pub fn profile_prefill(&mut self, tokens: &[u32]) -> Result<Vec<Timed>, Error> {
        let tokens = &tokens[..tokens.len().min(self.options.batch as usize)];
        let total = Inputs::Tokens(tokens).check(self.gpu.model())?;
        self.gpu.model().check_context(self.positions[0], total)?;
        self.profile_batch(tokens, 0..1, total as u32)
    }

    fn profile_batch(&mut self, tokens: &[u32], streams: Range<u32>, tokens_each: u32) -> Result<Vec<Timed>, Error> {
        self.arena.upload(self.places.input, tokens)?;
        let device = self.gpu.device().clone();
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let mark = || device.stream().record_event(flags).map_err(Error::driver("recording an event"));
        let mut marks = vec![(0, "start", mark()?)];
        let batch = self.batch(streams.clone(), tokens_each);
        self.gpu.run(&self.context(batch, streams.start), |index, name| {
            marks.push((index, name, mark()?));
            Ok(())
        })?;
        self.last_outputs(&batch)?;
        marks.push((self.gpu.program.len() as u32, "Head", mark()?));
        self.advance(streams, tokens_each)?;
        device.wait()?;
        let between = |pair: &[(u32, &'static str, cudarc::driver::CudaEvent)]| {
            let milliseconds = pair[0].2.elapsed_ms(&pair[1].2).map_err(Error::driver("reading a timer"))?;
            Ok((pair[1].0, pair[1].1, f64::from(milliseconds) / 1e3))
        };
        marks.windows(2).map(between).collect()
    }

    fn check_stream(&self, stream: usize) -> Result<(), Error> {
        let streams = self.positions.len();
        if stream < streams { Ok(()) } else { Err(Error::NoStream { stream, streams }) }
    }

    fn check_streams(&self, got: usize) -> Result<(), Error> {
        let want = self.options.streams;
        if got == want as usize { Ok(()) } else { Err(brooklet::Error::StreamCount { got: got as u32, want }.into()) }
    }

    fn step_all(&mut self, inputs: Inputs<'_>, seconds: Option<&[f32]>) -> Result<&[f32], Error> {
        let total = inputs.check(self.gpu.model())?;
        self.check_streams(total)?;
        for &position in &self.positions {
            self.gpu.model().check_context(position, 1)?;
        }
        let gaps = seconds.map(|seconds| gaps(self.gpu.model(), seconds, total)).transpose()?;
        self.enter(inputs, gaps.as_deref())?;
        self.queue_step(false)?;
        self.leave_gaps(gaps.is_some(), total)?;
        self.output.resize(total * self.gpu.model().outputs(), 0.0);
        self.arena.download(self.places.output, &mut self.output)?;
        Ok(&self.output)
    }

    fn prefill(
        &mut self,
        stream: usize,
        inputs: Inputs<'_>,
        seconds: Option<&[f32]>,
        mut each: Option<&mut dyn FnMut(usize, &[f32])>,
    ) -> Result<&[f32], Error> {
        self.check_stream(stream)?;
        let model = *self.gpu.model();
        let total = inputs.check(&model)?;
        model.check_context(self.positions[stream], total)?;
        let gaps = seconds.map(|seconds| gaps(&model, seconds, total)).transpose()?;
        let mut done = 0;
        while done < total {
            let tokens = (total - done).min(self.options.batch as usize);
            let part = done..done + tokens;
            let gaps = gaps.as_ref().map(|gaps| &gaps[part.clone()]);
            self.enter(inputs.part(part, total), gaps)?;
            let wanted = match &mut each {
                Some(each) => Wanted::Each(done, &mut **each),
                None if done + tokens == total => Wanted::Last,
                None => Wanted::Nothing,
            };
            self.run(stream as u32, tokens as u32, wanted)?;
            self.leave_gaps(gaps.is_some(), tokens)?;
            done += tokens;
        }
        Ok(&self.output)
    }

    /// Copies inputs, and the times between them if there are any, to the GPU.
    fn enter(&mut self, inputs: Inputs<'_>, gaps: Option<&[f32]>) -> Result<(), Error> {
        match inputs {
            Inputs::Tokens(tokens) => self.arena.upload(self.places.input, tokens)?,
            Inputs::Frames(frames) => self.arena.upload(self.places.input, frames)?,
        }
        gaps.map_or(Ok(()), |gaps| self.arena.upload(self.places.gaps, gaps))
    }

    /// Sets the times between inputs back to those of the model's own rate.
    fn leave_gaps(&mut self, had_gaps: bool, steps: usize) -> Result<(), Error> {
        if had_gaps { self.arena.upload(self.places.gaps, &vec![1.0f32; steps]) } else { Ok(()) }
    }

    /// The next `tokens` tokens of some streams.
    fn batch(&self, streams: Range<u32>, tokens: u32) -> Batch {
        Batch {
            frames: self.arena.address(self.places.frames),
            state: self.arena.address(self.places.state).plus(u64::from(streams.start) * self.state_stride),
            positions: self.arena.address(self.places.positions).plus(8 * u64::from(streams.start)),
            gaps: if self.has_gaps { self.arena.address(self.places.gaps) } else { Address::NULL },
            state_stride: self.state_stride,
            stride: self.stride,
            tokens,
            streams: streams.end - streams.start,
            period: 1,
            ..Default::default()
        }
    }

    fn context(&self, batch: Batch, first_stream: u32) -> Context<'_> {
        let streams = first_stream as usize..(first_stream + batch.streams) as usize;
        let positions = &self.positions[streams];
        Context { batch, positions, cached: positions.iter().copied().max().unwrap_or(0), room: &self.room }
    }

    /// Queues the head on the last token of each stream.
    fn last_outputs(&self, batch: &Batch) -> Result<(), Error> {
        let first = batch.token(batch.tokens - 1);
        self.gpu.head(batch, &self.room, first.frames, batch.streams, u64::from(first.stride))
    }

    fn advance(&mut self, streams: Range<u32>, tokens: u32) -> Result<(), Error> {
        let positions = self.arena.address(self.places.positions).plus(8 * u64::from(streams.start));
        self.gpu.kernels.route.advance(self.gpu.device(), positions, streams.end - streams.start, tokens)?;
        for position in &mut self.positions[streams.start as usize..streams.end as usize] {
            *position += u64::from(tokens);
        }
        Ok(())
    }

    /// Runs the inputs that were copied through a stream.
    fn run(&mut self, stream: u32, tokens: u32, wanted: Wanted<'_>) -> Result<(), Error> {
        let batch = self.batch(stream..stream + 1, tokens);
        self.gpu.run(&self.context(batch, stream), |_, _| Ok(()))?;
        let outputs = self.gpu.model().outputs();
        match wanted {
            Wanted::Nothing => {}
            Wanted::Last => {
                self.last_outputs(&batch)?;
                self.output.resize(outputs, 0.0);
                self.arena.download(self.places.output, &mut self.output)?;
            }
            Wanted::Each(number, each) => {
                let mut all = vec![0.0; outputs * OUTPUT_ROWS as usize];
                let mut row = 0;
                while row < tokens {
                    let rows = (tokens - row).min(OUTPUT_ROWS);
                    let first = batch.token(row).frames;
                    self.gpu.head(&batch, &self.room, first, rows, u64::from(self.stride))?;
                    let part = &mut all[..outputs * rows as usize];
                    self.arena.download(self.places.output, part)?;
                    for (i, output) in part.chunks_exact(outputs).enumerate() {
                        each(number + row as usize + i, output);
                    }
                    row += rows;
                }
                let last = (tokens - 1) % OUTPUT_ROWS;
                self.output.clear();
                self.output.extend_from_slice(&all[outputs * last as usize..outputs * (last as usize + 1)]);
            }
        }
        self.advance(stream..stream + 1, tokens)
    }

    /// Queues a step of every stream, as a graph if it can be one.
    fn queue_step(&mut self, is_greedy: bool) -> Result<(), Error> {
        let streams = self.options.streams;
        // Streams at different positions run different blocks.
        let is_alike = self.positions.windows(2).all(|pair| pair[0] == pair[1]);
        let pattern = self.gpu.pattern(self.positions[0]).filter(|_| self.options.graphs && is_alike);
        let Some(captured) = pattern.map(|pattern| Captured { pattern, is_greedy }) else { return self.step_once(is_greedy) };
        if !self.graphs.contains_key(&captured) {
            if self.graphs.len() == MAX_GRAPHS {
                return self.step_once(is_greedy);
            }
            let stream = self.gpu.device().stream().clone();
            let failed = Error::driver("capturing a step");
            stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(&failed)?;
            let queued = self.step_once(is_greedy);
            // The positions move when the graph runs.
            let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).map_err(&failed);
            if queued.is_ok() {
                self.positions.iter_mut().for_each(|position| *position -= 1);
            }
            queued?;
            let graph = graph?.ok_or(Error::Archive { what: "a step without work" })?;
            self.graphs.insert(captured, graph);
        }
        if let Some(graph) = self.graphs.get(&captured) {
            graph.launch().map_err(Error::driver("starting a step"))?;
        }
        for position in &mut self.positions[..streams as usize] {
            *position += 1;
        }
        Ok(())
    }

    /// Queues a step of every stream, kernel by kernel.
    fn step_once(&mut self, is_greedy: bool) -> Result<(), Error> {
        let streams = self.options.streams;
        let batch = self.batch(0..streams, 1);
        self.gpu.run(&self.context(batch, 0), |_, _| Ok(()))?;
        self.last_outputs(&batch)?;
        if is_greedy {
            let log = (self.arena.address(self.places.log), LOG_LEN);
            let outputs = (streams, self.gpu.model().outputs() as u32);
            let route = &self.gpu.kernels.route;
            route.greedy(self.gpu.device(), self.room.output, outputs, self.room.input, log, batch.positions)?;
        }
        self.advance(0..streams, 1)
    }
}
