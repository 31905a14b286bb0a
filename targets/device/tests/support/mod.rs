//! A NOR flash in memory that loses power, and streams to keep in it.
#![allow(dead_code)] // Each test takes what it needs.

use brooklet::{Line, Model, Session, State, kernels};
use brooklet_device::embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use brooklet_quantize::Recipe;
use brooklet_tests::{Buffers, File, Sequence, family_fixtures};

/// What reads find in a word whose write was cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Torn {
    /// Some bits, always the same.
    Settled,
    /// A read error, as flash with error correction gives.
    Unreadable,
    /// Other bits with every read.
    Unsteady,
}

/// Pieces of an erase that power can be cut between.
const ERASE_UNITS: u64 = 8;

/// Flash with words of `R` (read) and `W` (written) bytes and blocks of `E`. Panics if a word is written twice.
#[derive(Clone)]
pub(crate) struct MockFlash<const R: usize, const W: usize, const E: usize> {
    pub(crate) bytes: Vec<u8>,
    /// Per word: written since its block was erased, if only in part.
    written: Vec<bool>,
    torn_words: Vec<bool>,
    torn: Torn,
    /// Words and pieces of erases until power goes.
    left: Option<u64>,
    is_off: bool,
    /// Words written and pieces of erases done so far.
    pub(crate) units: u64,
    /// Per block.
    pub(crate) erases: Vec<u32>,
    /// A block that takes no writes.
    pub(crate) bad_block: Option<usize>,
    random: Random,
}

impl<const R: usize, const W: usize, const E: usize> MockFlash<R, W, E> {
    /// A flash of `blocks` blocks as it comes from the factory.
    pub(crate) fn new(blocks: usize, torn: Torn, seed: u64) -> Self {
        MockFlash {
            bytes: vec![0xff; blocks * E],
            written: vec![false; blocks * E / W],
            torn_words: vec![false; blocks * E / W],
            torn,
            left: None,
            is_off: false,
            units: 0,
            erases: vec![0; blocks],
            bad_block: None,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        }
    }

    /// Cuts power after `units` more words and pieces of erases, within the next.
    pub(crate) fn cut_after(&mut self, units: u64, seed: u64) {
        self.left = Some(units);
        self.random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    }

    /// Power comes back.
    pub(crate) fn restart(&mut self) {
        self.left = None;
        self.is_off = false;
    }

    /// Whether power is gone.
    pub(crate) fn is_off(&self) -> bool {
        self.is_off
    }

    fn check_power(&self) -> Result<(), NorFlashErrorKind> {
        if self.is_off { Err(NorFlashErrorKind::Other) } else { Ok(()) }
    }

    /// Takes up to `units` from what is left until the cut; returns how many there were.
    fn spend(&mut self, units: u64) -> u64 {
        let spent = self.left.map_or(units, |left| left.min(units));
        if let Some(left) = &mut self.left {
            *left -= spent;
        }
        self.units += spent;
        self.is_off = spent < units;
        spent
    }

    fn write_word(&mut self, word: usize, new: &[u8]) {
        assert!(!self.written[word], "word {word} is written twice without an erase");
        self.written[word] = true;
        if self.bad_block != Some(word * W / E) {
            self.bytes[word * W..][..W].copy_from_slice(new);
        }
    }

    /// A word that was being written when power went.
    fn tear_word(&mut self, word: usize, new: &[u8]) {
        assert!(!self.written[word], "word {word} is written twice without an erase");
        self.written[word] = true;
        self.torn_words[word] = true;
        let mode = self.random.below(5);
        let first = self.random.below(W as u64 + 1) as usize;
        for (i, &new) in new.iter().enumerate() {
            let at = word * W + i;
            let random = self.random.next() as u8;
            self.bytes[at] = match mode {
                0 => self.bytes[at],                  // nothing happened yet
                1 => new,                             // all of it, only the driver never knew
                2 => self.bytes[at] & (new | random), // some bits fell
                3 if i < first => new,                // some bytes are done
                3 => self.bytes[at],
                _ => random, // undefined, as the trait says
            };
        }
    }
}

impl<const R: usize, const W: usize, const E: usize> ErrorType for MockFlash<R, W, E> {
    type Error = NorFlashErrorKind;
}

impl<const R: usize, const W: usize, const E: usize> ReadNorFlash for MockFlash<R, W, E> {
    const READ_SIZE: usize = R;

