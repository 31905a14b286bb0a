//! `brooklet inspect`: what is in a file, and what memory it takes.

use crate::firmware::Firmware;
use crate::model_file::ModelFile;
use crate::sheet::{Sheet, grouped, short};
use anyhow::Result;
use brooklet::Model;
use brooklet::artifact::{Artifact, InputSpec, Keep, OutputSpec, Section, Slot, SlotKind};
use brooklet::ops::{Op, Policy, Span};
use brooklet::plan::slot_bytes;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  brooklet inspect model.brook
  brooklet inspect model.brook --tensors --ops
  brooklet inspect model.brook --json";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Model (.brook)
    model: PathBuf,
    /// List the operations of a step, with their operands and state slots
    #[arg(long)]
    ops: bool,
    /// List the tensors
    #[arg(long)]
    tensors: bool,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let file = ModelFile::open(&args.model)?;
    let model = file.model()?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", as_json(&model))?;
        return Ok(());
    }
    print_card(&model, &mut out)?;
    print_summary(&model, &mut out)?;
    if args.tensors {
        print_tensors(&model, &mut out)?;
    }
    if args.ops {
        print_ops(&model, &mut out)?;
    }
    writeln!(out)?;
    let sheet = Sheet::of(&model);
    sheet.print(&mut out)?;
    Firmware::print(&sheet, &mut out)?;
    writeln!(out, "\nNext:\n  {}", next_step(&model, &file.name()))?;
    Ok(())
}

/// How to use a model of this kind.
pub(crate) fn next_step(model: &Model<'_>, name: &str) -> String {
    let name = if name.contains(|c: char| c.is_whitespace() || "'\"$&();|<>*?`\\".contains(c)) {
        &format!("'{}'", name.replace('\'', "'\\''"))
    } else {
        name
    };
    match model.header().input {
        InputSpec::Tokens { .. } => format!("brooklet run {name} --prompt \"Once upon a time\""),
        InputSpec::Frames { .. } => format!("brooklet stream {name} recording.csv"),
    }
}

fn print_card(model: &Model<'_>, out: &mut dyn Write) -> io::Result<()> {
    let card = model.header().card;
    let facts = [("name", card.name), ("family", card.family), ("source", card.source), ("licence", card.license)];
    for (what, text) in facts.into_iter().filter(|(_, text)| !text.is_empty()) {
        writeln!(out, "{what:<10} {text}")?;
    }
    match model.header().input {
        InputSpec::Tokens { vocab, bos, eos, tokenizer } => {
            let token = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
            let kind = if tokenizer.is_some() { "tokenizer inside" } else { "ids are bytes" };
            writeln!(out, "{:<10} tokens: {vocab} ids, {kind}, begin {}, end {}", "input", token(bos), token(eos))?;
        }
        InputSpec::Frames { channels, units, rate_hz } => {
            writeln!(out, "{:<10} frames at {rate_hz} Hz: {}", "input", with_units(channels, units))?;
            if let Some(policy) = model.plan().missing {
                let stands_in = match policy {
                    Policy::Hold { .. } => "the channel's last one stands in",
                    Policy::Mean => "the channel's mean stands in",
                    Policy::Zero { .. } => "zero stands in",
                };
                writeln!(out, "{:<10} \"{}\": for a missing sample (NaN) {stands_in}", "missing", policy.name())?;
            }
        }
    }
    match model.header().output {
        OutputSpec::Logits { count } => writeln!(out, "{:<10} {count} logits", "output"),
        OutputSpec::Classes { names } => writeln!(out, "{:<10} classes: {}", "output", names.lines().collect::<Vec<_>>().join(", ")),
        OutputSpec::Values { names, units } => writeln!(out, "{:<10} values: {}", "output", with_units(names, units)),
    }
}

/// Names and units, of which there is one per line; the middle of a long list is left out.
fn with_units(names: &str, units: &str) -> String {
    const MOST: usize = 64;
    let named: Vec<String> = names.lines().zip(units.lines()).map(|(name, unit)| format!("{name} [{unit}]")).collect();
    match named.as_slice() {
        [first, second, .., last] if named.len() > MOST => format!("{first}, {second}, .. {last} ({} in all)", named.len()),
        all => all.join(", "),
    }
}

fn print_summary(model: &Model<'_>, out: &mut dyn Write) -> io::Result<()> {
    let mut formats = BTreeMap::<&str, (u32, u64)>::new();
    for section in sections(model.artifact()) {
        let (count, bytes) = formats.entry(section.content.name()).or_default();
        *count += 1;
        *bytes += section.content.bytes(section.rows, section.cols).unwrap_or(0);
    }
    let mut ops = BTreeMap::<&str, u32>::new();
    for op in model.header().program.iter().flatten() {
        *ops.entry(op.name()).or_default() += 1;
    }
    let formats: Vec<String> = formats.into_iter().map(|(name, (count, bytes))| format!("{count} {name} ({})", short(bytes))).collect();
    let ops: Vec<String> = ops.into_iter().map(|(name, count)| format!("{count} {name}")).collect();
    writeln!(out, "{:<10} {}", "tensors", formats.join(", "))?;
    writeln!(out, "{:<10} {}", "operations", ops.join(", "))?;
    match model.plan().context {
        Some(positions) => writeln!(out, "{:<10} a step is refused after {positions} positions", "stream"),
        None => writeln!(out, "{:<10} may go on for ever", "stream"),
    }?;
    match (model.plan().delay_steps, model.header().input) {
        (0, _) => Ok(()),
        (steps, InputSpec::Frames { rate_hz, .. }) => {
            let late = f64::from(steps) / f64::from(rate_hz) * 1e3;
            writeln!(out, "{:<10} {steps} steps ({late:.1} ms): an output is about the frame of so many steps before", "delay")
        }
        (steps, InputSpec::Tokens { .. }) => writeln!(out, "{:<10} {steps} steps", "delay"),
    }
}

