//! A tokenizer whose panics are errors: what stands in a `tokenizer.json` can bring the library that reads it to panic.

use anyhow::{Result, anyhow, bail};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;
use tokenizers::{AddedVocabulary, DecoderWrapper, ModelWrapper, Tokenizer};

/// Characters of the library's own message that are told: it may quote a whole file.
const MOST_TOLD: usize = 300;

/// A tokenizer and the name of its model, for messages.
pub(crate) struct Guarded {
    tokenizer: Tokenizer,
    name: String,
}

impl Guarded {
    /// The tokenizer of a `tokenizer.json`.
    pub(crate) fn new(json: &[u8], name: &str) -> Result<Self> {
        let loaded = unless_it_panics(|| {
            let mut tokenizer = Tokenizer::from_bytes(json)?;
            // Limits that were set for training must not cut a text short.
            tokenizer.with_truncation(None)?;
            tokenizer.with_padding(None);
            // What is dropped at random helps training: a text has one spelling here.
            let trained =
                if let ModelWrapper::BPE(bpe) = tokenizer.get_model() { bpe.dropout.is_some().then(|| bpe.clone()) } else { None };
            if let Some(mut bpe) = trained {
                bpe.dropout = None;
                tokenizer.with_model(bpe);
            }
            tokenizers::Result::Ok(tokenizer)
        });
        let what = "put the model's own file into the checkpoint and quantize again";
        match loaded {
            Some(Ok(tokenizer)) => Ok(Guarded { tokenizer, name: name.to_owned() }),
            Some(Err(e)) => bail!("{name}: tokenizer.json cannot be used: {}; {what}", told(&*e)),
            None => bail!("{name}: tokenizer.json cannot be used: the tokenizer fails while it is read; {what}"),
        }
    }

    /// The ids of a text, with what stands around a text that begins if that is wanted (`special`).
    pub(crate) fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        let encoding = unless_it_panics(|| self.tokenizer.encode_fast(text, special)).ok_or_else(|| self.fails())?;
        let encoding = encoding.map_err(|e| anyhow!("{}: the tokenizer refuses the text: {}", self.name, told(&*e)))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of ids; special tokens have none.
    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        let text = unless_it_panics(|| self.tokenizer.decode(ids, true)).ok_or_else(|| self.fails())?;
        text.map_err(|e| anyhow!("{}: the tokenizer cannot decode a token: {}", self.name, told(&*e)))
    }

    /// How a token is spelled, if it is one that stands for text.
    pub(crate) fn spelling(&self, id: u32) -> Option<String> {
        let added: &AddedVocabulary = self.tokenizer.get_added_vocabulary();
        self.tokenizer.id_to_token(id).filter(|text| !added.is_special_token(text))
    }

    /// One more than the largest id.
    pub(crate) fn ids(&self) -> usize {
        self.tokenizer.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }

    /// Whether each token is a string of bytes, and text nothing but all of them in a row.
    pub(crate) fn is_byte_level(&self) -> bool {
        matches!(self.tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }

    fn fails(&self) -> anyhow::Error {
        anyhow!(
            "{}: the tokenizer fails on this text; put the model's own tokenizer.json into the checkpoint and quantize again",
            self.name
        )
    }
}

fn told(error: &dyn std::error::Error) -> String {
    error.to_string().chars().take(MOST_TOLD).collect()
}

thread_local! {
    /// Whether this thread is inside a call whose panic becomes an error.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives; none if it panics, and then nothing is printed either.
fn unless_it_panics<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                before(panic);
            }
        }));
    });
    let was_guarded = IS_GUARDED.replace(true);
    // What a panic leaves half done is dropped, or only read: tokenizers change nothing but a cache, behind a lock of its own.
    let given = catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(was_guarded);
    given.ok()
}
