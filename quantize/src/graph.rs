//! The graph: a model as the runtime's operations, before operands have places and weights have formats.
//!
//! Families build it with the methods below; each method adds one operation and gives back the value it writes.

use crate::error::Error;
use brooklet::artifact::Places;
use brooklet::ops::{
    Activate, Activation, Add, Attention, COUNT_NUMBERS, CappedHead, Conv1d, Copy, Delay, DepthToTime, DiagSsm, Embed, Every, Fill, Frame,
    Gate, GatedDelta, Gru, Head, Linear, Lstm, Missing, Moe, Multiply, Norm, NormKind, Op, Policy, Pool, PoolKind, RgLru, Rotary, Route,
    Router, ScaleBy, Scan, SiluMultiply, SlotId, Ssd, Stepping, TensorId, Window,
};
use std::ops::Range;
use std::rc::Rc;

/// A stretch of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Which value.
    pub value: usize,
    /// First number.
    pub at: u32,
    /// How many.
    pub len: u32,
}

impl Operand {
    /// `len` numbers from number `at` on.
    pub fn part(self, at: usize, len: usize) -> Operand {
        Operand { value: self.value, at: self.at + at as u32, len: len as u32 }
    }

    /// Cuts the operand into consecutive parts of the given lengths.
    pub fn split<const N: usize>(self, lens: [usize; N]) -> [Operand; N] {
        let mut at = self.at;
        lens.map(|len| {
            let part = Operand { value: self.value, at, len: len as u32 };
            at += len as u32;
            part
        })
    }
}

/// What a matrix does, as far as the choice of its format goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Where the model meets the world: token embedding or sensor encoder, and the head.
    Embedding,
    /// The large projections.
    Projection,
    /// Projections to and from the low-rank step size.
    StepSize,
    /// Decides which experts run: stays in float.
    Router,
    /// Where rounding to 8 bits would show in the answer: raw samples in, measured values out, the few numbers between an
    /// encoder and a recurrence. Half floats at least.
    Fine,
}

/// Numbers of a tensor.
pub enum Values<'a> {
    /// Stays `f32`.
    Array(Vec<f32>),
    /// Rotary turns.
    Turns(Vec<u64>),
    /// Where each row of the table behind it lies among its pieces.
    Places(Rc<[u32]>),
    /// Takes a matrix format; read when its turn comes.
    Matrix(Role, Box<dyn Fn() -> Result<Vec<f32>, Error> + 'a>),
}

impl Values<'_> {
    /// The bytes of what is stored as it is; nothing for a matrix, whose bytes its format decides.
    pub(crate) fn stored(&self) -> Option<Vec<u8>> {
        match self {
            Values::Array(data) => Some(data.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Values::Turns(turns) => Some(turns.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Values::Places(places) => {
                let each = Places::bytes_each(places.len());
                Some(places.iter().flat_map(|x| x.to_le_bytes().into_iter().take(each)).collect())
            }
            Values::Matrix(..) => None,
        }
    }
}

/// A tensor of the model.
pub struct TensorDecl<'a> {
    /// Name in the checkpoint.
    pub name: String,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Numbers.
    pub values: Values<'a>,
}

/// A slot of the state.
#[derive(Clone, Copy, Debug)]
pub enum SlotDecl {
    /// Plain numbers.
    Numbers(u32),
    /// Numbers of a recurrent state, which the recipe may keep in half precision.
    State(u32),
    /// An attention cache.
    Cache {
        /// Key-value heads.
        heads: u32,
        /// Width of a head.
        head_dim: u32,
        /// The model's sliding window: the cache holds these latest positions. Without one, the recipe says how many positions
        /// it keeps and how.
        window: Option<u32>,
    },
}

/// What goes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// Token ids.
    Tokens {
        /// Number of ids.
        vocab: u32,
        /// First token of a text.
        bos: Option<u32>,
        /// Last token of a text.
        eos: Option<u32>,
    },
    /// Sensor frames.
    Frames {
        /// Names.
        channels: Vec<String>,
        /// Units.
        units: Vec<String>,
        /// Sampling rate.
        rate_hz: f32,
        /// Mean per channel.
        mean: Vec<f32>,
        /// Standard deviation per channel.
        std: Vec<f32>,
    },
}

