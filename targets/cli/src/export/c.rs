//! A model as C: a header with its sizes, and its bytes as an array or as an included file.

use super::MARK;
use super::facts::{Facts, Gives, Takes, plain};
use std::fmt::Write;

/// Bytes in one row of the array.
const ROW_BYTES: usize = 20;

fn title(facts: &Facts<'_>) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let card: String = facts.card.iter().map(|line| format!(" * {line}\n")).collect();
    format!("/* {MARK} from {} (Brooklet {version}). Do not edit: export again.\n{card} */\n", plain(facts.source))
}

/// A string literal. What is not plain ASCII, and question marks (which could make trigraphs), become octal escapes, which
/// end after three digits whatever follows.
fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend(['\\', char::from(byte)]),
            b'?' | ..=0x1f | 0x7f.. => {
                let _ = write!(out, "\\{byte:03o}");
            }
            _ => out.push(char::from(byte)),
        }
    }
    out + "\""
}

/// Tables of names: what they are called, how long they are, what they hold.
fn tables<'a>(facts: &'a Facts<'_>, upper: &str) -> Vec<(&'static str, String, &'a [&'a str])> {
    let mut tables = Vec::new();
    if let Takes::Frames { names, units, .. } = &facts.takes {
        tables.push(("channel_names", format!("{upper}_CHANNELS"), names.as_slice()));
        tables.push(("channel_units", format!("{upper}_CHANNELS"), units.as_slice()));
    }
    match &facts.gives {
        Gives::Logits => {}
        Gives::Classes { names } => tables.push(("class_names", format!("{upper}_OUTPUTS"), names.as_slice())),
        Gives::Values { names, units } => {
            tables.push(("value_names", format!("{upper}_OUTPUTS"), names.as_slice()));
            tables.push(("value_units", format!("{upper}_OUTPUTS"), units.as_slice()));
        }
    }
    tables
}

/// The header `NAME.h`, for C99 and C++11 and later.
pub(crate) fn header(facts: &Facts<'_>) -> String {
    let Facts { name, sheet, .. } = facts;
    let upper = name.to_ascii_uppercase();
    let mut text = title(facts);
    let _ = write!(text, "#ifndef BROOKLET_EXPORT_{upper}_H\n#define BROOKLET_EXPORT_{upper}_H\n\n#include <stdint.h>\n");
    let mut constant = |comment: &str, name: &str, value: String| {
        let _ = write!(text, "\n/* {comment} */\n#define {upper}_{name} {value}\n");
    };
    constant("Bytes of the model in flash.", "FLASH_BYTES", unsigned(sheet.file_bytes));
    constant("Bytes of one stream's state.", "STATE_BYTES", unsigned(sheet.state_bytes));
    constant("Bytes of a session's scratch, one step at a time.", "SCRATCH_BYTES", unsigned(sheet.scratch_bytes));
    constant("Bytes of a snapshot of one stream.", "SNAPSHOT_BYTES", unsigned(facts.snapshot_bytes as u64));
    constant("Multiplications with additions of one step, about.", "MACS_PER_STEP", format!("UINT64_C({})", sheet.macs_per_step));
    constant("Number that two different models do not share.", "MODEL_HASH", format!("UINT64_C(0x{:016x})", facts.hash));
    match &facts.takes {
        Takes::Tokens { vocab } => constant("Token ids run from 0 to one less.", "VOCAB", unsigned(u64::from(*vocab))),
        Takes::Frames { names, rate_hz, .. } => {
            constant("Values of a frame.", "CHANNELS", unsigned(names.len() as u64));
            constant("Frames per second that the model was trained at.", "RATE_HZ", format!("{rate_hz:?}f"));
        }
    }
    constant("Numbers that a step gives.", "OUTPUTS", unsigned(facts.outputs as u64));
    for (what, bytes) in [("FLASH", facts.budget.flash_bytes), ("RAM", facts.budget.ram_bytes)] {
        if let Some(bytes) = bytes {
            let bytes = unsigned(bytes);
            let _ = write!(text, "\n#ifndef {upper}_{what}_BUDGET_BYTES\n#define {upper}_{what}_BUDGET_BYTES {bytes}\n#endif\n");
        }
    }
    let _ = write!(
        text,
        "
/* A budget, given here or on the compiler's command line, is held when this is compiled. */
#if defined(__cplusplus)
#define {upper}_ASSERT(condition, name) static_assert(condition, #name)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define {upper}_ASSERT(condition, name) _Static_assert(condition, #name)
#else
#define {upper}_ASSERT(condition, name) typedef char name[(condition) ? 1 : -1]
#endif
#ifdef {upper}_FLASH_BUDGET_BYTES
{upper}_ASSERT({upper}_FLASH_BYTES <= {upper}_FLASH_BUDGET_BYTES, {name}_takes_more_flash_than_it_was_given);
#endif
#ifdef {upper}_RAM_BUDGET_BYTES
{upper}_ASSERT({upper}_STATE_BYTES + {upper}_SCRATCH_BYTES <= {upper}_RAM_BUDGET_BYTES, {name}_takes_more_ram_than_it_was_given);
#endif

#ifdef __cplusplus
extern \"C\" {{
#endif

/* The file, for brooklet_open; on a 64-byte boundary. */
extern const uint8_t {name}_model[{upper}_FLASH_BYTES];
"
    );
    for (table, count, _) in tables(facts, &upper) {
        let _ = writeln!(text, "extern const char *const {name}_{table}[{count}];");
    }
    let _ = write!(text, "\n#ifdef __cplusplus\n}}\n#endif\n\n#endif\n");
    text
}

