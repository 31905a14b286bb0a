//! A page that needs nothing beside itself: figures, the curve of loss against size, every matrix, the loss by position.

use super::plot::{Axis, Plot};
use super::{bits_per_weight, uniform_loss_at};
use crate::allocate::{Allocation, Goal, Part};
use crate::graph::Card;
use brooklet::kernels::quant::Format;
use std::fmt::Write;

/// Points of the curve of the loss by position.
const POSITIONS: usize = 64;

const STYLE: &str = include_str!("page.css");

/// The allocation as one HTML page.
pub fn html(card: &Card, a: &Allocation) -> String {
    let name = if card.name.is_empty() { "model" } else { &card.name };
    let mut page = String::new();
    // Writing into memory cannot fail.
    let mut add = |text: &str| page.push_str(text);
    add(&format!(
        "<!doctype html>\n<html lang='en'>\n<meta charset='utf-8'>\n<meta name='viewport' content='width=device-width'>\n\
         <title>{0}: {1}</title>\n<style>\n{STYLE}</style>\n<main>\n<header><h1>{0}</h1><p>{2}{3}</p></header>\n",
        escaped(name),
        megabytes(a.file_bytes as f64),
        escaped(&goal(a)),
        if a.report.is_some() { "" } else { " A plan: no file was made." },
    ));
    add(&tiles(a));
    add(&format!("<section><h2>{} against size</h2>\n<p class='note'>{}</p>\n{}</section>\n", loss_name(a), curve_note(a), curve(a)));
    add(&format!("<section><h2>Formats</h2>\n{}</section>\n", formats(a)));
    if a.measured.by_position.len() > 1 {
        add(&format!(
            "<section><h2>{} by position</h2>\n<p class='note'>Mean over segments that each begin from an empty state. A line that stays flat says \
             that errors do not build up in the state.</p>\n{}</section>\n",
            loss_name(a),
            positions(a)
        ));
    }
    add(&format!("<section><h2>Matrices, by their share of the loss</h2>\n{}</section>\n", table(a)));
    add(&format!(
        "<footer>Each matrix was measured alone in an otherwise float model over {} steps of the calibration stream, whole files over {}. Shares \
         are of the matrices' sum{}{}; activations rounded to 8 bits cost {} alone. Losses are {}.</footer>\n</main>\n</html>\n",
        grouped(a.part_steps as u64),
        grouped(a.whole_steps as u64),
        if a.scale == 1.0 {
            String::new()
        } else {
            format!(", which is the sum of its parts times {:.2}, as a whole file in one format showed", a.scale)
        },
        if a.memory_loss > 0.0 { format!("; the attention cache alone costs {}", small(a.memory_loss)) } else { String::new() },
        small(a.activations_loss),
        if a.is_relative_error {
            "squared errors of the values over their variance"
        } else {
            "Kullback-Leibler divergences from the float model's predictions, in nats per step"
        },
    ));
    page
}

fn goal(a: &Allocation) -> String {
    match a.goal {
        Goal::Bytes(bytes) => format!("The best file of at most {} bytes.", grouped(bytes)),
        Goal::Flash { bytes, code_bytes } => {
            format!("The best file for {} bytes of flash, of which the firmware's code takes {}.", grouped(bytes), grouped(code_bytes))
        }
        Goal::BitsPerWeight(bits) => format!("The best file of at most {bits} bits per weight."),
        Goal::PerplexityRatio(ratio) => format!("The smallest file with at most {ratio} times the float model's perplexity."),
    }
}

fn loss_name(a: &Allocation) -> &'static str {
    if a.is_relative_error { "Relative error" } else { "KL divergence" }
}

