//! Text to token ids and back, with the tokenizer that travels inside the model file.
#![forbid(unsafe_code)]

mod guard;

use anyhow::{Context, Result, anyhow, bail};
use brooklet::Model;
use brooklet::artifact::{Content, InputSpec};
use flate2::read::ZlibDecoder;
use guard::Guarded;
use std::io::Read;

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
    ByteLevel(Box<Guarded>),
    /// Anything else that a tokenizer.json can describe.
    Other(Box<Guarded>),
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
        let tokenizer = Box::new(Guarded::new(bytes, name)?);
        let known = tokenizer.ids().min(vocab as usize);
        let kind = if tokenizer.is_byte_level() { Kind::ByteLevel(tokenizer) } else { Kind::Other(tokenizer) };
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
                tokenizer.encode(text, special)
            }
        }
    }

    /// Turns tokens into text, one at a time. They go on from `before`, a prompt: some tokenizers drop the space at a text's beginning.
    pub fn decoder(&self, before: &[u32]) -> TextDecoder<'_> {
        TextDecoder { kind: &self.kind, pending: Vec::new(), ids: before.to_vec(), shown: None, held: 0 }
    }
}

/// Gives out text as soon as it is whole: never half a character.
pub struct TextDecoder<'a> {
    kind: &'a Kind,
    /// The beginning of a character whose other bytes are still to come.
    pending: Vec<u8>,
    /// For tokenizers that are not byte-level: the latest tokens, those of the prompt before the first is pushed.
    ids: Vec<u32>,
    /// Their text as far as it is out: it can be another once more tokens have come.
    shown: Option<String>,
    /// Tokens whose text is held back, as half a character.
    held: usize,
}

/// Tokens whose text is looked at anew with every token.
const WINDOW: usize = 64;

/// Of these as many are left at least when the others go.
const KEPT: usize = 8;

/// Most tokens that a run of bytes holds the window open for.
const LONGEST_RUN: usize = 1024;

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
                if let Some(text) = tokenizer.spelling(token) {
                    match text.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                        Some(bytes) => self.pending.extend(bytes),
                        // A token that was added later, spelled as it is.
                        None => self.pending.extend(text.as_bytes()),
                    }
                }
                Ok(take_whole(&mut self.pending))
            }
            Kind::Other(tokenizer) => {
                let shown = self.shown_before(tokenizer)?;
                // A special token has no text, and leaves what stands around it together.
                if tokenizer.spelling(token).is_none() {
                    return Ok(String::new());
                }
                self.ids.push(token);
                if self.may_change(tokenizer) {
                    return Ok(String::new());
                }
                self.longer_text(tokenizer, &shown, false)
            }
        }
    }

    /// What is left at the end; half a character becomes a replacement character.
    pub fn finish(&mut self) -> Result<String> {
        match self.kind {
            Kind::Other(tokenizer) => {
                let shown = self.shown_before(tokenizer)?;
                self.longer_text(tokenizer, &shown, true)
            }
            _ => Ok(String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()),
        }
    }

    /// What is out of the text of the tokens before; at the beginning it is the prompt's.
    fn shown_before(&mut self, tokenizer: &Guarded) -> Result<String> {
        if let Some(shown) = &self.shown {
            return Ok(shown.clone());
        }
        self.ids.retain(|&id| tokenizer.spelling(id).is_some());
        let shown = self.shortened(tokenizer)?;
        self.shown = Some(shown.clone());
        Ok(shown)
    }

    /// Whether the next tokens may turn the end of the text into another: half a character is replacement characters as long as it is half.
    fn may_change(&self, tokenizer: &Guarded) -> bool {
        let mut run: Vec<u8> = self.ids.iter().rev().map_while(|&id| byte_token(tokenizer, id)).collect();
        run.reverse();
        // Bytes that are no characters make the whole run none, whatever comes.
        std::str::from_utf8(&run).is_err_and(|error| error.error_len().is_none())
    }

    /// What the tokens together add to the text that is out: spaces can depend on the token before, and characters on several.
    fn longer_text(&mut self, tokenizer: &Guarded, shown: &str, is_end: bool) -> Result<String> {
        let now = tokenizer.decode(&self.ids)?;
        // No character has more than four bytes, and so no more tokens.
        const LONGEST_CHARACTER: usize = 4;
        let is_half = now.ends_with(char::REPLACEMENT_CHARACTER) && self.ids.last().is_some_and(|&id| byte_token(tokenizer, id).is_none());
        if is_half && !is_end && self.held < LONGEST_CHARACTER - 1 {
            self.held += 1;
            return Ok(String::new());
        }
        self.held = 0;
        // Text that is out cannot be taken back: what became of it is given out from where it differs.
        let same: usize = now.chars().zip(shown.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        let added = now[same..].to_owned();
        self.shown = Some(if self.ids.len() > WINDOW { self.shortened(tokenizer)? } else { now });
        Ok(added)
    }

    /// Forgets tokens that what follows cannot depend on, and gives the text of those that are left. A run of bytes stays whole, and with some
    /// text in front no space is taken for the first.
    fn shortened(&mut self, tokenizer: &Guarded) -> Result<String> {
        let mut left = KEPT;
        while left < self.ids.len() {
            let runs_on = |&at: &usize| match byte_token(tokenizer, self.ids[at]) {
                // Better a bad run that is taken for a good one than one that is decoded with every token for good.
                Some(byte) if self.ids.len() - at > LONGEST_RUN => byte & 0xc0 == 0x80,
                Some(_) => true,
                None => false,
            };
            let Some(at) = (1..=self.ids.len() - left).rev().find(|at| !runs_on(at)) else { break };
            let text = tokenizer.decode(&self.ids[at..])?;
            if !text.is_empty() {
                self.ids.drain(..at);
                return Ok(text);
            }
            left = 2 * (self.ids.len() - at);
        }
        tokenizer.decode(&self.ids)
    }
}

