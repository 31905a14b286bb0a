//! What a terminal gets that a file does not: dimmed text and bars.

use std::io::IsTerminal;

/// Whether to decorate standard output.
pub(crate) fn is_decorated() -> bool {
    let is_plain = std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    std::io::stdout().is_terminal() && !is_plain && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// Dims `text`, on a terminal.
pub(crate) fn dim(text: &str, decorated: bool) -> String {
    if decorated { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

/// A bar for a share from 0 to 1, padded with spaces to `width` characters.
pub(crate) fn bar(share: f32, width: usize, decorated: bool) -> String {
    let full = ((share.clamp(0.0, 1.0) * width as f32).round() as usize).min(width);
    let block = if decorated { "█" } else { "#" };
    block.repeat(full) + &" ".repeat(width - full)
}
