//! A stretch of a program as a model of its own: the values that live before it go in, those that live behind it come out.
//!
//! What comes out is the input of the head, whose only row is never of interest: the recorder takes it from there, bit by bit.

use super::stretch::Stretch;
use crate::error::Error;
use crate::fit::Image;
use crate::graph::{Card, Graph, Input, Operand, Output, Role, TensorDecl, Values};
use crate::lower::Layout;
use crate::methods;
use crate::recipe::{Cache, Recipe, StateFormat};
use brooklet::kernels::quant::Format;
use brooklet::ops::{Copy, Frame, Head, Op, Policy, SlotId};
use std::path::Path;

/// A stretch, ready to be filled with matrices.
pub(super) struct SmallModel<'g> {
    graph: Graph<'g>,
    recipe: Recipe,
    /// Number of the tensor whose input is what leaves.
    pub(super) sink: usize,
    /// Numbers that go in per step.
    pub(super) entering: usize,
}

/// Where a matrix of a small model comes from.
pub(super) enum Filling<'p> {
    /// The checkpoint's numbers, in this format.
    Plain(Format),
    /// Packed before.
    Packed(Format, &'p [u8]),
}

impl<'g> SmallModel<'g> {
    /// The model of `stretch`; frames come at `rate_hz`. Caches hold `steps` positions at most.
    pub(super) fn new(graph: &'g Graph<'_>, stretch: &Stretch, used: &[usize], cache: Cache, steps: usize) -> Self {
        let whole = |value: usize| Operand { value, at: 0, len: graph.values[value] };
        let len = |values: &[usize]| values.iter().map(|&v| graph.values[v] as usize).sum::<usize>();
        let mut small = Graph::new(Card::default(), graph.input.clone(), value_output());
        small.values = graph.values.clone();
        small.tensors = graph.tensors.iter().enumerate().map(|(i, tensor)| decl(tensor, used.contains(&i))).collect();
        let entering = if stretch.ops.start == 0 {
            if let Input::Frames { channels, .. } = &graph.input { channels.len() } else { 0 }
        } else {
            let width = len(&stretch.entering);
            small.input = frames(width, &graph.input);
            enter(&mut small, &stretch.entering.iter().map(|&v| whole(v)).collect::<Vec<_>>());
            width
        };
        let mut end_x = None;
        for op in &graph.ops[stretch.ops.clone()] {
            match *op {
                Op::Head(head) => end_x = Some(head.x),
                Op::CappedHead(capped) => end_x = Some(capped.head.x),
                mut op => {
                    if let Some(slot) = slot_of(&mut op) {
                        small.slots.push(graph.slots[*slot as usize]);
                        *slot = (small.slots.len() - 1) as SlotId;
                    }
                    small.ops.push(op);
                }
            }
        }
        let x = end_x.unwrap_or_else(|| leave(&mut small, &stretch.leaving.iter().map(|&v| whole(v)).collect::<Vec<_>>()));
        let leaving = x.len as usize;
        let sink = small.matrix("calibration.sink", 1, leaving, Role::Projection, move || Ok(vec![0.0; leaving]));
        small.ops.push(Op::Head(Head { w: sink, bias: None, x, scale: 1.0 }));
        let context = cache.context.min(steps as u32).max(1);
        let cache = Cache { context, sink: cache.sink.map(|sink| sink.min(context - 1)), ..cache };
        let recipe = Recipe { format: Format::F32, embedding: None, state: StateFormat::F32, cache };
        SmallModel { graph: small, recipe, sink: sink as usize, entering }
    }

    /// The file of this model, its matrices as `fill` says; those that it does not know stay as the recipe has them.
    pub(super) fn image<'p>(&self, fill: impl Fn(usize) -> Filling<'p>) -> Result<Image, Error> {
        let name = Path::new("calibration");
        let layout = Layout::new(&self.graph, &self.recipe, name)?;
        let mut formats = vec![None; self.graph.tensors.len()];
        let mut bytes: Vec<std::borrow::Cow<'p, [u8]>> = Vec::with_capacity(formats.len());
        for (number, tensor) in self.graph.tensors.iter().enumerate() {
            bytes.push(match &tensor.values {
                Values::Matrix(_, load) => {
                    let filling = if number == self.sink { Filling::Plain(Format::F32) } else { fill(number) };
                    let (format, bytes) = match filling {
                        Filling::Plain(format) => (format, methods::pack(format, tensor.rows, tensor.cols, &load()?).bytes.into()),
                        Filling::Packed(format, bytes) => (format, bytes.into()),
                    };
                    formats[number] = Some(format);
                    bytes
                }
                as_it_is => as_it_is.stored().unwrap_or_default().into(),
            });
        }
        let mut sections = layout.sections(&formats);
        sections.iter_mut().zip(&bytes).for_each(|(section, bytes)| section.crc32 = crc32fast::hash(bytes));
        let header = layout.header(&sections, 0).map_err(|e| Error::invalid(name, "header", e))?;
        Ok(Image::new(&header, &bytes.iter().map(|b| &**b).collect::<Vec<_>>()))
    }
}