/// What comes out.
#[derive(Clone, Debug)]
pub enum Output {
    /// A logit per token.
    Logits(u32),
    /// A logit per class.
    Classes(Vec<String>),
    /// Numbers that mean what they are.
    Values {
        /// Names.
        names: Vec<String>,
        /// Units.
        units: Vec<String>,
    },
}

/// Facts about the model.
#[derive(Clone, Debug, Default)]
pub struct Card {
    /// Name.
    pub name: String,
    /// Family.
    pub family: String,
    /// Where it came from.
    pub source: String,
    /// Licence.
    pub license: String,
}

/// A model as operations.
pub struct Graph<'a> {
    /// Facts.
    pub card: Card,
    /// What goes in.
    pub input: Input,
    /// What comes out.
    pub output: Output,
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// Operations in order.
    pub ops: Vec<Op<Operand>>,
    /// Lengths of the values.
    pub values: Vec<u32>,
    /// Tensors.
    pub tensors: Vec<TensorDecl<'a>>,
    /// State slots, in the order of the operations that own them.
    pub slots: Vec<SlotDecl>,
}

impl<'a> Graph<'a> {
    /// A graph without operations.
    pub fn new(card: Card, input: Input, output: Output) -> Self {
        Graph { card, input, output, tokenizer: None, ops: Vec::new(), values: Vec::new(), tensors: Vec::new(), slots: Vec::new() }
    }

    /// A value of its own, to be written part by part.
    pub fn value(&mut self, len: usize) -> Operand {
        self.values.push(len as u32);
        Operand { value: self.values.len() - 1, at: 0, len: len as u32 }
    }

    fn tensor(&mut self, name: impl Into<String>, rows: usize, cols: usize, values: Values<'a>) -> TensorId {
        self.tensors.push(TensorDecl { name: name.into(), rows, cols, values });
        (self.tensors.len() - 1) as TensorId
    }

    fn slot(&mut self, slot: SlotDecl) -> SlotId {
        self.slots.push(slot);
        (self.slots.len() - 1) as SlotId
    }

    /// A tensor that stays `f32`.
    pub fn array(&mut self, name: impl Into<String>, data: Vec<f32>) -> TensorId {
        self.tensor(name, data.len(), 1, Values::Array(data))
    }

    /// A matrix (rows, cols), read when it is written.
    pub fn matrix(
        &mut self,
        name: impl Into<String>,
        rows: usize,
        cols: usize,
        role: Role,
        load: impl Fn() -> Result<Vec<f32>, Error> + 'a,
    ) -> TensorId {
        self.tensor(name, rows, cols, Values::Matrix(role, Box::new(load)))
    }

    /// Rotary turns: pair `i` of a head's rotated dimensions turns by `radians[i]` per position.
    pub fn turns(&mut self, name: impl Into<String>, radians: &[f64]) -> Rotary {
        let turn = 18_446_744_073_709_551_616.0; // 2^64
        let turns = radians.iter().map(|r| (r / std::f64::consts::TAU * turn) as u64).collect();
        Rotary { turns: self.tensor(name, radians.len(), 1, Values::Turns(turns)) }
    }

    /// A token's embedding, (d_model).
    pub fn embed(&mut self, table: TensorId, d_model: usize, scale: f32) -> Operand {
        let out = self.value(d_model);
        self.ops.push(Op::Embed(Embed { table, scale, out }));
        out
    }

    /// A normalised sensor frame, (channels).
    pub fn frame(&mut self, mean: Vec<f32>, inv_std: Vec<f32>) -> Operand {
        let out = self.value(mean.len());
        let (mean, inv_std) = (self.array("input.mean", mean), self.array("input.inv_std", inv_std));
        self.ops.push(Op::Frame(Frame { mean, inv_std, out }));
        out
    }

    /// Replaces missing numbers of a frame by the channel's last one.
    pub fn hold_missing(&mut self, x: Operand) {
        let last = self.slot(SlotDecl::Numbers(x.len));
        self.ops.push(Op::Missing(Missing { policy: Policy::Hold { last }, x }));
    }

