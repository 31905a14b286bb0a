//! Text to token ids and back, with the tokenizer that travels inside the model file.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, anyhow, bail};
use brooklet::Model;
use brooklet::artifact::{Content, InputSpec};
use flate2::read::ZlibDecoder;
use std::io::Read;
use tokenizers::{DecoderWrapper, Tokenizer};

/// Most text that a packed tokenizer may hold: the largest vocabularies take a quarter of it.
const MAX_TOKENIZER_BYTES: u64 = 64 << 20;

/// What a text model reads and writes.
pub struct TextCodec {
    kind: Kind,
    /// Ids below this stand for something; a vocabulary may be padded beyond.
    pub known: usize,
    /// Token that begins a text.
    pub bos: Option<u32>,
    /// Token that ends a text.
    pub eos: Option<u32>,
}

enum Kind {
    /// Ids are bytes.
    Bytes,
    /// Byte-level BPE: each token is a string of bytes.
    ByteLevel(Box<Tokenizer>),
    /// Anything else that a tokenizer.json can describe.
    Other(Box<Tokenizer>),
}

impl TextCodec {
    /// The codec of a text model; `name` is its file, for messages.
    pub fn of(model: &Model<'_>, name: &str) -> Result<Self> {
        let InputSpec::Tokens { vocab, bos, eos, tokenizer } = model.header().input else {
            bail!("{name}: takes sensor frames, not text; use `brooklet stream {name}`");
        };
        let Some(section) = tokenizer else { return Self::new(None, vocab, bos, eos, name) };
        let artifact = model.artifact();
        let found = artifact.section(section).and_then(|s| Some((s.content, artifact.bytes_of(&s)?)));
        let (content, bytes) = found.ok_or_else(|| anyhow!("{name}: the tokenizer's section is missing; quantize the checkpoint again"))?;
        match content {
            Content::PackedTokenizer => Self::new(Some(&unpacked(bytes, name)?), vocab, bos, eos, name),
            _ => Self::new(Some(bytes), vocab, bos, eos, name),
        }
    }

    /// The codec of a `tokenizer.json`, or without one, of bytes; `name` is the model, for messages.
    pub fn new(tokenizer: Option<&[u8]>, vocab: u32, bos: Option<u32>, eos: Option<u32>, name: &str) -> Result<Self> {
        let Some(bytes) = tokenizer else { return Ok(TextCodec { kind: Kind::Bytes, known: vocab as usize, bos, eos }) };
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(|e| {
            anyhow!("{name}: tokenizer.json cannot be used: {e}; put the model's own file into the checkpoint and quantize again")
        })?;
        // Limits that were set for training must not cut a text short.
        tokenizer.with_truncation(None).map_err(|e| anyhow!("{name}: tokenizer: {e}"))?;
        tokenizer.with_padding(None);
        let known = tokenizer.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1).min(vocab as usize);
        let is_byte_level = matches!(tokenizer.get_decoder(), Some(DecoderWrapper::ByteLevel(_)));
        let tokenizer = Box::new(tokenizer);
        let kind = if is_byte_level { Kind::ByteLevel(tokenizer) } else { Kind::Other(tokenizer) };
        Ok(TextCodec { kind, known, bos, eos })
    }

    /// The ids of a text. `special` adds what the tokenizer puts around a text that begins (some add a first token).
    pub fn encode(&self, text: &[u8], special: bool) -> Result<Vec<u32>> {
        match &self.kind {
            Kind::Bytes => match text.iter().position(|&b| usize::from(b) >= self.known) {
                Some(at) => bail!("byte {} of the text is 0x{:02x}; this model knows the bytes below 0x{:02x}", at, text[at], self.known),
                None => Ok(text.iter().map(|&b| u32::from(b)).collect()),
            },
            Kind::ByteLevel(tokenizer) | Kind::Other(tokenizer) => {
                let text = std::str::from_utf8(text).context("the text is not UTF-8; convert it first, for instance with iconv")?;
                let encoding = tokenizer.encode_fast(text, special).map_err(|e| anyhow!("the tokenizer refuses the text: {e}"))?;
                Ok(encoding.get_ids().to_vec())
            }
        }
    }

    /// Turns tokens into text, one at a time. They go on from `before`, a prompt: some tokenizers drop the space at a text's beginning.
    pub fn decoder(&self, before: &[u32]) -> TextDecoder<'_> {
        // The last few say enough: all that matters is that a text has begun.
        let ids = before[before.len().saturating_sub(8)..].to_vec();
        TextDecoder { kind: &self.kind, pending: Vec::new(), shown: ids.len(), ids }
    }
}

