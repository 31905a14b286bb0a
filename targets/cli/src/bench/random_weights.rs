//! Models of random weights in published shapes: speed needs a config, not a download.

use anyhow::Result;
use brooklet_quantize::{Cache, Recipe, shapes};
use indicatif::ProgressBar;
use std::path::Path;

/// Writes the shape `shape` to `path`, with attention caches of `cache_positions` if that is given.
pub(crate) fn draw(shape: &str, choices: Recipe, cache_positions: Option<u64>, path: &Path) -> Result<()> {
    let mut recipe = choices;
    if let Some(positions) = cache_positions {
        recipe.cache = Cache { context: u32::try_from(positions)?, ..recipe.cache };
    }
    let bar = ProgressBar::new(0).with_message("drawing weights");
    shapes::write(shape, &recipe, path, &mut |progress| {
        bar.set_length(progress.total_bytes);
        bar.set_position(progress.done_bytes);
    })?;
    bar.finish_and_clear();
    Ok(())
}