    /// Replaces missing numbers of a frame by the channel's mean.
    pub fn average_missing(&mut self, x: Operand) {
        self.ops.push(Op::Missing(Missing { policy: Policy::Mean, x }));
    }

    /// Replaces missing numbers of a frame by `zeros`, (channels), where zero lies after normalisation.
    pub fn zero_missing(&mut self, x: Operand, zeros: Vec<f32>) {
        let zeros = self.array("input.zero", zeros);
        self.ops.push(Op::Missing(Missing { policy: Policy::Zero { zeros }, x }));
    }

    /// Root-mean-square norm of the whole of `x`.
    pub fn rms_norm(&mut self, x: Operand, weight: TensorId, eps: f32) -> Operand {
        self.norm(NormKind::Rms, x, Some(weight), None, eps)
    }

    /// Norm inside each group, in place, with `silu(z)` before or after.
    pub fn gated_norm(&mut self, x: Operand, gate: Gate<Operand>, weight: TensorId, groups: usize, eps: f32) -> Operand {
        let (weight, gate) = (Some(weight), Some(gate));
        let norm = Norm { kind: NormKind::Rms, x, out: x, weight, bias: None, gate, groups: groups as u32, eps };
        self.ops.push(Op::Norm(norm));
        x
    }

    /// A norm of the whole of `x`.
    pub fn norm(&mut self, kind: NormKind, x: Operand, weight: Option<TensorId>, bias: Option<TensorId>, eps: f32) -> Operand {
        let out = self.value(x.len as usize);
        self.ops.push(Op::Norm(Norm { kind, x, out, weight, bias, gate: None, groups: 1, eps }));
        out
    }

    /// `w * x + bias`, with `rows` outputs.
    pub fn linear(&mut self, w: TensorId, bias: Option<TensorId>, x: Operand) -> Operand {
        let rows = self.tensors[w as usize].rows;
        let out = self.value(rows);
        self.linear_into(w, bias, x, out);
        out
    }

    /// A block-diagonal matrix times vector: equal parts of `x` go through a matrix each, with optional biases.
    pub fn block_linear(&mut self, blocks: &[(TensorId, Option<TensorId>)], x: Operand) -> Operand {
        let rows: usize = blocks.iter().map(|&(w, _)| self.tensors[w as usize].rows).sum();
        let all = self.value(rows);
        let part = |of: Operand, i: usize| {
            let len = of.len / blocks.len() as u32;
            Operand { value: of.value, at: of.at + i as u32 * len, len }
        };
        for (i, &(w, bias)) in blocks.iter().enumerate() {
            self.linear_into(w, bias, part(x, i), part(all, i));
        }
        all
    }

    /// `w * x + bias`, to a part of a value.
    pub fn linear_into(&mut self, w: TensorId, bias: Option<TensorId>, x: Operand, out: Operand) {
        self.ops.push(Op::Linear(Linear { w, bias, x, out }));
    }

    /// Long short-term memory over the input's product, (4, hidden); `w` is (4 * hidden, hidden).
    pub fn lstm(&mut self, input: Operand, w: TensorId) -> Operand {
        let hidden = self.tensors[w as usize].cols;
        let (recurrent, out) = (self.value(4 * hidden), self.value(hidden));
        let state = self.slot(SlotDecl::Numbers(2 * hidden as u32));
        self.ops.push(Op::Lstm(Lstm { input, recurrent, out, w, state }));
        out
    }

    /// Gated recurrent unit over the input's product, (3, hidden); `w` is (3 * hidden, hidden), `bias` that of the recurrent n.
    pub fn gru(&mut self, input: Operand, w: TensorId, bias: Option<TensorId>) -> Operand {
        let hidden = self.tensors[w as usize].cols;
        let (recurrent, out) = (self.value(3 * hidden), self.value(hidden));
        let state = self.slot(SlotDecl::Numbers(hidden as u32));
        self.ops.push(Op::Gru(Gru { input, recurrent, out, w, bias, state }));
        out
    }

