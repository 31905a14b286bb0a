//! A linked Thumb program: its functions, which of them call which, and how deep each digs into the stack.
//!
//! Everything is read from the instructions, so that the program looked at is the program shipped: no special build. An address
//! that data or code holds may be called through any pointer; a frame is the sum of all that a function ever takes off the
//! stack pointer. Both can only say too much.

use anyhow::{Context, Result, bail};
use object::{Architecture, Object, ObjectSection, ObjectSymbol, SectionFlags, SectionKind, SymbolKind, elf};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A function, by its place in [`Program::functions`].
pub(crate) type Id = usize;

#[derive(Default)]
pub(crate) struct Function {
    /// Without the hash of its crate.
    pub(crate) name: String,
    /// What it takes off the stack pointer, all pushes and all branches together.
    pub(crate) frame_bytes: u32,
    /// Functions it calls or jumps to by name.
    pub(crate) calls: BTreeSet<Id>,
    /// Whether it calls what a pointer names.
    pub(crate) calls_pointers: bool,
    /// Whether its frame has a size known only when it runs.
    pub(crate) has_dynamic_frame: bool,
}

pub(crate) struct Program {
    pub(crate) functions: Vec<Function>,
    /// Functions whose address is somewhere in data or code: what a call through a pointer may reach.
    pub(crate) pointed_at: BTreeSet<Id>,
    /// Bytes that the program takes in flash, the initial values of its variables included.
    pub(crate) flash_bytes: u64,
    /// Bytes of its variables.
    pub(crate) static_ram_bytes: u64,
    /// Place and length of data objects, by name.
    objects: BTreeMap<String, (u64, u64)>,
    /// The end of its variables in RAM, and where its stack begins.
    static_end: u32,
    stack_start: Option<u32>,
}

/// What a stretch of a code section is.
#[derive(Clone, Copy, PartialEq)]
enum Stretch {
    Code,
    Data,
}

