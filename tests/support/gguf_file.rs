//! GGUF files put together field by field, so that any field can be a lie.

/// A file in parts.
#[derive(Clone)]
pub struct GgufFile {
    /// Format version.
    pub version: u32,
    /// What the header says of the number of entries, if not the truth.
    pub entry_count: Option<u64>,
    /// The same of tensors.
    pub tensor_count: Option<u64>,
    /// Key, type, bytes.
    pub entries: Vec<(Vec<u8>, u32, Vec<u8>)>,
    /// The table of tensors.
    pub tensors: Vec<GgufTensor>,
    /// Behind the last tensor.
    pub tail: Vec<u8>,
}

/// A tensor; its sizes have the fastest first.
#[derive(Clone)]
pub struct GgufTensor {
    /// Name.
    pub name: Vec<u8>,
    /// What the table says of the number of sizes, if not the truth.
    pub dim_count: Option<u32>,
    /// Sizes.
    pub dims: Vec<u64>,
    /// Block type.
    pub kind: u32,
    /// Where its bytes begin, if not behind the last one's.
    pub offset: Option<u64>,
    /// Bytes.
    pub data: Vec<u8>,
}

/// A text as the format has it: length and bytes.
pub fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u64).to_le_bytes(), bytes].concat()
}

/// A list's type, length and items.
pub fn list(kind: u32, count: u64, items: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), items].concat()
}

/// A list of texts.
pub fn texts(all: &[&str]) -> Vec<u8> {
    list(8, all.len() as u64, &all.iter().flat_map(|t| text(t.as_bytes())).collect::<Vec<u8>>())
}

impl GgufFile {
    /// An empty file.
    pub fn new() -> Self {
        GgufFile { version: 3, entry_count: None, tensor_count: None, entries: Vec::new(), tensors: Vec::new(), tail: Vec::new() }
    }

    /// Sets a key of any type.
    pub fn set(&mut self, key: &str, kind: u32, bytes: Vec<u8>) {
        self.entries.retain(|(k, ..)| k != key.as_bytes());
        self.entries.push((key.as_bytes().to_vec(), kind, bytes));
    }

    /// Sets a `u32`.
    pub fn whole(&mut self, key: &str, value: u32) {
        self.set(key, 4, value.to_le_bytes().to_vec());
    }

    /// Sets an `f32`.
    pub fn number(&mut self, key: &str, value: f32) {
        self.set(key, 6, value.to_le_bytes().to_vec());
    }

    /// Sets a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.set(key, 8, text(value.as_bytes()));
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &str) {
        self.entries.retain(|(k, ..)| k != key.as_bytes());
    }

    /// Adds a tensor of type F32 with small numbers.
    pub fn add(&mut self, name: &str, dims: &[u64]) {
        let count: u64 = dims.iter().product();
        let data = (0..count).flat_map(|i| (((i * 37 % 41) as f32 - 20.5) / 100.0).to_le_bytes()).collect();
        self.tensors.push(GgufTensor { name: name.as_bytes().to_vec(), dim_count: None, dims: dims.to_vec(), kind: 0, offset: None, data });
    }

    /// The tensor `name`.
    pub fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors.iter_mut().find(|t| t.name == name.as_bytes()).unwrap()
    }

    /// The same model in `count` files, as llama.cpp's tool cuts it: the first has the metadata, each some of the tensors.
    pub fn parts(&self, count: usize) -> Vec<GgufFile> {
        let each = self.tensors.len().div_ceil(count);
        let part = |number: usize| {
            let mut part = if number == 0 { self.clone() } else { GgufFile::new() };
            part.tensors = self.tensors.iter().skip(number * each).take(each).cloned().collect();
            for (key, value) in [("split.no", number), ("split.count", count)] {
                part.set(key, 2, (value as u16).to_le_bytes().to_vec());
            }
            part.set("split.tensors.count", 5, (self.tensors.len() as i32).to_le_bytes().to_vec());
            part
        };
        (0..count).map(part).collect()
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        for (key, kind, bytes) in &self.entries {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        }
        let mut offset = 0u64;
        let mut data = Vec::new();
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            out.extend(tensor.dim_count.unwrap_or(tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(offset).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
            offset = data.len() as u64;
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out.extend(&self.tail);
        out
    }

    /// A Llama of one layer with a byte-level tokenizer of four tokens.
    pub fn llama() -> Self {
        let mut file = GgufFile::new();
        file.text("general.architecture", "llama");
        for (key, value) in [("block_count", 1), ("embedding_length", 8), ("feed_forward_length", 12), ("context_length", 64)] {
            file.whole(&format!("llama.{key}"), value);
        }
        file.whole("llama.attention.head_count", 2);
        file.whole("llama.attention.head_count_kv", 1);
        file.number("llama.attention.layer_norm_rms_epsilon", 1e-5);
        file.number("llama.rope.freq_base", 1e4);
        file.text("tokenizer.ggml.model", "gpt2");
        file.text("tokenizer.ggml.pre", "gpt-2");
        file.set("tokenizer.ggml.tokens", 9, texts(&["a", "b", "ab", "<end>"]));
        file.set("tokenizer.ggml.token_type", 9, list(5, 4, &[1i32, 1, 1, 3].map(i32::to_le_bytes).concat()));
        file.set("tokenizer.ggml.merges", 9, texts(&["a b"]));
        file.whole("tokenizer.ggml.eos_token_id", 3);
        file.add("token_embd.weight", &[8, 4]);
        file.add("output_norm.weight", &[8]);
        for (name, dims) in [
            ("attn_norm", &[8][..]),
            ("attn_q", &[8, 8]),
            ("attn_k", &[8, 4]),
            ("attn_v", &[8, 4]),
            ("attn_output", &[8, 8]),
            ("ffn_norm", &[8]),
            ("ffn_gate", &[8, 12]),
            ("ffn_up", &[8, 12]),
            ("ffn_down", &[12, 8]),
        ] {
            file.add(&format!("blk.0.{name}.weight"), dims);
        }
        file
    }

    /// A Mamba-2 of one layer without a tokenizer.
    pub fn mamba2() -> Self {
        let mut file = GgufFile::new();
        file.text("general.architecture", "mamba2");
        for (key, value) in [("block_count", 1), ("embedding_length", 8), ("ssm.conv_kernel", 4), ("ssm.inner_size", 16)] {
            file.whole(&format!("mamba2.{key}"), value);
        }
        for (key, value) in [("ssm.state_size", 6), ("ssm.time_step_rank", 4), ("ssm.group_count", 2)] {
            file.whole(&format!("mamba2.{key}"), value);
        }
        file.number("mamba2.attention.layer_norm_rms_epsilon", 1e-5);
        file.add("token_embd.weight", &[8, 4]);
        file.add("output_norm.weight", &[8]);
        for (name, dims) in [
            ("attn_norm.weight", &[8][..]),
            ("ssm_in.weight", &[8, 60]),
            ("ssm_conv1d.weight", &[4, 40]),
            ("ssm_conv1d.bias", &[40]),
            ("ssm_dt.bias", &[4]),
            ("ssm_a", &[1, 4]),
            ("ssm_d", &[1, 4]),
            ("ssm_norm.weight", &[8, 2]),
            ("ssm_out.weight", &[16, 8]),
        ] {
            file.add(&format!("blk.0.{name}"), dims);
        }
        file.tensor("blk.0.ssm_a").data = [-1.0f32, -2.0, -0.5, -4.0].map(f32::to_le_bytes).concat();
        file
    }
}

impl Default for GgufFile {
    fn default() -> Self {
        Self::new()
    }
}