/// The byte that a token stands for where characters without a token are spelled in bytes: `<0x0A>`.
fn byte_token(tokenizer: &Guarded, id: u32) -> Option<u8> {
    let spelling = tokenizer.spelling(id)?;
    let digits = spelling.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
    u8::from_str_radix(digits, 16).ok()
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
    use super::{Guarded, Kind, LONGEST_RUN, MAX_TOKENIZER_BYTES, TextCodec, TextDecoder, byte_of, byte_token, take_whole, unpacked};
    use flate2::write::ZlibEncoder;
    use std::io::Write;

    fn byte_level(vocab: &[&str]) -> Kind {
        let vocab: serde_json::Map<_, _> = vocab.iter().zip(0u32..).map(|(token, id)| (token.to_string(), id.into())).collect();
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
            "added_tokens": [{"id": 0, "content": "<end>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": []},
        });
        Kind::ByteLevel(Box::new(Guarded::new(json.to_string().as_bytes(), "m").unwrap()))
    }

    fn decode(kind: &Kind, ids: &[u32]) -> Vec<String> {
        decode_after(kind, &[], ids)
    }

    fn decode_after(kind: &Kind, before: &[u32], ids: &[u32]) -> Vec<String> {
        let mut decoder = TextDecoder { kind, pending: Vec::new(), ids: before.to_vec(), shown: None, held: 0 };
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
        Kind::Other(Box::new(Guarded::new(json.to_string().as_bytes(), "m").unwrap()))
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

    /// Words, spaces, a special token, and all bytes.
    fn with_bytes() -> Kind {
        let words = ["<s>", "▁a", "b", "▁", "é", "▁▁c"].map(str::to_owned);
        let vocab: Vec<String> = words.into_iter().chain((0..=255).map(|byte: u8| format!("<0x{byte:02X}>"))).collect();
        pieces(&vocab.iter().map(String::as_str).collect::<Vec<_>>())
    }

    const FIRST_BYTE: u32 = 6;

    fn byte_ids(text: &str) -> Vec<u32> {
        text.bytes().map(|byte| FIRST_BYTE + u32::from(byte)).collect()
    }

    #[test]
    fn characters_in_bytes_lose_nothing() {
        let kind = with_bytes();
        let [a, b] = [1, 2];
        let bytes = |bytes: &[u8]| -> Vec<u32> { bytes.iter().map(|&byte| FIRST_BYTE + u32::from(byte)).collect() };
        // A prompt in bytes, longer than what is kept of others.
        assert_eq!(decode_after(&kind, &byte_ids("ሰላም"), &[byte_ids("€"), vec![b]].concat()).concat(), "€b");
        assert_eq!(decode_after(&kind, &byte_ids(&"ሰላም".repeat(200)), &[byte_ids("€"), vec![b]].concat()).concat(), "€b");
        // A prompt that ends inside a character.
        assert_eq!(decode_after(&kind, &[b, FIRST_BYTE + 0xe2], &bytes(&[0x82, 0xac])).concat(), "€");
        // Bytes that are no character make all those around them none, and one of them was out.
        let ids = [byte_ids("€"), bytes(&[0xc3]), vec![a, b]].concat();
        assert_eq!(decode_after(&kind, &[b], &ids).concat(), "€\u{fffd}\u{fffd}\u{fffd}\u{fffd} ab");
        let ids = [bytes(&[0x0a, 0xf0]), vec![b, a, b]].concat();
        assert_eq!(decode_after(&kind, &[b], &ids).concat(), "\n\u{fffd}\u{fffd}b ab");
        // A run of bytes without end.
        let long = "ሰላም\n".repeat(LONGEST_RUN / 5);
        assert_eq!(decode(&kind, &byte_ids(&long)).concat(), long);
    }

    /// Draws from a stream of numbers.
    fn draw(x: &mut u64, below: u32) -> u32 {
        *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((*x >> 33) % u64::from(below)) as u32
    }

    /// Words, whole characters in bytes, and now and then bytes that are none.
    fn drawn(x: &mut u64, most: u32, bad: u32) -> Vec<u32> {
        let mut ids = Vec::new();
        for _ in 0..draw(x, most + 1) {
            match draw(x, 8) {
                0..4 => ids.push(draw(x, FIRST_BYTE)),
                4..7 => ids.extend(byte_ids(["€", "\n", "é", "😀", "ሰ"][draw(x, 5) as usize])),
                _ if draw(x, 8) < bad => ids.push(FIRST_BYTE + draw(x, 256)),
                _ => ids.push(2),
            }
        }
        ids
    }

    /// What is given out piece by piece is what decoding everything at once adds to the prompt.
    #[test]
    fn pieces_add_up_to_the_whole_text() {
        let kind = with_bytes();
        let Kind::Other(tokenizer) = &kind else { panic!("not byte-level") };
        let mut x = 1;
        for case in 0..600 {
            let bad = [0, 0, 1, 8][case % 4];
            let (prompt, ids) = (drawn(&mut x, [0, 4, 100][case % 3], bad), drawn(&mut x, [6, 100][case % 2], bad));
            let before = tokenizer.decode(&prompt).unwrap();
            let mut all = prompt.clone();
            all.extend(&ids);
            let whole = tokenizer.decode(&all).unwrap();
            let given = decode_after(&kind, &prompt, &ids).concat();
            if bad == 0 {
                assert_eq!(before + &given, whole, "{prompt:?} {ids:?}");
                continue;
            }
            // The same by the whole text of every step, where bytes turned into something else behind what was out.
            let (mut shown, mut expected) = (before.clone(), String::new());
            let mut give = |all: &[u32]| {
                let now = tokenizer.decode(all).unwrap();
                let same: usize = now.chars().zip(shown.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
                expected += &now[same..];
                shown = now;
            };
            for to in prompt.len() + 1..=all.len() {
                let kept: Vec<u32> = all[..to].iter().copied().filter(|&id| id != 0).collect();
                let run = kept.iter().rev().take_while(|&&id| byte_token(tokenizer, id).is_some()).count();
                let run: Vec<u8> = kept[kept.len() - run..].iter().map(|id| (id - FIRST_BYTE) as u8).collect();
                if all[to - 1] != 0 && !std::str::from_utf8(&run).is_err_and(|e| e.error_len().is_none()) {
                    give(&all[..to]);
                }
            }
            give(&all);
            assert_eq!(given, expected, "{prompt:?} {ids:?}");
            // Nothing is lost: the whole text is what is out, but for what had to be given out again.
            let shown = before + &given;
            let mut letters = shown.chars();
            assert!(whole.chars().all(|letter| letters.any(|l| l == letter)), "{shown:?} {whole:?}");
        }
    }

    /// The library panics on these.
    #[test]
    fn tokenizers_that_panic_are_errors() {
        let load = |key: &str, value: serde_json::Value| {
            let mut json = serde_json::json!({
                "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null, "pre_tokenizer": null,
                "added_tokens": [], "decoder": null, "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
            });
            match key.split_once('.') {
                Some((outer, inner)) => json[outer][inner] = value,
                None => json[key] = value,
            }
            TextCodec::new(Some(json.to_string().as_bytes()), 8, None, None, "m.brook")
        };
        let encoded =
            |key: &str, value: serde_json::Value, text: &str| load(key, value).and_then(|codec| codec.encode(text.as_bytes(), true));
        let error = encoded("pre_tokenizer", serde_json::json!({"type": "FixedLength", "length": 0}), "ab").unwrap_err().to_string();
        assert!(error.starts_with("m.brook: ") && error.contains("fails on this text") && error.contains("quantize again"), "{error}");
        // Here it panics as it loads.
        let charsmap = serde_json::json!({"type": "Precompiled", "precompiled_charsmap": "AAAA//8="});
        let error = encoded("normalizer", charsmap, "ab").unwrap_err().to_string();
        assert!(error.starts_with("m.brook: ") && error.contains("quantize again"), "{error}");
        // A panic elsewhere is still one.
        assert!(std::panic::catch_unwind(|| panic!("told")).is_err());
        // A message that quotes the file is cut.
        let error = TextCodec::new(Some(format!("\"{}\"", "a".repeat(9999)).as_bytes()), 8, None, None, "m").err().unwrap().to_string();
        assert!(error.len() < 600 && error.contains("quantize again"), "{error}");
        // Merges that are dropped at random would give a text many spellings.
        let codec = load("model.dropout", 0.5.into()).unwrap();
        assert!((0..50).all(|_| codec.encode(b"abababab", true).unwrap() == [2, 2, 2, 2]));
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
