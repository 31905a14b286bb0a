//! What models of sensor frames share: the config's `input`, `output` and `card`, and the pooling.

use crate::checkpoint::Config;
use crate::error::Error;
use crate::graph::{Card, Graph, Input, Operand, Output};
use brooklet::artifact::MAX_CHANNELS;
use brooklet::ops::PoolKind;

/// A graph with its card and its normalised input.
pub(super) fn frame_graph<'a>(config: &Config, output: Output) -> Result<(Graph<'a>, Operand), Error> {
    let keys = config.object("input")?;
    let input = input(&keys)?;
    let Input::Frames { mean, std, .. } = &input else { return Err(config.error("input", "is not made of frames")) };
    let (mean, inv_std): (_, Vec<f32>) = (mean.clone(), std.iter().map(|s| 1.0 / s).collect());
    // As the runtime normalises a zero.
    let zeros = mean.iter().zip(&inv_std).map(|(mean, inv_std)| (0.0 - mean) * inv_std).collect();
    let mut g = Graph::new(card(config)?, input, output);
    let frame = g.frame(mean, inv_std);
    match keys.maybe_text("missing")? {
        None => {}
        Some("hold") => g.hold_missing(frame),
        Some("mean") => g.average_missing(frame),
        Some("zero") => g.zero_missing(frame, zeros),
        Some(other) => return Err(keys.error("missing", format!("is \"{other}\"; supported are hold, mean and zero"))),
    }
    Ok((g, frame))
}

/// A list of names; the file keeps them as lines.
pub(super) fn names(config: &Config, key: &str) -> Result<Vec<String>, Error> {
    let names: Vec<String> = config.texts(key)?.into_iter().map(str::to_owned).collect();
    if names.is_empty() || names.iter().any(|c| is_unprintable(c)) {
        return Err(config.error(key, "needs at least one name, each without line breaks"));
    }
    Ok(names)
}

/// The summary that `pooling` in the config's `output` asks for.
pub(super) fn pool(g: &mut Graph<'_>, output: &Config, features: Operand) -> Result<(), Error> {
    match output.maybe_text("pooling")?.unwrap_or("last") {
        "last" => {}
        "mean" => g.pool(PoolKind::Mean, features),
        "ema" => {
            let alpha = output.number_or("ema_alpha", 0.0)? as f32;
            if !(alpha > 0.0 && alpha <= 1.0) {
                return Err(output.error("ema_alpha", "must be above 0 and at most 1 for pooling \"ema\""));
            }
            g.pool(PoolKind::Ema { alpha }, features);
        }
        other => return Err(output.error("pooling", format!("is \"{other}\"; supported are last, mean and ema"))),
    }
    Ok(())
}

fn card(config: &Config) -> Result<Card, Error> {
    let family = config.text("model_type")?.to_owned();
    let Some(card) = config.maybe_object("card")? else { return Ok(Card { family, ..Card::default() }) };
    let text = |key| Ok::<_, Error>(card.maybe_text(key)?.unwrap_or_default().to_owned());
    Ok(Card { name: text("name")?, family, source: text("source")?, license: text("license")? })
}

fn input(config: &Config) -> Result<Input, Error> {
    let channels = names(config, "channels")?;
    if channels.len() > MAX_CHANNELS {
        return Err(config.error("channels", format!("lists {}, at most {MAX_CHANNELS} are supported", channels.len())));
    }
    let units: Vec<String> = config.texts("units")?.into_iter().map(str::to_owned).collect();
    let (mean, std) = (config.numbers("mean")?, config.numbers("std")?);
    for (key, len) in [("units", units.len()), ("mean", mean.len()), ("std", std.len())] {
        if len != channels.len() {
            return Err(config.error(key, format!("has {len} entries for {} channels", channels.len())));
        }
    }
    if let Some(bad) = std.iter().find(|s| **s <= 0.0) {
        return Err(config.error("std", format!("holds {bad}; standard deviations must be above 0 (leave a constant channel out)")));
    }
    let rate_hz = config.number_or("rate_hz", 0.0)? as f32;
    if rate_hz <= 0.0 || !rate_hz.is_finite() {
        return Err(config.error("rate_hz", format!("must be above 0 and at most {:e}", f32::MAX)));
    }
    Ok(Input::Frames { channels, units, rate_hz, mean, std })
}

fn is_unprintable(name: &str) -> bool {
    name.is_empty() || name.contains(char::is_control)
}
