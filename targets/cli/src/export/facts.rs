//! What a program should know about a model before it runs.

use super::budget::Budget;
use crate::sheet::Sheet;
use anyhow::{Result, bail};
use brooklet::artifact::{InputSpec, OutputSpec};
use brooklet::{Model, snapshot_bytes};

/// Names that Rust, C or C++ keep for themselves, of those that an identifier in lower case could be.
const RESERVED: &str = "\
    abstract alignas alignof and as asm async auto await become bool box break case catch char class const continue crate default \
    delete do double dyn else enum explicit export extern false final float fn for friend gen goto if impl in inline int let long loop \
    macro main match mod move mut mutable namespace new not operator or override priv private protected pub public ref register \
    restrict return self short signed sizeof static struct super switch template this throw trait true try type typedef typename \
    typeof union unsafe unsigned unsized use using virtual void volatile where while xor yield";

/// Headers of C and C++: a file of that name beside a program would be found instead of them.
const HEADERS: &str = "\
    assert complex ctype errno fenv float inttypes iso646 limits locale math memory new setjmp signal stdalign stdarg stdatomic stdbit stdbool \
    stdckdint stddef stdint stdio stdlib stdnoreturn string strings tgmath threads time uchar unistd wchar wctype";

/// A name for files and items, in every language that is written here.
pub(crate) fn identifier(text: &str) -> Result<String, String> {
    let ordinary = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if text.is_empty() || !text.chars().all(ordinary) || !text.starts_with(|c: char| c.is_ascii_lowercase()) || text.len() > 64 {
        Err(format!("`{text}` must be lower-case letters, digits and _, and begin with a letter"))
    } else if RESERVED.split_whitespace().any(|word| word == text) || text == "brooklet" {
        Err(format!("`{text}` is taken by Rust, C, C++ or Brooklet itself"))
    } else if HEADERS.split_whitespace().any(|header| header == text) {
        Err(format!("`{text}` would hide C's own header {text}.h"))
    } else {
        Ok(text.to_owned())
    }
}

/// A file's name with what no identifier may have replaced.
pub(crate) fn spelled(stem: &str) -> String {
    let spelled: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
    if spelled.starts_with(|c: char| c.is_ascii_lowercase()) { spelled } else { format!("model_{spelled}") }
}

/// What goes in.
pub(crate) enum Takes<'a> {
    /// Ids from 0 to `vocab - 1`.
    Tokens { vocab: u32 },
    /// Frames of named channels.
    Frames { names: Vec<&'a str>, units: Vec<&'a str>, rate_hz: f32 },
}

/// What comes out.
pub(crate) enum Gives<'a> {
    Logits,
    Classes { names: Vec<&'a str> },
    Values { names: Vec<&'a str>, units: Vec<&'a str> },
}

/// What is written down about a model.
pub(crate) struct Facts<'a> {
    /// What files and items are called.
    pub(crate) name: &'a str,
    /// The model file's own name.
    pub(crate) source: &'a str,
    /// The model card, a line for each fact.
    pub(crate) card: Vec<String>,
    pub(crate) sheet: Sheet,
    pub(crate) snapshot_bytes: usize,
    pub(crate) hash: u64,
    pub(crate) outputs: usize,
    pub(crate) takes: Takes<'a>,
    pub(crate) gives: Gives<'a>,
    pub(crate) budget: Budget,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(model: &Model<'a>, name: &'a str, source: &'a str, budget: Budget) -> Result<Self> {
        let takes = match model.header().input {
            InputSpec::Tokens { vocab, .. } => Takes::Tokens { vocab },
            InputSpec::Frames { rate_hz, .. } if !rate_hz.is_finite() => bail!("its rate of {rate_hz} Hz is no number to write down"),
            InputSpec::Frames { channels, units, rate_hz } => {
                Takes::Frames { names: channels.lines().collect(), units: padded(units, channels), rate_hz }
            }
        };
        let gives = match model.header().output {
            OutputSpec::Logits { .. } => Gives::Logits,
            OutputSpec::Classes { names } => Gives::Classes { names: names.lines().collect() },
            OutputSpec::Values { names, units } => Gives::Values { names: names.lines().collect(), units: padded(units, names) },
        };
        let card = model.header().card;
        let facts = [("name", card.name), ("family", card.family), ("source", card.source), ("licence", card.license)];
        let card = facts.into_iter().filter(|(_, text)| !text.is_empty()).map(|(what, text)| format!("{what:<7} {}", plain(text)));
        Ok(Facts {
            name,
            source,
            card: card.collect(),
            sheet: Sheet::of(model),
            snapshot_bytes: snapshot_bytes(model),
            hash: model.artifact().hash(),
            outputs: model.outputs(),
            takes,
            gives,
            budget,
        })
    }
}

/// One unit per name, whatever the file holds.
fn padded<'a>(units: &'a str, names: &str) -> Vec<&'a str> {
    units.lines().chain(std::iter::repeat("")).take(names.lines().count()).collect()
}

/// Text that ends no comment and stays on its line.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '\\' { ' ' } else { c }).collect::<String>().replace("*/", "* /").replace("/*", "/ *")
}

#[cfg(test)]
mod tests {
    use super::{identifier, plain, spelled};

    #[test]
    fn names_fit_every_language() {
        assert_eq!(identifier("watch_2"), Ok("watch_2".to_owned()));
        for bad in ["", "2watch", "Watch", "wätch", "a-b", "_a", "struct", "fn", "main", "brooklet"] {
            assert!(identifier(bad).is_err(), "{bad}");
        }
        assert_eq!(spelled("My-Model.v2"), "my_model_v2");
        assert_eq!(spelled("31m"), "model_31m");
        assert_eq!(identifier(&spelled("")), Ok("model_".to_owned()));
    }

    #[test]
    fn no_text_ends_a_comment() {
        assert_eq!(plain("a */ b\n\\\nc"), "a * / b   c");
    }
}