/// The figures that matter most.
fn tiles(a: &Allocation) -> String {
    let room =
        a.limit_bytes.map_or(String::new(), |limit| format!("{:.1} % of the budget", 100.0 * a.file_bytes as f64 / limit.max(1) as f64));
    let mut tiles = vec![
        ("File", megabytes(a.file_bytes as f64), format!("{} bytes", grouped(a.file_bytes))),
        ("Bits per weight", format!("{:.2}", bits_per_weight(a)), if a.is_finest { "everything at its finest".to_owned() } else { room }),
        (loss_name(a), small(a.measured.mean), format!("foretold {}", small(a.predicted))),
    ];
    if let Some((perplexity, ratio)) = a.measured.perplexity {
        tiles.push(("Perplexity", format!("×{ratio:.4}"), format!("{perplexity:.2} on the calibration text")));
    }
    if let Some(uniform) = uniform_loss_at(a, a.file_bytes) {
        let less = 100.0 * (1.0 - a.measured.mean / uniform);
        if less.abs() >= 1.0 {
            tiles.push(("Mixing formats", format!("{:+.0} %", -less), "loss, against one format of this size".to_owned()));
        }
    }
    tiles.push(("RAM", kibibytes(a.ram_bytes), "state and scratch of one stream".to_owned()));
    let tile =
        |(name, figure, more): &(&str, String, String)| format!("<div><dt>{name}</dt><dd>{figure}</dd><small>{more}</small></div>\n");
    format!("<dl class='tiles'>\n{}</dl>\n", tiles.iter().map(tile).collect::<String>())
}

fn curve_note(a: &Allocation) -> &'static str {
    if a.uniform.is_empty() {
        "The line is what the best mix of formats is foretold to lose at every size."
    } else {
        "The line is what the best mix of formats is foretold to lose at every size; grey dots are files in one format, measured; the large dot is this file, \
         measured."
    }
}

fn curve(a: &Allocation) -> String {
    let measured = (a.file_bytes as f64, a.measured.mean);
    let uniform: Vec<(f64, f64)> = a.uniform.iter().map(|u| (u.bytes as f64, u.loss)).collect();
    // Far beyond the finest whole numbers nothing more is to be seen.
    let most =
        uniform.iter().map(|u| u.0).fold(measured.0, f64::max).max(a.limit_bytes.map_or(0.0, |limit| (limit as f64).min(1.3 * measured.0)));
    let line: Vec<(f64, f64)> = a.curve.iter().map(|p| (p.bytes as f64, p.loss)).filter(|p| p.0 <= 1.05 * most).collect();
    let all = || line.iter().chain(&uniform).chain(std::iter::once(&measured));
    let x = Axis::new(all().map(|p| p.0), false);
    let y = Axis::new(all().map(|p| p.1), true);
    let mut plot =
        Plot::new(x, y, "bytes of the file", if a.is_relative_error { "relative error" } else { "nats per step" }, megabytes, small);
    if let Some(limit) = a.limit_bytes.filter(|&limit| limit as f64 <= 1.05 * most) {
        plot.upright(limit as f64, "budget");
    }
    plot.line(line.iter().copied());
    for (u, at) in a.uniform.iter().zip(&uniform) {
        let name = u.format.name();
        plot.dot("uniform", *at, name, &format!("all in {name}: {} bytes, {}", grouped(u.bytes), small(u.loss)));
    }
    plot.dot(
        "chosen",
        measured,
        "this file",
        &format!("{} bytes: measured {}, foretold {}", grouped(a.file_bytes), small(a.measured.mean), small(a.predicted)),
    );
    plot.svg("Loss against the bytes of the file, on a logarithmic scale")
}

fn positions(a: &Allocation) -> String {
    let all = &a.measured.by_position;
    let len = all.len().div_ceil(POSITIONS);
    let points: Vec<(f64, f64)> = all
        .chunks(len)
        .enumerate()
        .map(|(i, chunk)| ((i * len) as f64 + chunk.len() as f64 / 2.0, chunk.iter().sum::<f64>() / chunk.len() as f64))
        .collect();
    let x = Axis::new([0.0, all.len() as f64].into_iter(), false);
    let y = Axis::new(points.iter().map(|p| p.1).chain(std::iter::once(0.0)), false);
    let mut plot = Plot::new(
        x,
        y,
        "position in a segment",
        if a.is_relative_error { "relative error" } else { "nats per step" },
        |x| format!("{x:.0}"),
        small,
    );
    plot.area(&points);
    plot.line(points.iter().copied());
    plot.svg("Loss at each position of a segment")
}

