//! What a stream's memory holds: the recipe that loses least among those that fit in RAM.

use super::Request;
use crate::error::Error;
use crate::graph::{Graph, SlotDecl};
use crate::lower::Layout;
use crate::recipe::Recipe;
use brooklet::artifact::SlotKind;
use brooklet::{Model, plan};
use std::path::Path;

/// RAM of one stream that takes one step at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Need {
    pub(super) state_bytes: u64,
    pub(super) scratch_bytes: u64,
}

impl Need {
    pub(super) fn total_bytes(self) -> u64 {
        self.state_bytes + self.scratch_bytes
    }
}

/// RAM that `model` takes.
pub(super) fn need(model: &Model<'_>) -> Need {
    Need { state_bytes: model.state_bytes() as u64, scratch_bytes: model.scratch_bytes(1) as u64 }
}

/// A recipe, what it takes and what it costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) recipe: Recipe,
    /// With every matrix in its coarsest format.
    pub(super) coarse: Need,
    /// With every matrix in float: no mix takes more than one of the two.
    pub(super) float: Need,
    /// What it costs by itself, in nats per step.
    pub(super) loss: f64,
}

/// The recipe of the request that fits and loses least, the first of several; and where matrices in float do not fit beside it, that which loses
/// least of those with room for them. `measure` says what a recipe takes and costs.
pub(super) fn best(
    graph: &Graph<'_>,
    request: &Request<'_>,
    out: &Path,
    mut measure: impl FnMut(Recipe, &Layout<'_>) -> Result<Memory, Error>,
) -> Result<Vec<Memory>, Error> {
    let (mut best, mut best_with_floats): (Option<Memory>, Option<Memory>) = (None, None);
    let mut smallest: Option<Memory> = None;
    for &recipe in request.recipes {
        let memory = measure(recipe, &Layout::new(graph, &recipe, out)?)?;
        if smallest.is_none_or(|other| memory.coarse.total_bytes() < other.coarse.total_bytes()) {
            smallest = Some(memory);
        }
        if fits(request, memory.coarse) && best.is_none_or(|best| memory.loss < best.loss) {
            best = Some(memory);
        }
        if fits(request, memory.float) && best_with_floats.is_none_or(|best| memory.loss < best.loss) {
            best_with_floats = Some(memory);
        }
    }
    let smallest = smallest.ok_or_else(|| Error::invalid(out, "recipes", "are none"))?;
    let best = best.ok_or_else(|| impossible(graph, request, &smallest, out))?;
    Ok(std::iter::once(best).chain(best_with_floats.filter(|_| !fits(request, best.float))).collect())
}

/// Whether there is room for it.
pub(super) fn fits(request: &Request<'_>, need: Need) -> bool {
    request.ram.is_none_or(|ram| need.total_bytes() + ram.firmware_bytes <= ram.bytes)
}

/// The error for RAM that not even the smallest memory fits in.
fn impossible(graph: &Graph<'_>, request: &Request<'_>, memory: &Memory, out: &Path) -> Error {
    let (recipe, need) = (&memory.recipe, memory.coarse);
    let ram = request.ram.unwrap_or(super::Ram { bytes: 0, firmware_bytes: 0 });
    let slots = graph.slots.iter().map(|&slot| recipe.slot(slot));
    let caches_bytes: u64 = slots
        .filter(|slot| matches!(slot.kind, SlotKind::CacheF32 | SlotKind::CacheInt8 | SlotKind::CacheInt4))
        .filter_map(|slot| plan::slot_bytes(&slot))
        .sum();
    let has_open_cache = graph.slots.iter().any(|slot| matches!(slot, SlotDecl::Cache { window: None, .. }));
    let dominates = if caches_bytes > need.state_bytes / 2 {
        let remedy = if has_open_cache { "; a smaller --context shrinks them in proportion" } else { "" };
        format!("{caches_bytes} of the state are attention caches of {} positions{remedy}", recipe.cache.context)
    } else {
        "the recurrences' states dominate it, and only a narrower model has smaller ones".to_owned()
    };
    let problem = format!(
        "{} bytes are too few: the smallest possible figure is {} = {} of state + {} of scratch + {} of the firmware's stack and variables; \
         {dominates}",
        ram.bytes,
        need.total_bytes() + ram.firmware_bytes,
        need.state_bytes,
        need.scratch_bytes,
        ram.firmware_bytes
    );
    Error::invalid(out, "option --ram", problem)
}
