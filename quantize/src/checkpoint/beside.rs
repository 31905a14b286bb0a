//! What lies beside a model in its folder: which tokens end its texts, and what is not read.

use super::Config;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// `generation_config.json`.
    pub(super) generation: Option<PathBuf>,
    /// Tokens that end a text, by that file.
    pub(super) ends: Vec<u32>,
    /// Why there is no tokenizer, where the folder has one of another kind.
    pub(super) unread_tokenizer: Option<String>,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

impl Beside {
    /// Looks around in the folder `dir` of a model with `config`.
    pub(super) fn of(dir: &Path, config: &Config) -> Self {
        let mut beside = Beside { unread_tokenizer: unread_tokenizer(dir), ..Beside::default() };
        if dir.join("adapter_config.json").is_file() {
            let note =
                "the folder has an adapter too (adapter_config.json): adapters are not merged, the file is made of the model without it";
            beside.notes.push(note.to_owned());
        }
        let generation = dir.join("generation_config.json");
        if generation.is_file() {
            match Config::open(&generation).and_then(|generation| generation.tokens("eos_token_id")) {
                // Ids of no token are another model's.
                Ok(ends) => beside.ends = ends.into_iter().filter(|&id| vocab(config).is_none_or(|vocab| (id as usize) < vocab)).collect(),
                Err(e) => beside.notes.push(format!("{e}; which tokens end a text is taken from config.json alone")),
            }
            beside.generation = Some(generation);
        }
        beside
    }
}

/// The size of the vocabulary, where the config says it in a usual place.
fn vocab(config: &Config) -> Option<usize> {
    let nested = config.maybe_object("text_config").ok().flatten();
    [Some(config), nested.as_ref()].into_iter().flatten().find_map(|config| config.maybe_size("vocab_size").ok().flatten())
}

/// Why `tokenizer.json` is not read though the model has a tokenizer.
fn unread_tokenizer(dir: &Path) -> Option<String> {
    let json = dir.join("tokenizer.json");
    if json.is_file() {
        return None;
    }
    if json.is_symlink() {
        return Some("tokenizer.json is a link to a file that is not there".to_owned());
    }
    let other = ["tokenizer.model", "vocab.json"].into_iter().find(|name| dir.join(name).is_file())?;
    Some(format!("there is no tokenizer.json, and {other} is not read; transformers' own save_pretrained of the tokenizer makes one"))
}
