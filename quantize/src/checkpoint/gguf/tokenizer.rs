//! From the vocabulary in a GGUF file to a `tokenizer.json`.

use super::container::Gguf;
use super::pretokenizers::{self, PreTokenizer};
use crate::error::Error;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const SCORES: &str = "tokenizer.ggml.scores";
const MERGES: &str = "tokenizer.ggml.merges";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const ADD_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// What SentencePiece writes for a space.
const SPACE: &str = "\u{2581}";

/// A token's type, by its number in the file.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Normal,
    Unknown,
    /// Never part of a text.
    Control,
    /// Recognised in a text before anything else.
    Added,
    Unused,
    Byte,
}

/// The text of a `tokenizer.json`, if the file has a tokenizer, and what the user should know about it.
pub(super) fn json(gguf: &Gguf) -> Result<(Option<Vec<u8>>, Vec<String>), Error> {
    let mut notes = Vec::new();
    let json = match gguf.text(MODEL)? {
        None | Some("none" | "no_vocab") => return Ok((None, notes)),
        Some("gpt2") => Vocabulary::read(gguf)?.byte_level(&mut notes)?,
        Some("llama") => Vocabulary::read(gguf)?.sentence_piece(&mut notes)?,
        Some(other) => {
            let problem = format!("is \"{other}\"; read are gpt2 (byte-level BPE) and llama (SentencePiece); {TOKENIZER_FILE}");
            return Err(gguf.error(MODEL, problem));
        }
    };
    Ok((Some(json.to_string().into_bytes()), notes))
}

/// The remedy where a file's tokenizer cannot be read.
const TOKENIZER_FILE: &str = "put the file alone into a folder with the model's tokenizer.json, and give the folder";

/// The tokens of a file.
struct Vocabulary<'g> {
    gguf: &'g Gguf,
    tokens: Vec<&'g str>,
    kinds: Vec<Kind>,
}

impl<'g> Vocabulary<'g> {
    fn read(gguf: &'g Gguf) -> Result<Self, Error> {
        let tokens = gguf.texts(TOKENS)?.ok_or_else(|| gguf.error(TOKENS, format!("is missing; {TOKENIZER_FILE}")))?;
        // The config has been made: there is an embedding.
        let rows = gguf.tensor("token_embd.weight").map_or(0, |i| gguf.tensors()[i].shape[0]);
        if tokens.is_empty() || tokens.len() > rows {
            return Err(gguf.error(TOKENS, format!("lists {} tokens, and the embedding has {rows} rows", tokens.len())));
        }
        let kinds = match gguf.numbers(TYPES)? {
            None => vec![Kind::Normal; tokens.len()],
            Some(types) if types.len() != tokens.len() => {
                return Err(gguf.error(TYPES, format!("lists {} types for {} tokens", types.len(), tokens.len())));
            }
            Some(types) => types.iter().map(|&n| Self::kind(gguf, n)).collect::<Result<_, _>>()?,
        };
        Ok(Vocabulary { gguf, tokens, kinds })
    }

    fn kind(gguf: &Gguf, number: f64) -> Result<Kind, Error> {
        const KINDS: [Kind; 7] = [Kind::Normal, Kind::Normal, Kind::Unknown, Kind::Control, Kind::Added, Kind::Unused, Kind::Byte];
        let found = (0..KINDS.len()).find(|&i| i as f64 == number).map(|i| KINDS[i]);
        found.ok_or_else(|| gguf.error(TYPES, format!("has the type {number}, expected 0 to 6")))
    }

    /// Token to id, without those that no text becomes. Of equal tokens the last counts.
    fn ids(&self) -> HashMap<&'g str, usize> {
        let used = |(id, token): (usize, &&'g str)| (self.kinds[id] != Kind::Unused && !token.is_empty()).then_some((*token, id));
        self.tokens.iter().enumerate().filter_map(used).collect()
    }

