//! What an allocation chose and what that costs, for people and for programs.

mod html;
mod plot;

pub use html::html;

use crate::allocate::{Allocation, Goal, Part};
use crate::graph::Card;
use serde_json::{Value, json};

/// The whole allocation as JSON.
pub fn to_json(card: &Card, a: &Allocation) -> Value {
    let part = |part: &Part| {
        let choice = part.choice();
        let choices = part.choices.iter().map(|c| json!({ "format": c.format.name(), "bytes": c.bytes, "loss": c.loss }));
        json!({
            "name": part.name, "matrices": part.tensors.len(), "rows": part.shape.0, "cols": part.shape.1, "format": choice.format.name(),
            "bytes": choice.bytes, "loss": part.loss, "choices": choices.collect::<Vec<_>>(),
        })
    };
    let goal = match a.goal {
        Goal::Bytes(bytes) => json!({ "fit_bytes": bytes }),
        Goal::Flash { bytes, code_bytes } => json!({ "flash_bytes": bytes, "code_bytes": code_bytes }),
        Goal::BitsPerWeight(bits) => json!({ "bits_per_weight": bits }),
        Goal::PerplexityRatio(ratio) => json!({ "max_perplexity_ratio": ratio }),
    };
    json!({
        "model": card.name,
        "family": card.family,
        "goal": goal,
        "limit_bytes": a.limit_bytes,
        "file_bytes": a.file_bytes,
        "parameters": a.parameters,
        "bits_per_weight": bits_per_weight(a),
        "ram_bytes": a.ram_bytes,
        "loss_is": if a.is_relative_error { "squared error over variance" } else { "KL(float || file), nats per step" },
        "predicted_loss": a.predicted,
        "predicted_within": a.predicted_within,
        "measured_loss": a.measured.mean,
        "measured_loss_relative_error": a.measured.relative_error,
        "memory_loss": a.memory_loss,
        "activations_loss": a.activations_loss,
        "scale_of_parts": a.scale,
        "method_share": a.method_share,
        "perplexity": a.measured.perplexity.map(|(perplexity, _)| perplexity),
        "perplexity_ratio": a.measured.perplexity.map(|(_, ratio)| ratio),
        "is_finest": a.is_finest,
        "steps_of_parts": a.part_steps,
        "steps_of_whole": a.whole_steps,
        "loss_by_position": a.measured.by_position,
        "uniform": a.uniform.iter().map(|u| json!({ "format": u.format.name(), "bytes": u.bytes, "loss": u.loss })).collect::<Vec<_>>(),
        "curve": a.curve.iter().map(|p| json!({ "bytes": p.bytes, "loss": p.loss })).collect::<Vec<_>>(),
        "parts": a.parts.iter().map(part).collect::<Vec<_>>(),
    })
}

/// Bits in the file for each number of the checkpoint.
pub fn bits_per_weight(a: &Allocation) -> f64 {
    8.0 * a.file_bytes as f64 / a.parameters.max(1) as f64
}

/// The loss of the best file in one format, at the bytes of the chosen one, by the same method: a power law between the two nearest. `None`
/// outside of them.
pub fn uniform_loss_at(a: &Allocation, bytes: u64) -> Option<f64> {
    let mut uniform = a.uniform.clone();
    uniform.sort_by_key(|u| u.bytes);
    let pair = uniform.windows(2).find(|pair| pair[0].bytes <= bytes && bytes <= pair[1].bytes && pair[0].bytes < pair[1].bytes)?;
    let share = (bytes - pair[0].bytes) as f64 / (pair[1].bytes - pair[0].bytes) as f64;
    let loss = pair[0].loss.ln() + share * (pair[1].loss / pair[0].loss).ln();
    loss.is_finite().then(|| a.method_share * loss.exp())
}
