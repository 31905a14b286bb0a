//! Measures files of one model, however its graph was changed, against the float model of the graph as it is.

use super::calibration::{Calibration, SEGMENT_STEPS};
use super::candidates::{all_at_least, float_format};
use super::meter::Meter;
use super::{MOST_MACS, SEGMENTS, segments};
use crate::destination::unfinished_prefix;
use crate::error::Error;
use crate::graph::Graph;
use crate::lower::{self, Report};
use crate::recipe::Recipe;
use brooklet::Model;
use brooklet::mem::MappedFile;
use std::path::Path;

/// Holds the float model's answers.
pub(crate) struct Trials {
    meter: Meter,
}

impl Trials {
    /// Runs the float model of `graph` on `calibration`, or on reproducible noise, and hands its answers to `body`; files lie beside
    /// `out` meanwhile.
    pub(crate) fn with<T>(
        graph: &Graph<'_>,
        recipe: &Recipe,
        calibration: Option<&Calibration>,
        out: &Path,
        body: impl FnOnce(&Trials) -> Result<T, Error>,
    ) -> Result<T, Error> {
        calibration.map_or(Ok(()), |calibration| calibration.check(graph, out))?;
        let formats = all_at_least(&recipe.formats(graph), float_format(graph));
        let recipe = recipe.in_float();
        let file = beside(out, |path| lower::write_formats(graph, &recipe, &formats, path, &mut |_| {}))?.0;
        let float = Model::from_bytes(file.bytes())?;
        let count = segments(SEGMENTS, WORK * MOST_MACS, &float);
        let calibration = match calibration {
            Some(given) => given.clone(),
            None => Calibration::noise(graph, float.plan().takes_gaps, count * SEGMENT_STEPS),
        };
        let segments = calibration.segments(float.channels().unwrap_or(1), count, recipe.cache.context as usize);
        body(&Trials { meter: Meter::new(calibration, &float, segments, out)? })
    }

    /// Steps that are measured.
    pub(crate) fn steps(&self) -> usize {
        self.meter.steps()
    }

    /// Divergence in nats per step, and bytes, of the file that `write` makes.
    pub(crate) fn measure(&self, out: &Path, write: impl FnOnce(&Path) -> Result<Report, Error>) -> Result<(f64, u64), Error> {
        let (file, report) = beside(out, write)?;
        Ok((self.meter.divergence(&Model::from_bytes(file.bytes())?)?.mean, report.file_bytes))
    }
}

/// Work that one measurement may take, in units of what a fit's may: there are few of them.
const WORK: u64 = 4;

/// A file that is gone once it is closed.
fn beside<T>(out: &Path, write: impl FnOnce(&Path) -> Result<T, Error>) -> Result<(MappedFile, T), Error> {
    let dir = out.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = tempfile::Builder::new().prefix(&unfinished_prefix()).suffix(".tmp").tempdir_in(dir).map_err(|e| Error::io(dir, e))?;
    let path = dir.path().join("trial.brook");
    let written = write(&path)?;
    // The mapping outlives the name.
    Ok((MappedFile::open(&path).map_err(|e| Error::io(&path, e))?, written))
}