    /// The last `kept` numbers of the steps before, then `x`.
    pub fn window(&mut self, x: Operand, kept: usize) -> Operand {
        let out = self.value(kept + x.len as usize);
        let state = self.slot(SlotDecl::Numbers(kept as u32));
        self.ops.push(Op::Window(Window { x, out, state }));
        out
    }

    /// What `x` was `steps` steps ago, of the block that it is in.
    pub fn delay(&mut self, x: Operand, steps: usize) -> Operand {
        let out = self.value(x.len as usize);
        let state = self.slot(SlotDecl::Numbers(steps as u32 * x.len));
        self.ops.push(Op::Delay(Delay { x, out, steps: steps as u32, state }));
        out
    }

    /// The equal parts of `x`, one a step of the block that it is in.
    pub fn depth_to_time(&mut self, x: Operand, parts: usize) -> Operand {
        let out = self.value(x.len as usize / parts);
        let state = self.slot(SlotDecl::Numbers(x.len));
        self.ops.push(Op::DepthToTime(DepthToTime { x, out, state }));
        out
    }

    /// `out <- value`.
    pub fn fill(&mut self, out: Operand, value: f32) {
        self.ops.push(Op::Fill(Fill { value, out }));
    }

    /// `x <- y`.
    pub fn copy(&mut self, x: Operand, y: Operand) {
        self.ops.push(Op::Copy(Copy { x, y }));
    }

    /// Causal convolution, in place.
    pub fn conv1d(&mut self, x: Operand, weight: TensorId, bias: Option<TensorId>, taps: usize, silu: bool) {
        let state = self.slot(SlotDecl::Numbers((taps as u32 - 1) * x.len));
        self.ops.push(Op::Conv1d(Conv1d { weight, bias, taps: taps as u32, silu, x, state }));
    }

    /// Selective scan of the operands in `scan`; `out` and `state` are filled in.
    pub fn scan(&mut self, scan: Scan<Operand>) -> Operand {
        let out = self.value(scan.x.len as usize);
        let state = self.slot(SlotDecl::State(scan.x.len * scan.b.len / scan.heads));
        self.ops.push(Op::Scan(Scan { out, state, ..scan }));
        out
    }

    /// Dual recurrence of the operands in `ssd`; `out` and `state` are filled in.
    pub fn ssd(&mut self, ssd: Ssd<Operand>) -> Operand {
        let out = self.value(ssd.x.len as usize);
        let state = self.slot(SlotDecl::State(ssd.x.len * ssd.b.len / ssd.groups));
        self.ops.push(Op::Ssd(Ssd { out, state, ..ssd }));
        out
    }

    /// Diagonal state-space model over `channels` channels: `a` and `c` are (modes, 2, channels). `x` has one number a channel, or
    /// first the real parts, then the imaginary ones; without `c` the states come out.
    pub fn diag_ssm(
        &mut self,
        x: Operand,
        channels: usize,
        a: TensorId,
        c: Option<TensorId>,
        d: Option<TensorId>,
        stepping: Stepping,
    ) -> Operand {
        let cells = self.tensors[a as usize].rows;
        let out = self.value(if c.is_some() { channels } else { cells });
        let state = self.slot(SlotDecl::Numbers(cells as u32));
        self.ops.push(Op::DiagSsm(DiagSsm { x, out, a, c, d, channels: channels as u32, stepping, state }));
        out
    }

    /// Gated delta rule of the operands in `delta`; `out` and `state` are filled in.
    pub fn gated_delta(&mut self, delta: GatedDelta<Operand>) -> Operand {
        let out = self.value(delta.v.len as usize);
        let state = self.slot(SlotDecl::State(delta.v.len * (delta.k.len / delta.key_heads)));
        self.ops.push(Op::GatedDelta(GatedDelta { out, state, ..delta }));
        out
    }

    /// Real-gated linear recurrence of `x`, in place.
    pub fn rg_lru(&mut self, x: Operand, input_gate: Operand, recurrence_gate: Operand, decay: TensorId) {
        let state = self.slot(SlotDecl::Numbers(x.len));
        self.ops.push(Op::RgLru(RgLru { x, input_gate, recurrence_gate, decay, state }));
    }

