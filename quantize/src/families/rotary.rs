//! Rotary angles as configs describe them: how far every pair of dimensions turns from one position to the next, and what was done to
//! reach longer contexts.

use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::Graph;
use brooklet::ops::Rotary;
use std::f64::consts::TAU;

/// How many dimensions of a head are rotated: `partial_rotary_factor` of them, or `default`.
pub(super) fn rotary_dims(config: &Config, head_dim: usize, default: f64) -> Result<usize, Error> {
    let default = config.number_or("partial_rotary_factor", default)?;
    nested_rotary_dims(config, head_dim, default)
}

/// The same where a factor counts only among what else describes the angles.
pub(super) fn nested_rotary_dims(config: &Config, head_dim: usize, default: f64) -> Result<usize, Error> {
    let nested = [config.maybe_object("rope_scaling")?, config.maybe_object("rope_parameters")?];
    let nested = nested.into_iter().flatten().find(|rope| rope.value("partial_rotary_factor").is_some());
    let factor = nested.map_or(Ok(default), |rope| rope.number_or("partial_rotary_factor", default))?;
    let dims = (head_dim as f64 * factor) as usize;
    if !(factor > 0.0 && factor <= 1.0 && dims >= 2 && dims.is_multiple_of(2)) {
        let problem = format!("is {factor}, which rotates {dims} of a head's {head_dim} dimensions; expected an even number of them");
        return Err(config.error("partial_rotary_factor", problem));
    }
    Ok(dims)
}

/// The rotary angles that the config describes, for `dims` rotated dimensions: nested in newer configs, at the top in older ones. And the
/// factor of the scores of what is rotated.
pub(super) fn rotary(g: &mut Graph<'_>, config: &Config, dims: usize, default_theta: f64) -> Result<(Rotary, f32), Error> {
    let nested = config.maybe_object("rope_parameters")?;
    let scaling = config.maybe_object("rope_scaling")?;
    let rope = [&scaling, &nested].into_iter().flatten().find(|rope| rope.value("rope_theta").is_some()).unwrap_or(config);
    let theta = rope.number_or("rope_theta", default_theta)?;
    if theta < 1.0 {
        return Err(rope.error("rope_theta", format!("is {theta}, expected at least 1")));
    }
    let mut turns: Vec<f64> = (0..dims / 2).map(|i| theta.powf(-2.0 * i as f64 / dims as f64)).collect();
    let mut factor = 1.0;
    if let Some(rope) = scaling.or(nested) {
        // `type` is the older spelling of `rope_type`.
        let key = if rope.value("rope_type").is_some() { "rope_type" } else { "type" };
        match rope.maybe_text(key)? {
            None | Some("default") => {}
            Some("linear") => {
                let factor = above_zero(&rope, "factor")?;
                turns.iter_mut().for_each(|turn| *turn /= factor);
            }
            Some("llama3") => llama3(&mut turns, config, &rope)?,
            Some("yarn") => factor = yarn(&mut turns, config, &rope, theta)?,
            Some("divided") => divide(&mut turns, &rope)?,
            Some(other) => return Err(rope.error(key, format!("is \"{other}\"; supported are default, linear, llama3 and yarn"))),
        }
    }
    Ok((g.turns("rotary.turns", &turns), factor as f32))
}

fn above_zero(rope: &Config, key: &str) -> Result<f64, Error> {
    match rope.number_or(key, 0.0)? {
        x if x > 0.0 => Ok(x),
        _ => Err(rope.error(key, "is missing or not above 0")),
    }
}

/// Positions of the training: beside the other keys, else one level up, else what the model is for now.
fn trained_positions(config: &Config, rope: &Config) -> Result<f64, Error> {
    let key = "original_max_position_embeddings";
    match (config.value(key), rope.value(key), config.value("max_position_embeddings")) {
        (Some(_), ..) => above_zero(config, key),
        (None, None, Some(_)) => above_zero(config, "max_position_embeddings"),
        _ => above_zero(rope, key),
    }
}

/// GGUF's way to say the same and more: a divisor for every turn, or one for all.
fn divide(turns: &mut [f64], rope: &Config) -> Result<(), Error> {
    let divisors = rope.numbers("divisors")?;
    if divisors.len() != 1 && divisors.len() != turns.len() || divisors.iter().any(|d| *d <= 0.0) {
        let problem = format!("are {} numbers, expected 1 or {} above 0", divisors.len(), turns.len());
        return Err(rope.error("divisors", problem));
    }
    for (turn, divisor) in turns.iter_mut().zip(divisors.iter().cycle()) {
        *turn /= f64::from(*divisor);
    }
    Ok(())
}

/// Llama 3's longer context: slow turns are divided by `factor`, fast ones stay, those between are blended.
fn llama3(turns: &mut [f64], config: &Config, rope: &Config) -> Result<(), Error> {
    let [factor, low, high] = [above_zero(rope, "factor")?, above_zero(rope, "low_freq_factor")?, above_zero(rope, "high_freq_factor")?];
    let trained = trained_positions(config, rope)?;
    if high <= low {
        return Err(rope.error("high_freq_factor", format!("is {high}, not above low_freq_factor {low}")));
    }
    for turn in turns {
        // Full turns over the context of the training.
        let turned = trained * *turn / TAU;
        let smooth = ((turned - low) / (high - low)).clamp(0.0, 1.0);
        *turn *= smooth + (1.0 - smooth) / factor;
    }
    Ok(())
}

/// YaRN: as Llama 3's, blended evenly over the pairs between those that turn `beta_fast` and `beta_slow` times over the context of the
/// training. Scores grow with the logarithm of `factor`, which is returned.
fn yarn(turns: &mut [f64], config: &Config, rope: &Config, theta: f64) -> Result<f64, Error> {
    let trained = trained_positions(config, rope)?;
    let factor = match rope.value("factor") {
        Some(_) => above_zero(rope, "factor")?,
        None => above_zero(config, "max_position_embeddings")? / trained,
    };
    if theta == 1.0 {
        return Err(rope.error("rope_theta", "is 1, which YaRN cannot scale"));
    }
    let beta = |key, default| match rope.number_or(key, default)? {
        0.0 => Ok(default),
        beta if beta > 0.0 => Ok(beta),
        beta => Err(rope.error(key, format!("is {beta}, expected more than 0"))),
    };
    // The pair that turns so often, of `dims` numbers that are rotated.
    let dims = 2.0 * turns.len() as f64;
    let pair = |times: f64| dims * (trained / (times * TAU)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (pair(beta("beta_fast", 32.0)?), pair(beta("beta_slow", 1.0)?));
    if rope.flag_or("truncate", true)? {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dims - 1.0));
    if low == high {
        high += 0.001;
    }
    for (i, turn) in turns.iter_mut().enumerate() {
        let stretched = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        *turn *= 1.0 - stretched + stretched / factor;
    }
    // Of a query as well as of a key.
    let grown = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
    let both = [rope.number_or("mscale", 0.0)?, rope.number_or("mscale_all_dim", 0.0)?];
    let each = match (rope.value("attention_factor"), both) {
        (Some(_), _) => above_zero(rope, "attention_factor")?,
        (None, [mscale, all]) if mscale != 0.0 && all != 0.0 => grown(mscale) / grown(all),
        _ => grown(1.0),
    };
    Ok(each * each)
}