    /// Tokens that are recognised in a text before it is split.
    fn added(&self, notes_unknown: bool) -> Vec<Value> {
        let is_added = |kind: Kind| matches!(kind, Kind::Control | Kind::Added) || (notes_unknown && kind == Kind::Unknown);
        let added = self.tokens.iter().enumerate().filter(|(id, token)| is_added(self.kinds[*id]) && !token.is_empty());
        added
            .map(|(id, token)| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                    "special": self.kinds[id] != Kind::Added,
                })
            })
            .collect()
    }

    /// The token under the metadata key, an id.
    fn token_of(&self, key: &str) -> Result<Option<(usize, &'g str)>, Error> {
        match self.gguf.whole(key, u32::MAX as usize)? {
            None => Ok(None),
            Some(id) => match self.tokens.get(id) {
                Some(token) => Ok(Some((id, token))),
                None => Err(self.gguf.error(key, format!("is {id}, and there are {} tokens", self.tokens.len()))),
            },
        }
    }

    /// What puts the first and the last token around a text.
    fn post_processor(&self, adds_bos: bool, default_ids: [Option<usize>; 2]) -> Result<Value, Error> {
        let asked = [self.gguf.flag(ADD_BOS)?, self.gguf.flag(ADD_EOS)?];
        let adds = [asked[0].unwrap_or(adds_bos), asked[1].unwrap_or(false)];
        let mut special = Map::new();
        let mut single = vec![json!({ "Sequence": { "id": "A", "type_id": 0 } })];
        for (i, key) in ["tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"].into_iter().enumerate() {
            if !adds[i] {
                continue;
            }
            let default = default_ids[i].and_then(|id| Some((id, *self.tokens.get(id)?)));
            let Some((id, token)) = self.token_of(key)?.or(default) else {
                if asked[i].is_none() {
                    continue;
                }
                return Err(self.gguf.error(key, "is missing, and every text is to have it"));
            };
            special.insert(token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }));
            let place = if i == 0 { 0 } else { single.len() };
            single.insert(place, json!({ "SpecialToken": { "id": token, "type_id": 0 } }));
        }
        if special.is_empty() {
            return Ok(Value::Null);
        }
        let pair: Vec<Value> = single.iter().cloned().chain([json!({ "Sequence": { "id": "B", "type_id": 1 } })]).collect();
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special }))
    }

    /// Byte-level BPE with a list of merges.
    fn byte_level(&self, notes: &mut Vec<String>) -> Result<Value, Error> {
        let pre = self.pre_tokenizer(notes)?;
        let ids = self.ids();
        let lines = self.gguf.texts(MERGES)?.ok_or_else(|| self.gguf.error(MERGES, format!("is missing; {TOKENIZER_FILE}")))?;
        let mut merges = Vec::with_capacity(lines.len());
        for (i, line) in lines.iter().enumerate() {
            // The first character may be a space itself.
            let first = line.chars().next().map_or(0, char::len_utf8);
            let Some(space) = line.get(first..).and_then(|rest| rest.find(' ')) else {
                return Err(self.gguf.error(MERGES, format!("entry {i} is {line:?}, expected two tokens with a space between")));
            };
            let (left, right) = (&line[..first + space], &line[first + space + 1..]);
            // A merge whose parts or whole are no tokens can never end in one.
            if ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(format!("{left}{right}").as_str()) {
                merges.push(json!([left, right]));
            }
        }
        if merges.len() < lines.len() {
            notes.push(format!("the tokenizer has {} merges of what are no tokens; they are left out", lines.len() - merges.len()));
        }
        let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
        let mut stages: Vec<Value> = pre.patterns.iter().map(split).collect();
        stages.push(json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }));
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(false),
            "normalizer": null,
            "pre_tokenizer": { "type": "Sequence", "pretokenizers": stages },
            "post_processor": self.post_processor(pre.adds_bos, [None, None])?,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.ignores_merges, "vocab": ids, "merges": merges,
            },
        }))
    }

    fn pre_tokenizer(&self, notes: &mut Vec<String>) -> Result<PreTokenizer, Error> {
        let name = self.gguf.text(PRE)?.unwrap_or_else(|| {
            notes.push(format!(
                "the file does not say how its tokenizer splits texts (`{PRE}`); the oldest way is taken; {TOKENIZER_FILE} to be sure"
            ));
            "default"
        });
        pretokenizers::named(name).ok_or_else(|| {
            let problem = format!("is \"{name}\"; known are {}; {TOKENIZER_FILE}", pretokenizers::names());
            self.gguf.error(PRE, problem)
        })
    }

    /// SentencePiece: neighbours that make the token with the best score are merged first; what is no token becomes bytes.
    fn sentence_piece(&self, notes: &mut Vec<String>) -> Result<Value, Error> {
        let ids = self.ids();
        let merges = self.merges_by_score(&ids, notes)?;
        let unknown = (0..self.tokens.len()).find(|&id| self.kinds[id] == Kind::Unknown).map(|id| self.tokens[id]);
        let prefix = self.gguf.flag(ADD_PREFIX)?.unwrap_or(true);
        let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        let before = json!({ "type": "Prepend", "prepend": SPACE });
        let normalizers = if prefix { vec![before, spaces] } else { vec![spaces] };
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if prefix {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null,
            "added_tokens": self.added(true),
            "normalizer": { "type": "Sequence", "normalizers": normalizers },
            "pre_tokenizer": null,
            "post_processor": self.post_processor(true, [Some(1), Some(2)])?,
            "decoder": { "type": "Sequence", "decoders": decoders },
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                "fuse_unk": true, "byte_fallback": true, "ignore_merges": false, "vocab": ids, "merges": merges,
            },
        }))
    }

    /// Every way to make a token of two others, best score first.
    fn merges_by_score(&self, ids: &HashMap<&str, usize>, notes: &mut Vec<String>) -> Result<Vec<Value>, Error> {
        let scores = self.gguf.numbers(SCORES)?.ok_or_else(|| self.gguf.error(SCORES, format!("is missing; {TOKENIZER_FILE}")))?;
        if scores.len() != self.tokens.len() {
            return Err(self.gguf.error(SCORES, format!("lists {} scores for {} tokens", scores.len(), self.tokens.len())));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(self.gguf.error(SCORES, format!("has no number for token {id}")));
        }
        let is_normal = |id: usize| self.kinds[id] == Kind::Normal;
        let normal_scores = || (0..scores.len()).filter(|&id| is_normal(id)).map(|id| scores[id]);
        let is_flat = self.tokens.len() > 1 && normal_scores().all(|score| Some(score) == normal_scores().next());
        if is_flat {
            notes.push("the tokenizer's scores are all alike; the order of its tokens stands for them".to_owned());
        }
        // (score, left, right), as ids
        let mut merges: Vec<(f64, usize, usize)> = Vec::new();
        for (&token, &id) in ids.iter().filter(|(_, id)| is_normal(**id)) {
            let score = if is_flat { -(id as f64) } else { scores[id] };
            let mut length = 0;
            for (at, _) in token.char_indices().skip(1) {
                length += 1;
                if length > MAX_TOKEN_CHARS {
                    let problem = format!("token {id} has more than {MAX_TOKEN_CHARS} characters");
                    return Err(self.gguf.error(TOKENS, problem));
                }
                let (left, right) = token.split_at(at);
                if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                    merges.push((score, left, right));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        Ok(merges.into_iter().map(|(_, left, right)| json!([self.tokens[left], self.tokens[right]])).collect())
    }
}

/// Longest token of a SentencePiece vocabulary: every place where it can be cut is tried.
const MAX_TOKEN_CHARS: usize = 512;
