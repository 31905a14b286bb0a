//! How byte-level tokenizers split a text before they merge: the kinds that `tokenizer.ggml.pre` names.

/// A kind of pre-tokenizer.
#[derive(Clone, Copy)]
pub(super) struct PreTokenizer {
    /// One after the other; what matches and what lies between matches are pieces of their own.
    pub(super) patterns: &'static [&'static str],
    /// Whether a piece that is a token stays whole, whatever its merges.
    pub(super) ignores_merges: bool,
    /// Whether a text begins with the first token, unless the file says otherwise.
    pub(super) adds_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// Names, patterns, whether merges are ignored, whether a first token is added.
// One kind a line.
#[rustfmt::skip]
const KINDS: &[(&[&str], &[&str], bool, bool)] = &[
    (&["gpt-2", "mpt", "olmo", "phi-2", "jais", "trillion", "granite-docling", "gigachat", "exaone4", "mellum", "a.x-4.0", "modern-bert"], &[GPT2], false, false),
    (&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"], &[r"\p{N}", GPT2], false, false),
    (&["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[LLAMA3], true, true),
    (&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3], false, false),
    (&["glm4"], &[LLAMA3], true, false),
    (&["qwen2", "stablelm2", "deepseek-r1-qwen", "megrez", "hunyuan", "solar-open", "kormo"], &[QWEN2], false, false),
    (&["tekken"], &[TEKKEN], true, true),
    (&["gpt-4o", "llama4", "kanana2", "minimax-m2"], &[GPT4O], false, false),
    (&["deepseek-v3", "hunyuan-dense"], &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3], false, false),
    (&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"], false, false),
    (&["falcon"], &[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"], false, false),
    (&["bloom", "poro-chat", "gpt3-finnish"], &[r" ?[^(\s|.,!?…。，、।۔،)]+"], false, false),
    (&["viking"], &[r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"], false, false),
    (&["default"], &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], false, false),
];

/// The kind of this name.
pub(super) fn named(name: &str) -> Option<PreTokenizer> {
    let (_, patterns, ignores_merges, adds_bos) = KINDS.iter().find(|(names, ..)| names.contains(&name))?;
    Some(PreTokenizer { patterns, ignores_merges: *ignores_merges, adds_bos: *adds_bos })
}

/// The names of all kinds.
pub(super) fn names() -> String {
    KINDS.iter().flat_map(|(names, ..)| names.iter().copied()).collect::<Vec<_>>().join(", ")
}