impl Program {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Self::parse(&std::fs::read(path)?).with_context(|| path.display().to_string())
    }

    fn parse(bytes: &[u8]) -> Result<Self> {
        let file = object::File::parse(bytes)?;
        if file.architecture() != Architecture::Arm {
            bail!("is no program for a Cortex-M");
        }
        // Functions by address; several names at one address are one function.
        let mut starts: BTreeMap<u32, (Id, u32)> = BTreeMap::new();
        let mut functions: Vec<Function> = Vec::new();
        let mut marks: BTreeMap<u32, Stretch> = BTreeMap::new();
        let mut objects = BTreeMap::new();
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            let address = symbol.address() as u32;
            match name.get(..2) {
                Some("$t") => drop(marks.insert(address, Stretch::Code)),
                Some("$d") => drop(marks.insert(address, Stretch::Data)),
                _ if symbol.kind() == SymbolKind::Text && symbol.is_definition() && address % 2 == 1 => {
                    let id = starts.entry(address - 1).or_insert((functions.len(), 0));
                    id.1 = id.1.max(symbol.size() as u32);
                    if id.0 == functions.len() {
                        functions.push(Function { name: format!("{:#}", rustc_demangle::demangle(name)), ..Function::default() });
                    }
                }
                _ if symbol.kind() == SymbolKind::Data => {
                    objects.insert(format!("{:#}", rustc_demangle::demangle(name)), (symbol.address(), symbol.size()));
                }
                _ => {}
            }
        }
        let mut program = Program {
            functions,
            pointed_at: BTreeSet::new(),
            flash_bytes: 0,
            static_ram_bytes: 0,
            objects,
            static_end: 0,
            stack_start: None,
        };
        let mut constants = Vec::new();
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags } = section.flags() else { continue };
            if sh_flags & u64::from(elf::SHF_ALLOC) == 0 || section.size() == 0 {
                continue;
            }
            let name = section.name()?;
            // The table of exceptions is the processor's alone.
            let is_table = name == ".vector_table";
            let is_variable = sh_flags & u64::from(elf::SHF_WRITE) != 0;
            let has_bytes = section.kind() != SectionKind::UninitializedData;
            if is_table {
                program.stack_start = section.data()?.first_chunk().map(|word| u32::from_le_bytes(*word));
            }
            if is_variable {
                program.static_ram_bytes += section.size();
                program.static_end = program.static_end.max((section.address() + section.size()) as u32);
            } else if has_bytes {
                constants.push((section.address(), section.address() + section.size()));
            }
            program.flash_bytes += if is_variable && has_bytes { section.size() } else { 0 };
            if section.kind() == SectionKind::Text {
                program.scan_code(section.address() as u32, section.data()?, &starts, &marks)?;
            } else if has_bytes && !is_table {
                program.scan_words(section.data()?, &starts);
            }
        }
        // With what alignment leaves between them.
        constants.sort_unstable();
        if let (Some(first), Some(last)) = (constants.first(), constants.last()) {
            program.flash_bytes += last.1 - first.0;
        }
        Ok(program)
    }

    /// The functions whose names pass, which must be one at least.
    pub(crate) fn find(&self, wanted: impl Fn(&str) -> bool) -> Vec<Id> {
        (0..self.functions.len()).filter(|&id| wanted(&self.functions[id].name)).collect()
    }

    /// RAM that no variable takes, up to where the stack begins.
    pub(crate) fn free_ram(&self) -> Option<std::ops::Range<u32>> {
        Some(self.static_end..self.stack_start?)
    }

    /// Place and length of the data object `name`.
    pub(crate) fn object(&self, name: &str) -> Option<(u64, u64)> {
        self.objects.get(name).copied()
    }

    /// What `id` may call.
    pub(crate) fn callees(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        let function = &self.functions[id];
        let through_pointers = function.calls_pointers.then_some(&self.pointed_at).into_iter().flatten();
        function.calls.iter().chain(through_pointers).copied()
    }

    /// Everything that `root` may reach, each with one of its callers; `root` is its own.
    pub(crate) fn reached_from(&self, root: Id) -> BTreeMap<Id, Id> {
        let mut callers = BTreeMap::from([(root, root)]);
        let mut waiting = std::collections::VecDeque::from([root]);
        while let Some(caller) = waiting.pop_front() {
            for id in self.callees(caller) {
                callers.entry(id).or_insert_with(|| {
                    waiting.push_back(id);
                    caller
                });
            }
        }
        callers
    }

    /// A function's address in a literal or a table.
    fn scan_words(&mut self, bytes: &[u8], starts: &BTreeMap<u32, (Id, u32)>) {
        for word in bytes.as_chunks::<4>().0 {
            let word = u32::from_le_bytes(*word);
            if word % 2 == 1
                && let Some((id, _)) = starts.get(&(word - 1))
            {
                self.pointed_at.insert(*id);
            }
        }
    }

    fn scan_code(
        &mut self,
        section_at: u32,
        bytes: &[u8],
        starts: &BTreeMap<u32, (Id, u32)>,
        marks: &BTreeMap<u32, Stretch>,
    ) -> Result<()> {
        let end = section_at + bytes.len() as u32;
        let in_section: Vec<(u32, Id, u32)> = starts.range(section_at..end).map(|(&at, &(id, size))| (at, id, size)).collect();
        for (place, &(start, id, size)) in in_section.iter().enumerate() {
            // Hand-written functions may have no size: they end where the next begins.
            let next = in_section.get(place + 1).map_or(end, |f| f.0);
            let stop = if size == 0 { next } else { start + size };
            // What registers hold, as far as constants go.
            let mut registers = [None; 16];
            let mut at = start;
            while at + 2 <= stop {
                let offset = (at - section_at) as usize;
                if marks.range(..=at).next_back().is_some_and(|(_, &stretch)| stretch == Stretch::Data) {
                    if at.is_multiple_of(4) {
                        self.scan_words(bytes.get(offset..offset + 4).unwrap_or_default(), starts);
                    }
                    at += 2;
                    continue;
                }
                let half = |o: usize| bytes.get(o..o + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
                let (instruction, length) = decode(half(offset), half(offset + 2));
                let function = &mut self.functions[id];
                match instruction {
                    Instruction::Other => {}
                    Instruction::Branch(distance) => {
                        let target = (at + 4).wrapping_add_signed(distance);
                        // A branch into itself is a loop, one into another function's start a call. Between the two: shared tails.
                        let callee = starts.range(..=target).next_back().map(|(_, &(callee, _))| callee);
                        let callee = callee.with_context(|| format!("{}: jumps to {target:#x}, where nothing is", function.name))?;
                        if callee != id {
                            function.calls.insert(callee);
                        }
                    }
                    Instruction::CallByPointer => function.calls_pointers = true,
                    Instruction::Push(bytes) => function.frame_bytes += bytes,
                    // Large frames come from a constant below zero; one above gives a frame back.
                    Instruction::PushRegister(register) => match registers[register] {
                        Some(constant) => function.frame_bytes += 0u32.saturating_add_signed((constant as i32).saturating_neg()),
                        None => function.has_dynamic_frame = true,
                    },
                    Instruction::Load(register, distance) => {
                        let literal = (((at + 4) & !3) + distance - section_at) as usize;
                        registers[register] = bytes.get(literal..).and_then(|b| b.first_chunk()).map(|b| u32::from_le_bytes(*b));
                    }
                    Instruction::LowHalf(register, value) => registers[register] = Some(u32::from(value)),
                    Instruction::HighHalf(register, value) => {
                        let address = u32::from(value) << 16 | registers[register].unwrap_or(0) & 0xffff;
                        self.scan_words(&address.to_le_bytes(), starts);
                    }
                }
                at += length;
            }
        }
        Ok(())
    }
}

