//! Measures files of any mix of formats: makes the whole files that mixes come from when they are needed, and keeps what was measured.

use super::effort::stream_for_whole;
use super::ledger::Ledger;
use super::memory::{Need, need};
use super::{Request, Write};
use crate::error::Error;
use crate::fit::activations::rounding;
use crate::fit::candidates::{Unit, all_at_least};
use crate::fit::meter::{Meter, Profile};
use crate::fit::shelf::Shelf;
use crate::fit::{Calibration, FitProgress, MOST_HELD_NUMBERS};
use crate::graph::Graph;
use crate::lower::{Layout, Report};
use crate::recipe::Recipe;
use brooklet::Model;
use brooklet::kernels::quant::Format;
use brooklet::mem::MappedFile;
use std::path::{Path, PathBuf};

/// A number of segments and the steps of each.
pub(super) type Stream = (usize, usize);

/// What matrices of a file cost in the codes that they have there, in nats per step.
pub(super) struct Own {
    /// By unit.
    pub(super) losses: Vec<f64>,
    /// Of all.
    pub(super) together: f64,
}

/// Measures files.
pub(super) struct Gauge<'g, 'w> {
    recipe: Recipe,
    out: PathBuf,
    /// Every tensor in float.
    pub(super) float: Vec<Option<Format>>,
    pub(super) float_layout: Layout<'g>,
    shelf: Shelf,
    write: &'w mut Write<'w>,
    progress: &'w mut dyn FnMut(FitProgress<'_>),
    calibration: Calibration,
    meters: Vec<(Stream, Meter)>,
    ledger: Ledger,
    done: usize,
    /// Multiplications of a step.
    pub(super) macs_per_step: u64,
    /// What whole files are measured on.
    pub(super) whole: Stream,
    channels: usize,
    outputs: usize,
}