/// A constant without a sign.
fn unsigned(number: u64) -> String {
    if u32::try_from(number).is_ok() { format!("{number}u") } else { format!("UINT64_C({number})") }
}

/// The source `NAME.c`, which a C++ compiler takes as well; without an `array`, the model comes from [`assembly`].
pub(crate) fn source(facts: &Facts<'_>, array: Option<&[u8]>) -> String {
    let name = facts.name;
    let upper = name.to_ascii_uppercase();
    let mut text = title(facts);
    let _ = writeln!(text, "#include \"{name}.h\"");
    for (table, count, names) in tables(facts, &upper) {
        let _ = writeln!(text, "\nconst char *const {name}_{table}[{count}] = {{");
        for name in names {
            let _ = writeln!(text, "    {},", literal(name));
        }
        text += "};\n";
    }
    let Some(bytes) = array else { return text };
    let _ = write!(
        text,
        "
/* Weights are used where they lie: they must be on a 64-byte boundary. */
#if defined(__cplusplus)
#define {upper}_ALIGN alignas(64)
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 201112L
#define {upper}_ALIGN _Alignas(64)
#elif defined(_MSC_VER)
#define {upper}_ALIGN __declspec(align(64))
#else
#define {upper}_ALIGN __attribute__((aligned(64)))
#endif

{upper}_ALIGN const uint8_t {name}_model[{upper}_FLASH_BYTES] = {{
"
    );
    text.reserve(bytes.len() * 5 + bytes.len() / ROW_BYTES * 5);
    for row in bytes.chunks(ROW_BYTES) {
        text += "    ";
        for byte in row {
            let _ = write!(text, "0x{byte:02x},");
        }
        text.push('\n');
    }
    text += "};\n";
    text
}

/// The assembly `NAME.S`, for the GNU assembler and ELF, beside NAME.brook.
pub(crate) fn assembly(facts: &Facts<'_>) -> String {
    let name = facts.name;
    format!(
        "{}
    .section .rodata.{name}_model, \"a\"
    .balign 64
    .global {name}_model
    .type {name}_model, %object
{name}_model:
    .incbin \"{name}.brook\"
    .size {name}_model, . - {name}_model

    .section .note.GNU-stack, \"\", %progbits
",
        title(facts)
    )
}

#[cfg(test)]
mod tests {
    use super::literal;

    #[test]
    fn literals_are_plain_ascii() {
        assert_eq!(literal("a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(literal("m/s²??/1\t"), r#""m/s\302\262\077\077/1\011""#);
    }
}