    /// Attention over a cache.
    pub fn attention(&mut self, qkv: [Operand; 3], heads: usize, scale: f32, rotary: Option<Rotary>) -> Operand {
        self.window_attention(qkv, heads, scale, rotary, None)
    }

    /// Attention over a cache that holds the model's own sliding window, if it has one.
    pub fn window_attention(
        &mut self,
        [q, k, v]: [Operand; 3],
        heads: usize,
        scale: f32,
        rotary: Option<Rotary>,
        window: Option<usize>,
    ) -> Operand {
        let out = self.value(q.len as usize);
        let head_dim = q.len / heads as u32;
        let cache = self.slot(SlotDecl::Cache { heads: k.len / head_dim, head_dim, window: window.map(|w| w as u32) });
        self.ops.push(Op::Attention(Attention { q, k, v, out, heads: heads as u32, scale, rotary, cache }));
        out
    }

    /// `x <- silu(x) * y`.
    pub fn silu_multiply(&mut self, x: Operand, y: Operand) {
        self.ops.push(Op::SiluMultiply(SiluMultiply { x, y }));
    }

    /// `x <- x * y`.
    pub fn multiply(&mut self, x: Operand, y: Operand) {
        self.ops.push(Op::Multiply(Multiply { x, y }));
    }

    /// `x <- x * y`, each number of `y` for one of the equal stretches of `x`.
    pub fn scale_by(&mut self, x: Operand, y: Operand) {
        self.ops.push(Op::ScaleBy(ScaleBy { x, y }));
    }

    /// `x <- f(x)`.
    pub fn activate(&mut self, f: Activation, x: Operand) {
        self.ops.push(Op::Activate(Activate { f, x }));
    }

    /// The operands one behind the other, in a value of their own.
    pub fn concat<const N: usize>(&mut self, parts: [Operand; N]) -> Operand {
        let out = self.value(parts.iter().map(|p| p.len as usize).sum());
        for (x, y) in out.split(parts.map(|p| p.len as usize)).into_iter().zip(parts) {
            self.ops.push(Op::Copy(Copy { x, y }));
        }
        out
    }

    /// Root-mean-square or layer norm of each of `groups` parts of `x`, in place; without a weight, only divides.
    pub fn norm_in_place(&mut self, kind: NormKind, x: Operand, weight: Option<TensorId>, bias: Option<TensorId>, groups: usize, eps: f32) {
        self.ops.push(Op::Norm(Norm { kind, x, out: x, weight, bias, gate: None, groups: groups as u32, eps }));
    }

    /// A mixture of experts over `x`, (d_model) to (d_model). `scores` are the router's, (experts); expert `e` has its first
    /// matrix, (hidden, d_model) or (2 * hidden, d_model) with the gate's rows first, in tensor `experts_at + 2 * e` and its
    /// second, (d_model, hidden), behind it.
    #[allow(clippy::too_many_arguments)]
    pub fn moe(
        &mut self,
        x: Operand,
        scores: Operand,
        experts_at: TensorId,
        router: Router,
        top_k: usize,
        scale: f32,
        gated: bool,
        f: Activation,
    ) -> Operand {
        let wide = self.value(self.tensors[experts_at as usize].rows);
        let narrow = self.value(self.tensors[experts_at as usize + 1].rows);
        let out = self.value(narrow.len as usize);
        self.ops.push(Op::Moe(Moe {
            x,
            scores,
            hidden: wide,
            expert_out: narrow,
            out,
            experts_at,
            router,
            top_k: top_k as u32,
            scale,
            gated,
            f,
        }));
        out
    }

    /// The operations that `block` adds run for the tokens whose score, (1), is above the threshold; `otherwise` turns that
    /// round. What they change must outlive the block only through [`Graph::add`].
    pub fn routed(
        &mut self,
        score: Operand,
        threshold: f32,
        otherwise: bool,
        block: impl FnOnce(&mut Self) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let count = self.slot(SlotDecl::Numbers(COUNT_NUMBERS));
        let at = self.ops.len();
        self.ops.push(Op::Route(Route { score, threshold, otherwise, ops: 0, count }));
        block(self)?;
        let ops = (self.ops.len() - at - 1) as u32;
        self.ops[at] = Op::Route(Route { score, threshold, otherwise, ops, count });
        Ok(())
    }