    fn read(&mut self, at: u32, out: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, at, out.len())?;
        self.check_power()?;
        let at = at as usize;
        out.copy_from_slice(&self.bytes[at..at + out.len()]);
        for word in at / W..(at + out.len()).div_ceil(W) {
            if !self.torn_words[word] {
                continue;
            }
            match self.torn {
                Torn::Settled => {}
                Torn::Unreadable => return Err(NorFlashErrorKind::Other),
                Torn::Unsteady => {
                    let places = (word * W).max(at)..((word + 1) * W).min(at + out.len());
                    for place in places {
                        if self.random.below(W as u64 * 2) == 0 {
                            out[place - at] ^= 1 << self.random.below(8);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const R: usize, const W: usize, const E: usize> NorFlash for MockFlash<R, W, E> {
    const WRITE_SIZE: usize = W;
    const ERASE_SIZE: usize = E;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        self.check_power()?;
        for block in from as usize / E..to as usize / E {
            let spent = self.spend(ERASE_UNITS);
            let (place, words) = (block * E..(block + 1) * E, block * E / W..(block + 1) * E / W);
            if !self.is_off {
                self.bytes[place].fill(0xff);
                self.written[words.clone()].fill(false);
                self.torn_words[words].fill(false);
                self.erases[block] += 1;
                continue;
            }
            // Every word must be erased again, whatever it reads as.
            self.written[words.clone()].fill(true);
            if spent > 0 {
                self.torn_words[words].fill(true);
            }
            let mode = self.random.below(4);
            let done = E * spent as usize / ERASE_UNITS as usize;
            for (i, at) in place.enumerate() {
                let random = self.random.next();
                match mode {
                    _ if spent == 0 => {}
                    0 if random % ERASE_UNITS < spent => self.bytes[at] |= (random >> 32) as u8, // bits rise one by one
                    1 if i < done => self.bytes[at] = 0xff,                                      // from the front
                    2 => self.bytes[at] = 0xff,                                                  // all of it reads as erased, and is not
                    3 => self.bytes[at] = (random >> 8) as u8,                                   // undefined, as the trait says
                    _ => {}
                }
            }
            return Err(NorFlashErrorKind::Other);
        }
        self.check_power()
    }

    fn write(&mut self, at: u32, new: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, at, new.len())?;
        self.check_power()?;
        let (first, words) = (at as usize / W, new.len() / W);
        let spent = self.spend(words as u64) as usize;
        let word_of = |i: usize| &new[i * W..(i + 1) * W];
        if !self.is_off {
            (0..words).for_each(|i| self.write_word(first + i, word_of(i)));
            return Ok(());
        }
        if self.random.below(4) == 0 {
            // The words of one write come in no order.
            for i in 0..words {
                match self.random.below(3) {
                    0 => {}
                    1 => self.write_word(first + i, word_of(i)),
                    _ => self.tear_word(first + i, word_of(i)),
                }
            }
        } else {
            (0..spent).for_each(|i| self.write_word(first + i, word_of(i)));
            self.tear_word(first + spent, word_of(spent));
        }
        Err(NorFlashErrorKind::Other)
    }
}

/// Numbers that look random, and are the same in every run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A model made from a fixture.
pub(crate) fn fixture(name: &str, recipe: &Recipe) -> File {
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with(name)).unwrap_or_else(|| panic!("no fixture {name}"));
    File::quantized(&dir, recipe)
}

/// The bundled sensor model.
pub(crate) fn watch() -> File {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/watch.brook");
    File::new(&std::fs::read(path).unwrap())
}

/// A stream at some step, and the outputs of its next steps.
pub(crate) struct Moment {
    pub(crate) position: u64,
    pub(crate) bytes: Vec<u8>,
    next: Vec<f32>,
}

const NEXT_STEPS: usize = 3;

/// `count` moments of one stream of `model`, some steps apart.
pub(crate) fn moments(model: &Model<'_>, count: usize) -> Vec<Moment> {
    let input = Sequence::noise(model, count * 2 + NEXT_STEPS, 5);
    let mut buffers = Buffers::new(model, 1);
    let mut state = State::new(model, Line::bytes_mut(&mut buffers.state)).unwrap();
    let mut out = Vec::new();
    let mut kept = Vec::new();
    for step in 0..input.steps() {
        if step % 2 == 1 && step / 2 < count {
            kept.push((state.position(), state.bytes().to_vec()));
        }
        let mut session = Session::new(model, kernels::detect(), &mut state, Line::bytes_mut(&mut buffers.scratch)).unwrap();
        input.feed(&mut session, step..step + 1, &mut out);
    }
    let next = |position: u64| out[position as usize * model.outputs()..][..NEXT_STEPS * model.outputs()].to_vec();
    kept.into_iter().map(|(position, bytes)| Moment { position, next: next(position), bytes }).collect()
}

impl Moment {
    /// Whether `state` is this moment, to the bit.
    pub(crate) fn is(&self, state: &State<'_>) -> bool {
        self.position == state.position() && self.bytes == state.bytes()
    }

    /// Sets `state` to this moment.
    pub(crate) fn put(&self, state: &mut State<'_>) {
        let filled: Result<(), ()> = state.refill(self.position, |bytes| {
            bytes.copy_from_slice(&self.bytes);
            Ok(())
        });
        filled.unwrap();
    }

    /// Steps on from `state` and compares the outputs with those of the stream that was never interrupted.
    pub(crate) fn goes_on(&self, model: &Model<'_>, state: &mut State<'_>, scratch: &mut [u8], count: usize) {
        let input = Sequence::noise(model, count * 2 + NEXT_STEPS, 5);
        let mut session = Session::new(model, kernels::detect(), state, scratch).unwrap();
        let mut out = Vec::new();
        let from = self.position as usize;
        input.feed(&mut session, from..from + NEXT_STEPS, &mut out);
        assert!(out.iter().zip(&self.next).all(|(a, b)| a.to_bits() == b.to_bits()), "position {from}");
    }
}