/// Gives out text as soon as it is whole: never half a character.
pub struct TextDecoder<'a> {
    kind: &'a Kind,
    /// The beginning of a character whose other bytes are still to come.
    pending: Vec<u8>,
    /// For tokenizers that are not byte-level: the latest tokens; the text of the first `shown` is out.
    ids: Vec<u32>,
    shown: usize,
}

impl TextDecoder<'_> {
    /// The text that `token` completes.
    pub fn push(&mut self, token: u32) -> Result<String> {
        match self.kind {
            Kind::Bytes => {
                // Ids beyond 255 stand for no byte.
                self.pending.extend(u8::try_from(token));
                Ok(take_whole(&mut self.pending))
            }
            Kind::ByteLevel(tokenizer) => {
                let added = tokenizer.get_added_vocabulary();
                if let Some(text) = tokenizer.id_to_token(token).filter(|text| !added.is_special_token(text)) {
                    match text.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                        Some(bytes) => self.pending.extend(bytes),
                        // A token that was added later, spelled as it is.
                        None => self.pending.extend(text.as_bytes()),
                    }
                }
                Ok(take_whole(&mut self.pending))
            }
            Kind::Other(tokenizer) => {
                self.ids.push(token);
                self.longer_text(tokenizer, false)
            }
        }
    }

    /// What is left at the end; half a character becomes a replacement character.
    pub fn finish(&mut self) -> Result<String> {
        match self.kind {
            Kind::Other(tokenizer) => self.longer_text(tokenizer, true),
            _ => Ok(String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()),
        }
    }

    /// What decoding the tokens together adds to the text of the first `shown`: spaces can depend on the token before.
    fn longer_text(&mut self, tokenizer: &Tokenizer, is_end: bool) -> Result<String> {
        let decode = |ids: &[u32]| tokenizer.decode(ids, true).map_err(|e| anyhow!("the tokenizer cannot decode a token: {e}"));
        let (before, now) = (decode(&self.ids[..self.shown])?, decode(&self.ids)?);
        if now.ends_with(char::REPLACEMENT_CHARACTER) && !is_end {
            return Ok(String::new());
        }
        let added = now.strip_prefix(&before).unwrap_or_default().to_owned();
        if added.is_empty() {
            // A special token: the next one still goes on from what was there before.
            self.ids.truncate(self.shown);
        } else {
            self.ids.drain(..self.shown);
            self.shown = self.ids.len();
        }
        Ok(added)
    }
}

/// Takes the whole characters off the front of `bytes`; bytes that are no character become replacement characters.
fn take_whole(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    loop {
        match std::str::from_utf8(bytes) {
            Ok(whole) => {
                text.push_str(whole);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let (whole, rest) = bytes.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(whole));
                match error.error_len() {
                    Some(bad) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        *bytes = rest[bad..].to_vec();
                    }
                    None => {
                        *bytes = rest.to_vec();
                        return text;
                    }
                }
            }
        }
    }
}

/// The byte that a character of a byte-level token stands for: printable ones stand for themselves, the 68 others were moved
/// behind 255 in order.
fn byte_of(letter: char) -> Option<u8> {
    let is_printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(letter) {
        code @ 0..256 => Some(code as u8).filter(|&b| is_printable(b)),
        code => (0..=255u8).filter(|&b| !is_printable(b)).nth(code as usize - 256),
    }
}