fn value_output() -> Output {
    Output::Values { names: vec!["values".to_owned()], units: vec![String::new()] }
}

/// Frames of `width` numbers that are taken as they are, as often as the model's own input comes.
fn frames(width: usize, input: &Input) -> Input {
    let rate_hz = if let Input::Frames { rate_hz, .. } = input { *rate_hz } else { 1.0 };
    Input::Frames {
        channels: (0..width).map(|i| i.to_string()).collect(),
        units: vec![String::new(); width],
        rate_hz,
        mean: vec![0.0; width],
        std: vec![1.0; width],
    }
}

/// A tensor of the whole model; a matrix that is not used leaves a number in its place, as does a table's order.
fn decl<'g>(tensor: &'g TensorDecl<'_>, is_used: bool) -> TensorDecl<'g> {
    let (rows, cols, values) = match &tensor.values {
        Values::Array(data) => (tensor.rows, tensor.cols, Values::Array(data.clone())),
        Values::Turns(turns) => (tensor.rows, tensor.cols, Values::Turns(turns.clone())),
        Values::Matrix(role, load) if is_used => (tensor.rows, tensor.cols, Values::Matrix(*role, Box::new(load))),
        Values::Matrix(..) | Values::Places(_) => (1, 1, Values::Array(vec![0.0])),
    };
    TensorDecl { name: tensor.name.clone(), rows, cols, values }
}

/// The operations that spread a frame over the values that live.
fn enter(graph: &mut Graph<'_>, values: &[Operand]) {
    let width = values.iter().map(|v| v.len as usize).sum::<usize>();
    let port = if let [only] = values { *only } else { graph.value(width) };
    let (mean, inv_std) = (graph.array("calibration.mean", vec![0.0; width]), graph.array("calibration.inv_std", vec![1.0; width]));
    graph.ops.push(Op::Frame(Frame { mean, inv_std, out: port }));
    if values.len() > 1 {
        for (value, part) in values.iter().zip(parts(port, values)) {
            graph.ops.push(Op::Copy(Copy { x: *value, y: part }));
        }
    }
}

/// The values that live, one behind the other.
fn leave(graph: &mut Graph<'_>, values: &[Operand]) -> Operand {
    if let [only] = values {
        return *only;
    }
    let port = graph.value(values.iter().map(|v| v.len as usize).sum());
    for (value, part) in values.iter().zip(parts(port, values)) {
        graph.ops.push(Op::Copy(Copy { x: part, y: *value }));
    }
    port
}

fn parts(port: Operand, values: &[Operand]) -> Vec<Operand> {
    let mut at = 0;
    let mut next = |len: u32| {
        at += len as usize;
        port.part(at - len as usize, len as usize)
    };
    values.iter().map(|value| next(value.len)).collect()
}

/// The slot that an operation owns.
fn slot_of<V>(op: &mut Op<V>) -> Option<&mut SlotId> {
    match op {
        Op::Conv1d(op) => Some(&mut op.state),
        Op::Scan(op) => Some(&mut op.state),
        Op::Ssd(op) => Some(&mut op.state),
        Op::Attention(op) => Some(&mut op.cache),
        Op::Pool(op) => Some(&mut op.state),
        Op::GatedDelta(op) => Some(&mut op.state),
        Op::Route(op) => Some(&mut op.count),
        Op::RgLru(op) => Some(&mut op.state),
        Op::Lstm(op) => Some(&mut op.state),
        Op::Gru(op) => Some(&mut op.state),
        Op::Window(op) => Some(&mut op.state),
        Op::DiagSsm(op) => Some(&mut op.state),
        Op::Delay(op) => Some(&mut op.state),
        Op::DepthToTime(op) => Some(&mut op.state),
        Op::Missing(op) => match &mut op.policy {
            Policy::Hold { last } => Some(last),
            Policy::Mean | Policy::Zero { .. } => None,
        },
        Op::Embed(_)
        | Op::Frame(_)
        | Op::Norm(_)
        | Op::Linear(_)
        | Op::SiluMultiply(_)
        | Op::Add(_)
        | Op::Head(_)
        | Op::Multiply(_)
        | Op::Copy(_)
        | Op::Activate(_)
        | Op::Moe(_)
        | Op::ScaleBy(_)
        | Op::CappedHead(_)
        | Op::Fill(_)
        | Op::Hadamard(_)
        | Op::Every(_) => None,
    }
}