#[derive(Debug, PartialEq)]
enum Instruction {
    /// To `pc + distance`, with or without coming back.
    Branch(i32),
    CallByPointer,
    /// Bytes off the stack pointer.
    Push(u32),
    /// A register added to the stack pointer.
    PushRegister(usize),
    /// A constant so many bytes behind, into a register.
    Load(usize, u32),
    /// The lower half of an address, into a register.
    LowHalf(usize, u16),
    /// Its upper half.
    HighHalf(usize, u16),
    Other,
}

/// One instruction of two or four bytes (Armv7-M Architecture Reference Manual, chapter A5), and its length.
fn decode(first: u16, second: u16) -> (Instruction, u32) {
    let (a, b) = (u32::from(first), u32::from(second));
    if a >> 11 < 0b11101 {
        let instruction = match a {
            _ if a >> 12 == 0b1101 && (a >> 8 & 15) < 14 => Instruction::Branch(signed(a << 1, 9)),
            _ if a >> 11 == 0b11100 => Instruction::Branch(signed(a << 1, 12)),
            _ if a & 0xf500 == 0xb100 => Instruction::Branch((a >> 3 & 0x40 | a >> 2 & 0x3e) as i32),
            _ if a & 0xff87 == 0x4780 => Instruction::CallByPointer,
            // `bx` to anything but the link register is a last call by pointer.
            _ if a & 0xff87 == 0x4700 && a >> 3 & 15 != 14 => Instruction::CallByPointer,
            _ if a & 0xfe00 == 0xb400 => Instruction::Push(4 * (a & 0x1ff).count_ones()),
            _ if a & 0xff80 == 0xb080 => Instruction::Push(4 * (a & 0x7f)),
            // add sp, rm
            _ if a & 0xff87 == 0x4485 => Instruction::PushRegister((a >> 3 & 15) as usize),
            // ldr rt, [pc, #n]
            _ if a >> 11 == 0b01001 => Instruction::Load((a >> 8 & 7) as usize, 4 * (a & 0xff)),
            _ => Instruction::Other,
        };
        return (instruction, 2);
    }
    let sign = a >> 10 & 1;
    let instruction = match (a & 0xf800 == 0xf000, b & 0xd000) {
        (true, 0xd000 | 0x9000) => {
            let (i1, i2) = (!(b >> 13 ^ sign) & 1, !(b >> 11 ^ sign) & 1);
            Instruction::Branch(signed(sign << 24 | i1 << 23 | i2 << 22 | (a & 0x3ff) << 12 | (b & 0x7ff) << 1, 25))
        }
        (true, 0x8000) if (a >> 6 & 15) < 14 => {
            let (j1, j2) = (b >> 13 & 1, b >> 11 & 1);
            Instruction::Branch(signed(sign << 20 | j2 << 19 | j1 << 18 | (a & 0x3f) << 12 | (b & 0x7ff) << 1, 21))
        }
        // stmdb sp!, {..}
        _ if a == 0xe92d => Instruction::Push(4 * b.count_ones()),
        // str rt, [sp, #-n]!
        _ if a == 0xf84d && b & 0x0f00 == 0x0d00 => Instruction::Push(b & 0xff),
        // strd rt, rt2, [sp, #-n]!
        _ if a == 0xe96d => Instruction::Push(4 * (b & 0xff)),
        // vpush
        _ if a & 0xffbf == 0xed2d && b & 0x0e00 == 0x0a00 => Instruction::Push(4 * (b & 0xff)),
        // sub sp, sp, #constant, with and without an encoded constant
        _ if a & 0xfbef == 0xf1ad && b & 0x8f00 == 0x0d00 => Instruction::Push(expand(a >> 10 & 1, b)),
        _ if a & 0xfbff == 0xf2ad && b & 0x8f00 == 0x0d00 => Instruction::Push((a >> 10 & 1) << 11 | (b >> 12 & 7) << 8 | b & 0xff),
        // sub sp, sp, rm: no constant
        _ if a & 0xffef == 0xebad && b & 0x0f00 == 0x0d00 => Instruction::PushRegister(15),
        _ if a & 0xfbf0 == 0xf240 && b & 0x8000 == 0 => Instruction::LowHalf((b >> 8 & 15) as usize, half_of_address(a, b)),
        _ if a & 0xfbf0 == 0xf2c0 && b & 0x8000 == 0 => Instruction::HighHalf((b >> 8 & 15) as usize, half_of_address(a, b)),
        _ => Instruction::Other,
    };
    (instruction, 4)
}