fn sections<'a>(artifact: &Artifact<'a>) -> impl Iterator<Item = Section> + use<'a> {
    let artifact = *artifact;
    (0..artifact.header().sections.count).filter_map(move |i| artifact.section(i))
}

fn slots(model: &Model<'_>) -> Vec<Slot> {
    let slots = model.header().slots;
    (0..slots.count).filter_map(|i| slots.get(i)).collect()
}

fn print_tensors(model: &Model<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n{:>5}  {:<6} {:>16} {:>14}  tensor", "id", "format", "shape", "bytes")?;
    for (id, section) in sections(model.artifact()).enumerate() {
        let shape = format!("{} x {}", section.rows, section.cols);
        let bytes = grouped(section.content.bytes(section.rows, section.cols).unwrap_or(0));
        let name = model.artifact().name_of(&section).unwrap_or("?");
        writeln!(out, "{id:>5}  {:<6} {shape:>16} {bytes:>14}  {name}", section.content.name())?;
    }
    Ok(())
}

/// A span as a range of the token's frame.
struct Place(Span);

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}..{}]", self.0.at, u64::from(self.0.at) + u64::from(self.0.len))
    }
}

fn print_ops(model: &Model<'_>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\n{:>5}  {:>14}  operation (w, weight, bias, a, d: tensor ids; [a..b]: places in the token's frame of {} numbers)",
        "step",
        "MACs",
        model.header().frame_len
    )?;
    for (i, op) in model.header().program.iter().flatten().enumerate() {
        // `Norm(Norm { .. })`: the name once is enough.
        let text = format!("{:?}", op.map(|span, _| Place(span)));
        let text = text.split_once('(').map_or(text.as_str(), |(_, inner)| inner.strip_suffix(')').unwrap_or(inner));
        writeln!(out, "{i:>5}  {:>14}  {text}", grouped(op.macs(model.artifact())))?;
    }
    writeln!(out, "\n{:>5}  {:>10} {:>12}  state slot", "slot", "at", "bytes")?;
    for (i, slot) in slots(model).iter().enumerate() {
        writeln!(out, "{i:>5}  {:>10} {:>12}  {}", slot.at, slot_bytes(slot).unwrap_or(0), describe(slot))?;
    }
    Ok(())
}

fn describe(slot: &Slot) -> String {
    let kind = match slot.kind {
        SlotKind::Numbers => return format!("{} numbers", slot.capacity),
        SlotKind::NumbersF16 => return format!("{} numbers in f16", slot.capacity),
        SlotKind::CacheF32 => "f32",
        SlotKind::CacheInt8 => "int8",
        SlotKind::CacheInt4 => "int4",
    };
    let full = match slot.keep {
        Keep::Stop => "then steps are refused".to_owned(),
        Keep::SinkAndWindow => format!("then the first {} and the latest stay", slot.sink),
    };
    format!("attention cache, {} positions of {} x {} in {kind}, {full}", slot.capacity, slot.heads, slot.head_dim)
}

fn as_json(model: &Model<'_>) -> Value {
    let header = model.header();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let input = match header.input {
        InputSpec::Tokens { vocab, bos, eos, tokenizer } => {
            json!({ "tokens": vocab, "bos": bos, "eos": eos, "tokenizer": tokenizer.is_some() })
        }
        InputSpec::Frames { channels, units, rate_hz } => json!({
            "channels": lines(channels), "units": lines(units), "rate_hz": rate_hz,
            "missing": model.plan().missing.map(|policy| policy.name()),
        }),
    };
    let output = match header.output {
        OutputSpec::Logits { count } => json!({ "logits": count }),
        OutputSpec::Classes { names } => json!({ "classes": lines(names) }),
        OutputSpec::Values { names, units } => json!({ "values": lines(names), "units": lines(units) }),
    };
    let tensor = |s: Section| {
        json!({
            "name": model.artifact().name_of(&s), "rows": s.rows, "cols": s.cols, "format": s.content.name(),
            "bytes": s.content.bytes(s.rows, s.cols), "crc32": s.crc32,
        })
    };
    let op = |op: Op| json!({ "op": op.name(), "macs": op.macs(model.artifact()), "operands": op });
    json!({
        "card": header.card,
        "hash": format!("{:016x}", model.artifact().hash()),
        "input": input,
        "output": output,
        "context": model.plan().context,
        "delay_steps": model.plan().delay_steps,
        "memory": Sheet::of(model),
        "firmware": Firmware::of(&Sheet::of(model)),
        "tensors": sections(model.artifact()).map(tensor).collect::<Vec<_>>(),
        "program": header.program.iter().flatten().map(op).collect::<Vec<_>>(),
        "slots": slots(model).iter().map(|s| json!({ "at": s.at, "bytes": slot_bytes(s), "holds": describe(s) })).collect::<Vec<_>>(),
    })
}