/// The text of a packed tokenizer; `name` is the model, for messages.
fn unpacked(stream: &[u8], name: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let read = ZlibDecoder::new(stream).take(MAX_TOKENIZER_BYTES + 1).read_to_end(&mut text);
    read.map_err(|e| anyhow!("{name}: the tokenizer cannot be unpacked: {e}; quantize the checkpoint again"))?;
    if text.len() as u64 > MAX_TOKENIZER_BYTES {
        bail!("{name}: the tokenizer unpacks to more than {} MiB; the file is damaged or made to do harm", MAX_TOKENIZER_BYTES >> 20);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{Kind, MAX_TOKENIZER_BYTES, TextCodec, TextDecoder, byte_of, take_whole, unpacked};
    use flate2::write::ZlibEncoder;
    use std::io::Write;
    use tokenizers::Tokenizer;

    fn byte_level(vocab: &[&str]) -> Kind {
        let vocab: serde_json::Map<_, _> = vocab.iter().zip(0u32..).map(|(token, id)| (token.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": 0, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Kind::ByteLevel(Box::new(Tokenizer::from_bytes(json.to_string()).unwrap()))
    }

    fn decode(kind: &Kind, ids: &[u32]) -> Vec<String> {
        decode_after(kind, &[], ids)
    }

    fn decode_after(kind: &Kind, before: &[u32], ids: &[u32]) -> Vec<String> {
        let mut decoder = TextDecoder { kind, pending: Vec::new(), ids: before.to_vec(), shown: before.len() };
        let mut parts: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
        parts.push(decoder.finish().unwrap());
        parts
    }

    #[test]
    fn no_half_characters_leave_a_byte_level_decoder() {
        // The euro sign is e2 82 ac, spelled `âĤ¬`.
        let kind = byte_level(&["<end>", "a", "â", "Ĥ", "¬", "Ġ", "âĤ"]);
        assert_eq!(decode(&kind, &[1, 2, 3, 4, 1]), ["a", "", "", "€", "a", ""]);
        assert_eq!(decode(&kind, &[6, 4, 0, 5]), ["", "€", "", " ", ""]);
        assert_eq!(decode(&kind, &[2, 1, 3, 1]), ["", "\u{fffd}a", "\u{fffd}", "a", ""]);
        assert_eq!(decode(&kind, &[1, 6]), ["a", "", "\u{fffd}"]);
        assert_eq!(decode(&kind, &[99]), ["", ""]);
    }

    /// Pieces as SentencePiece writes them: words begin with `▁`, and a text's first space is dropped.
    fn pieces(vocab: &[&str]) -> Kind {
        let vocab: Vec<_> = vocab.iter().map(|piece| serde_json::json!([piece, -1.0])).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "pre_tokenizer": null,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": true},
        });
        Kind::Other(Box::new(Tokenizer::from_bytes(json.to_string()).unwrap()))
    }

    #[test]
    fn a_space_is_dropped_at_a_text_s_beginning_and_nowhere_else() {
        let kind = pieces(&["<s>", "▁big", "▁lot", "s", "<0xE2>", "<0x82>", "<0xAC>"]);
        assert_eq!(decode(&kind, &[0, 1, 2, 3]), ["", "big", " lot", "s", ""]);
        // Behind a prompt, and behind special tokens.
        assert_eq!(decode_after(&kind, &[0, 1], &[2, 3]), [" lot", "s", ""]);
        assert_eq!(decode_after(&kind, &[1], &[0, 0, 2, 0, 1]), ["", "", " lot", "", " big", ""]);
        assert_eq!(decode_after(&kind, &[0], &[1, 2]), ["big", " lot", ""]);
        assert_eq!(decode_after(&kind, &[1], &[4, 5, 6, 2]), ["", "", "€", " lot", ""]);
    }

    #[test]
    fn byte_models_need_no_tokenizer() {
        let codec = TextCodec { kind: Kind::Bytes, known: 0x80, bos: None, eos: None };
        assert_eq!(codec.encode(b"hi", true).unwrap(), [104, 105]);
        assert!(codec.encode("é".as_bytes(), true).unwrap_err().to_string().contains("0xc3"));
        assert_eq!(decode(&codec.kind, &[104, 0xc3, 0xa9, 300]), ["h", "", "é", "", ""]);
    }

    #[test]
    fn every_byte_has_one_letter() {
        let letters: Vec<char> = (0..0x400).filter_map(char::from_u32).filter(|&c| byte_of(c).is_some()).collect();
        let mut bytes: Vec<u8> = letters.iter().copied().filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!([byte_of('Ġ'), byte_of('Ċ'), byte_of('a'), byte_of('€')], [Some(b' '), Some(b'\n'), Some(b'a'), None]);
    }

    #[test]
    fn text_survives_any_cut() {
        let text = "añ€😀\u{fffd}z";
        for cut in 0..=text.len() {
            let (mut bytes, rest) = (text.as_bytes()[..cut].to_vec(), &text.as_bytes()[cut..]);
            let mut whole = take_whole(&mut bytes);
            bytes.extend(rest);
            whole += &take_whole(&mut bytes);
            assert_eq!(whole, text);
        }
    }

    #[test]
    fn a_packed_tokenizer_is_bounded_and_whole() {
        let packed = |text: &[u8]| {
            let mut stream = ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            stream.write_all(text).unwrap();
            stream.finish().unwrap()
        };
        assert_eq!(unpacked(&packed(b"{}"), "m").unwrap(), b"{}");
        assert!(unpacked(&packed(b"{}")[..4], "m").unwrap_err().to_string().contains("cannot be unpacked"));
        assert!(unpacked(b"no stream", "m").is_err());
        let bomb = packed(&vec![b' '; MAX_TOKENIZER_BYTES as usize + 1]);
        assert!(unpacked(&bomb, "m").unwrap_err().to_string().contains("more than 64 MiB"));
    }
}