/// The lowest `bits` of `value` with their sign.
fn signed(value: u32, bits: u32) -> i32 {
    ((value << (32 - bits)) as i32) >> (32 - bits)
}

/// The constant of `movw` and `movt`.
fn half_of_address(a: u32, b: u32) -> u16 {
    ((a & 15) << 12 | (a >> 10 & 1) << 11 | (b >> 12 & 7) << 8 | b & 0xff) as u16
}

/// The manual's ThumbExpandImm.
fn expand(i: u32, b: u32) -> u32 {
    let (code, byte) = (i << 3 | b >> 12 & 7, b & 0xff);
    match code {
        0 => byte,
        1 => byte << 16 | byte,
        2 => byte << 24 | byte << 8,
        3 => byte * 0x0101_0101,
        _ => (byte | 0x80).rotate_right(code << 1 | byte >> 7),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_as_llvm_writes_them() {
        let cases = [
            // bl, forwards by 0x209ca (from llvm-objdump)
            ((0xf020, 0xfce5), Instruction::Branch(0x209ca)),
            ((0xe7fe, 0), Instruction::Branch(-4)),
            ((0xd1fe, 0), Instruction::Branch(-4)),
            ((0xb108, 0), Instruction::Branch(2)),
            ((0x47a0, 0), Instruction::CallByPointer),
            ((0x4718, 0), Instruction::CallByPointer),
            ((0x4770, 0), Instruction::Other),
            ((0xb5f0, 0), Instruction::Push(20)),
            ((0xb083, 0), Instruction::Push(12)),
            ((0xe92d, 0x4ff0), Instruction::Push(36)),
            // vpush {d8-d15}
            ((0xed2d, 0x8b10), Instruction::Push(64)),
            // sub.w sp, sp, #3248
            ((0xf5ad, 0x6d4b), Instruction::Push(3248)),
            // subw sp, sp, #1044
            ((0xf2ad, 0x4d14), Instruction::Push(1044)),
            // movw r1, #0x1234; movt r1, #0x2000
            ((0xf241, 0x2134), Instruction::LowHalf(1, 0x1234)),
            ((0xf2c2, 0x0100), Instruction::HighHalf(1, 0x2000)),
        ];
        for ((first, second), want) in cases {
            assert_eq!(decode(first, second).0, want, "{first:04x} {second:04x}");
        }
    }
}