    /// The operations that `block` adds run at the steps `start`, `start + period`, .. of the stream, in one block with those
    /// before them if these run at the same steps. Between steps, what they write is lost: only states stay.
    pub fn every<T>(&mut self, period: u32, start: u32, block: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let at = self.ops.len();
        let written = block(self)?;
        let added = (self.ops.len() - at) as u32;
        if (period, start) == (1, 0) || added == 0 {
            return Ok(written);
        }
        let last = self.ops[..at].iter().rposition(|op| matches!(op, Op::Every(_)));
        match last.map(|last| (last, self.ops[last])) {
            Some((last, Op::Every(e))) if last + 1 + e.ops as usize == at && (e.period, e.start) == (period, start) => {
                self.ops[last] = Op::Every(Every::new(period, start, e.ops + added));
            }
            _ => self.ops.insert(at, Op::Every(Every::new(period, start, added))),
        }
        Ok(written)
    }

    /// `x <- x + scale * y`.
    pub fn add(&mut self, x: Operand, y: Operand, scale: f32) {
        self.ops.push(Op::Add(Add { x, y, scale }));
    }

    /// Replaces `x` by its summary over the stream.
    pub fn pool(&mut self, kind: PoolKind, x: Operand) {
        let state = self.slot(SlotDecl::Numbers(x.len));
        self.ops.push(Op::Pool(Pool { kind, x, state }));
    }

    /// The outputs: the last operation.
    pub fn head(&mut self, w: TensorId, bias: Option<TensorId>, x: Operand, scale: f32) {
        self.ops.push(Op::Head(Head { w, bias, x, scale }));
    }

    /// The outputs as `cap * tanh(outputs / cap)`: the last operation.
    pub fn capped_head(&mut self, w: TensorId, bias: Option<TensorId>, x: Operand, scale: f32, cap: f32) {
        self.ops.push(Op::CappedHead(CappedHead { head: Head { w, bias, x, scale }, cap }));
    }

    /// The tensors that hold the rows of the embedding, if tokens go in.
    pub fn embedding(&self) -> Range<usize> {
        match (self.ops.first(), &self.input) {
            (Some(Op::Embed(embed)), Input::Tokens { vocab, .. }) => self.pieces(embed.table, *vocab as usize),
            _ => 0..0,
        }
    }

    /// Where the rows lie of the table that begins with tensor `first`, if not in their order.
    pub fn places_of(&self, first: usize) -> Option<&Rc<[u32]>> {
        match &self.tensors.get(first.checked_sub(1)?)?.values {
            Values::Places(places) => Some(places),
            _ => None,
        }
    }

    /// The tensors that hold the rows of the head's matrix.
    pub fn head_matrix(&self) -> Range<usize> {
        let outputs = match &self.output {
            Output::Logits(count) => *count as usize,
            Output::Classes(names) | Output::Values { names, .. } => names.len(),
        };
        self.ops.last().and_then(Op::head).map_or(0..0, |head| self.pieces(head.w, outputs))
    }

    /// The tensors that hold the first `rows` rows of the matrix that begins at `first`, which are several if it was cut.
    fn pieces(&self, first: TensorId, rows: usize) -> Range<usize> {
        let (first, mut held) = (first as usize, 0);
        let is_short = |tensor: &&TensorDecl<'_>| {
            let short = held < rows;
            held += tensor.rows;
            short
        };
        first..first + self.tensors[first..].iter().take_while(is_short).count()
    }

    /// Steps before every part of the program has run.
    pub fn delay_steps(&self) -> u32 {
        self.ops.iter().map(|op| if let Op::Every(every) = op { every.start } else { 0 }).max().unwrap_or(0)
    }

    /// A placeholder for the operand or slot that a method fills in.
    pub fn later() -> (Operand, SlotId) {
        (Operand { value: usize::MAX, at: 0, len: 0 }, SlotId::MAX)
    }
}