/// A bar of the bytes in each format.
fn formats(a: &Allocation) -> String {
    let bytes_in = |format: Format| a.parts.iter().filter(|p| p.choice().format == format).map(|p| p.choice().bytes).sum::<u64>();
    let mut used: Vec<(&str, &str, u64)> =
        Format::ALL.into_iter().map(|format| (format.name(), format.name(), bytes_in(format))).filter(|used| used.2 > 0).collect();
    let others = a.file_bytes.saturating_sub(used.iter().map(|used| used.2).sum());
    used.push(("all else", "else", others));
    let share = |bytes: u64| 100.0 * bytes as f64 / a.file_bytes.max(1) as f64;
    let mut bar = String::from("<div class='bar'>");
    let mut key = String::from("<ul class='key'>");
    for (name, class, bytes) in used {
        let share = share(bytes);
        let _ =
            write!(bar, "<span class='{class}' style='width:{share:.3}%' title='{name}: {} bytes, {share:.1} %'></span>", grouped(bytes));
        let _ = write!(key, "<li><i class='{class}'></i>{name} <b>{share:.1} %</b></li>");
    }
    format!("{bar}</div>\n{key}</ul>\n")
}

fn table(a: &Allocation) -> String {
    let mut parts: Vec<&Part> = a.parts.iter().collect();
    parts.sort_by(|x, y| y.loss.total_cmp(&x.loss));
    let all_loss = a.sum_of_parts().max(f64::MIN_POSITIVE);
    let most_loss = parts.first().map_or(0.0, |p| p.loss).max(f64::MIN_POSITIVE);
    let most_bytes = parts.iter().map(|p| p.choice().bytes).max().unwrap_or(1).max(1);
    let row = |part: &&Part| {
        let choice = part.choice();
        let (format, share) = (choice.format.name(), 100.0 * part.loss / all_loss);
        let more = if part.tensors.len() > 1 { format!(" and {} more", part.tensors.len() - 1) } else { String::new() };
        format!(
            "<tr><td class='name'>{}{more}</td><td class='n'>{} × {}</td><td><i class='chip {format}'>{format}</i></td>\
             <td class='n'>{}</td><td class='meter'><span style='width:{:.1}%'></span></td>\
             <td class='n'>{}</td><td class='n'>{share:.1} %</td><td class='meter loss'><span style='width:{:.1}%'></span></td></tr>\n",
            escaped(&part.name),
            part.shape.0,
            part.shape.1,
            grouped(choice.bytes),
            100.0 * choice.bytes as f64 / most_bytes as f64,
            small(part.loss),
            100.0 * part.loss / most_loss,
        )
    };
    format!(
        "<div class='scroll'><table>\n<thead><tr><th>matrix</th><th class='n'>shape</th><th>format</th><th class='n'>bytes</th><th></th>\
         <th class='n'>loss</th><th class='n'>share</th><th></th></tr></thead>\n<tbody>\n{}</tbody></table></div>\n",
        parts.iter().map(row).collect::<String>()
    )
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('\'', "&#39;").replace('"', "&quot;")
}

fn megabytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e9 => format!("{:.2} GB", b / 1e9),
        b if b >= 1e8 => format!("{:.0} MB", b / 1e6),
        b if b >= 1e6 => format!("{:.1} MB", b / 1e6),
        b if b >= 1e3 => format!("{:.1} kB", b / 1e3),
        b => format!("{b:.0} B"),
    }
}

fn kibibytes(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)) } else { format!("{:.1} KiB", bytes as f64 / 1024.0) }
}

/// A small number: plain while that is short, else with a power of ten.
fn small(x: f64) -> String {
    match x {
        0.0 => "0".to_owned(),
        x if x >= 1e-3 => {
            let digits = (2 - x.log10().floor() as i32).clamp(0, 6) as usize;
            let text = format!("{x:.digits$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
        x => {
            let text = format!("{x:.1e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!("{}e{exponent}", mantissa.trim_end_matches(".0"))
        }
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::{escaped, grouped, megabytes, small};

    #[test]
    fn figures_are_short() {
        assert_eq!([0.0, 0.00721, 0.02, 12.34, 0.5, 0.000123, 2e-5].map(small), ["0", "0.00721", "0.02", "12.3", "0.5", "1.2e-4", "2e-5"]);
        assert_eq!([512.0, 2e4, 19_601_312.0].map(megabytes), ["512 B", "20.0 kB", "19.6 MB"]);
        assert_eq!([0, 999, 1000, 12_345_678].map(grouped), ["0", "999", "1,000", "12,345,678"]);
    }

    #[test]
    fn names_are_no_markup() {
        assert_eq!(escaped("<b>'&\""), "&lt;b&gt;&#39;&amp;&quot;");
    }
}