impl<'g, 'w> Gauge<'g, 'w> {
    /// Makes the float file, which the others are measured against.
    pub(super) fn new(
        graph: &'g Graph<'_>,
        request: &Request<'_>,
        recipe: Recipe,
        float: Vec<Option<Format>>,
        out: &Path,
        write: &'w mut Write<'w>,
        progress: &'w mut dyn FnMut(FitProgress<'_>),
    ) -> Result<Self, Error> {
        let mut shelf = Shelf::new(out)?;
        shelf.add(&float, &mut |path| write(&recipe, &float, path, progress))?;
        let float_layout = Layout::new(graph, &recipe.in_float(), out)?;
        let image = shelf.mix(&float_layout, &float)?;
        let model = image.model()?;
        let macs_per_step = model.plan().macs_per_step;
        let whole = stream_for_whole(macs_per_step, model.outputs(), MOST_HELD_NUMBERS);
        let calibration = match request.calibration {
            Some(given) => given.clone(),
            None => Calibration::noise(graph, model.plan().takes_gaps, whole.0 * whole.1),
        };
        let weights = shelf.checksum(float.len());
        let of = format!("weights {weights:08x}, stream {:08x}, context {}", calibration.checksum(), recipe.cache.context);
        let ledger = Ledger::open(request.ledger, of)?;
        let (channels, outputs) = (model.channels().unwrap_or(1), model.outputs());
        let (out, meters) = (out.to_owned(), Vec::new());
        Ok(Gauge {
            recipe,
            out,
            float,
            float_layout,
            shelf,
            write,
            progress,
            calibration,
            meters,
            ledger,
            done: 0,
            macs_per_step,
            whole,
            channels,
            outputs,
        })
    }

    /// Steps that `stream` has of the calibration stream.
    pub(super) fn steps_of(&self, stream: Stream) -> usize {
        self.segments(stream).iter().map(ExactSizeIterator::len).sum()
    }

    /// Steps of the whole calibration stream.
    pub(super) fn all_steps(&self) -> usize {
        self.calibration.steps(self.channels)
    }

    fn segments(&self, (count, steps): Stream) -> Vec<std::ops::Range<usize>> {
        self.calibration.spread(self.channels, count, steps.min(self.recipe.cache.context as usize))
    }

    /// Mean divergence of a file of these formats, `what` by name, over a stream. Its matrices come from the float file and from one with every matrix
    /// of `plain` in at least `of`.
    pub(super) fn divergence(
        &mut self,
        what: &str,
        stream: Stream,
        layout: &Layout<'_>,
        formats: &[Option<Format>],
        (plain, of): (&[Option<Format>], Format),
        to_come: usize,
    ) -> Result<f64, Error> {
        let name = format!("{what}, {} x {}", stream.0, stream.1);
        if let Some(known) = self.ledger.get(&name) {
            return Ok(known);
        }
        if !self.shelf.holds(formats) {
            self.make(&all_at_least(plain, of))?;
        }
        let meter = self.meter(stream)?;
        (self.progress)(FitProgress::Measuring { what, done: self.done, total: self.done + to_come.max(1) });
        self.done += 1;
        let loss = self.meters[meter].1.divergence(&self.shelf.mix(layout, formats)?.model()?)?.mean;
        self.ledger.put(name, loss)?;
        Ok(loss)
    }

    /// Mean divergence when nothing but the activations of matrices that may be quantized is rounded; `plain` are the coarsest formats.
    pub(super) fn activations(&mut self, plain: &[Option<Format>]) -> Result<f64, Error> {
        let what = "activations alone";
        let name = format!("{what}, {} x {}", self.whole.0, self.whole.1);
        if let Some(known) = self.ledger.get(&name) {
            return Ok(known);
        }
        let formats = all_at_least(plain, Format::F16);
        if !self.shelf.holds(&formats) {
            self.make(&formats)?;
        }
        let meter = self.meter(self.whole)?;
        self.say(what);
        let loss = self.meters[meter].1.divergence_by(rounding(), &self.shelf.mix(&self.float_layout, &formats)?.model()?)?;
        self.ledger.put(name, loss)?;
        Ok(loss)
    }

    /// RAM that a file of these formats takes.
    pub(super) fn need(&mut self, layout: &Layout<'_>, formats: &[Option<Format>]) -> Result<Need, Error> {
        if !self.shelf.holds(formats) {
            self.make(formats)?;
        }
        Ok(need(&self.shelf.mix(layout, formats)?.model()?))
    }

    /// All that a whole measurement says of a file of these formats, and its RAM.
    pub(super) fn profile(&mut self, recipe: &Recipe, layout: &Layout<'_>, formats: &[Option<Format>]) -> Result<(Profile, Need), Error> {
        if !self.shelf.holds(formats) {
            self.make_by(recipe, formats)?;
        }
        let meter = self.meter(self.whole)?;
        self.say("the whole file");
        let image = self.shelf.mix(layout, formats)?;
        let model = image.model()?;
        Ok((self.meters[meter].1.profile(&model)?, need(&model)))
    }

    /// Makes the file that was asked for, and measures it.
    pub(super) fn finish(&mut self, recipe: &Recipe, formats: &[Option<Format>]) -> Result<(Report, Profile, Need), Error> {
        let report = (self.write)(recipe, formats, &self.out, self.progress)?;
        let file = MappedFile::open(&self.out).map_err(|e| Error::io(&self.out, e))?;
        let model = Model::from_bytes(file.bytes())?;
        let meter = self.meter(self.whole)?;
        self.say("the whole file");
        Ok((report, self.meters[meter].1.profile(&model)?, need(&model)))
    }

    /// What each unit of the file of these formats costs by itself in the codes that it has there, and all of them together, with what `layout` costs: as
    /// the sum of the changes that each makes in the answers. The codes are those of `out`, or the nearest.
    pub(super) fn own(
        &mut self,
        out: Option<&Path>,
        layout: &Layout<'_>,
        formats: &[Option<Format>],
        units: &[Unit],
        stream: Stream,
    ) -> Result<Own, Error> {
        let made = out.map(|out| self.shelf.first_and(out, formats)).transpose()?;
        let meter = self.meter(stream)?;
        let (meter, shelf) = (&self.meters[meter].1, made.as_ref().unwrap_or(&self.shelf));
        let mut sum = meter.superposition();
        let mut of = |layout: &Layout<'_>, formats: &[Option<Format>]| meter.superpose(&mut sum, &shelf.mix(layout, formats)?.model()?);
        if layout.slots() != self.float_layout.slots() {
            of(layout, &self.float)?;
        }
        let mut losses = Vec::with_capacity(units.len());
        for unit in units {
            let what = "each matrix of the file alone";
            (self.progress)(FitProgress::Measuring { what, done: losses.len(), total: units.len() });
            let mut alone = self.float.clone();
            unit.tensors.iter().for_each(|&tensor| alone[tensor] = formats[tensor]);
            losses.push(of(&self.float_layout, &alone)?);
        }
        Ok(Own { losses, together: meter.together(&sum, self.outputs) })
    }

    fn say(&mut self, what: &str) {
        (self.progress)(FitProgress::Measuring { what, done: self.done, total: self.done + 1 });
        self.done += 1;
    }

    fn make(&mut self, formats: &[Option<Format>]) -> Result<(), Error> {
        self.make_by(&self.recipe.clone(), formats)
    }

    fn make_by(&mut self, recipe: &Recipe, formats: &[Option<Format>]) -> Result<(), Error> {
        let (write, progress) = (&mut self.write, &mut self.progress);
        self.shelf.add(formats, &mut |path| write(recipe, formats, path, progress))
    }

    /// The number of the meter of a stream: the float model is run over it once.
    fn meter(&mut self, stream: Stream) -> Result<usize, Error> {
        if let Some(at) = self.meters.iter().position(|(of, _)| *of == stream) {
            return Ok(at);
        }
        self.say("the float model");
        let image = self.shelf.mix(&self.float_layout, &self.float)?;
        let meter = Meter::new(self.calibration.clone(), &image.model()?, self.segments(stream), &self.out)?;
        self.meters.push((stream, meter));
        Ok(self.meters.len() - 1)
    }
}
