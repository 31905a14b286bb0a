//! Whether a stream is well: numbers that stay finite and in bounds, outputs that move.
//!
//! Every check is cheap enough for every step, but that of the state, which runs every so many. Activations that enter a matrix
//! are rounded to 8 bits with a scale of their own, so there is no clipping there to count.

use crate::snapshots::{Restored, SnapshotStore};
use brooklet::{Model, Session, State};
use embedded_storage::nor_flash::NorFlash;

/// What is still well, and what to do when it is not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Outputs beyond this, in either direction, are saturated.
    pub output: f32,
    /// Numbers of the state beyond this, in either direction, are saturated. Those that a model keeps in half precision are where that
    /// ends, at 65504.
    pub state: f32,
    /// Outputs that repeat to the bit in this many steps are stuck; 0 if they may. An input that stands still can do this too.
    pub stuck_steps: u32,
    /// Steps from one look at the state to the next; 0 for never.
    pub scan_every: u32,
    /// What to do about numbers that are not finite.
    pub on_not_finite: Remedy,
    /// What to do about saturated numbers.
    pub on_saturated: Remedy,
    /// What to do about outputs that are stuck.
    pub on_stuck: Remedy,
}

impl Default for Limits {
    /// Not finite: back to the snapshot. Beyond 10^4 (outputs) and 10^6 (state): report. No limit on repeating outputs. A look at
    /// the state every 64 steps.
    fn default() -> Self {
        Limits {
            output: 1e4,
            state: 1e6,
            stuck_steps: 0,
            scan_every: 64,
            on_not_finite: Remedy::RestoreSnapshot,
            on_saturated: Remedy::Report,
            on_stuck: Remedy::Report,
        }
    }
}

/// What to do about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Say so and go on.
    Report,
    /// Begin the stream anew.
    Reset,
    /// Go back to the newest good snapshot; anew, if there is none that is well.
    RestoreSnapshot,
}

/// What is wrong with a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// An output is infinite or no number.
    OutputNotFinite {
        /// Which one.
        index: usize,
    },
    /// An output is beyond [`Limits::output`].
    OutputSaturated {
        /// Which one.
        index: usize,
    },
    /// A number of the state is infinite or no number.
    StateNotFinite,
    /// A number of the state is beyond [`Limits::state`].
    StateSaturated,
    /// The outputs repeat.
    OutputsStuck {
        /// In how many steps.
        steps: u32,
    },
}

/// What a step shows.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use]
pub enum Verdict {
    /// Nothing wrong.
    Well,
    /// A fault, and what the limits say to do about it.
    Ill {
        /// The fault.
        fault: Fault,
        /// For [`Health::heal`].
        remedy: Remedy,
    },
}

/// What has happened since the device started. For reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps looked at.
    pub steps: u64,
    /// Steps with an output that was not finite.
    pub outputs_not_finite: u32,
    /// Steps with an output beyond its limit.
    pub outputs_saturated: u32,
    /// Looks at the state that found a number that was not finite.
    pub states_not_finite: u32,
    /// Looks at the state that found a number beyond its limit.
    pub states_saturated: u32,
    /// Times that outputs were found stuck.
    pub stuck: u32,
    /// Streams begun anew.
    pub resets: u32,
    /// Streams restored.
    pub restores: u32,
}

/// What became of an ill stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Healed {
    /// It goes on as it is.
    AsItIs,
    /// It began anew.
    Reset,
    /// It continues from a snapshot.
    Restored(Restored),
}

/// Watches one stream.
///
/// ```
/// # use brooklet::{Input, Line, Model, Session, State, kernels};
/// use brooklet_device::{Health, Limits, Verdict};
/// # let file = brooklet::mem::MappedFile::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/models/watch.brook"))?;
/// # let model = Model::from_bytes(file.bytes())?;
/// # let mut memory = vec![Line::ZERO; model.state_bytes().div_ceil(64)];
/// # let mut scratch = vec![Line::ZERO; model.scratch_bytes(1).div_ceil(64)];
/// # let mut state = State::new(&model, Line::bytes_mut(&mut memory))?;
/// # let mut session = Session::new(&model, kernels::detect(), &mut state, Line::bytes_mut(&mut scratch))?;
/// let mut health = Health::new(Limits { stuck_steps: 500, ..Limits::default() });
/// session.step(Input::Frame(&[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]))?;
/// match health.after_step(&session) {
///     Verdict::Well => {}
///     Verdict::Ill { fault, .. } => println!("{fault:?}"), // then drop the session and `heal` the state
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Health {
    limits: Limits,
    counters: Counters,
    until_scan: u32,
    fingerprint: u32,
    repeats: u32,
}

impl Health {
    /// A watch over a stream.
    pub fn new(limits: Limits) -> Self {
        Health { limits, counters: Counters::default(), until_scan: limits.scan_every, fingerprint: 0, repeats: 0 }
    }

    /// Looks at the step just taken: one pass over the outputs, and over the state when it is its turn. Call it before the
    /// outputs are changed in place.
    pub fn after_step(&mut self, session: &Session<'_, '_, '_>) -> Verdict {
        self.counters.steps += 1;
        let outputs = session.output();
        let fault = self.check_outputs(outputs);
        // A model that looks ahead answers nothing yet in its first steps.
        let has_begun = session.state().position() > u64::from(session.model().plan().delay_steps);
        let stuck = if has_begun { self.check_moves(outputs) } else { None };
        let state = match self.until_scan.checked_sub(1) {
            None => None,
            Some(0) => {
                self.until_scan = self.limits.scan_every;
                self.check_state(session.model(), session.state())
            }
            Some(left) => {
                self.until_scan = left;
                None
            }
        };
        // What is not finite first: it does not go away by itself.
        let is_worst = |fault: &Fault| matches!(fault, Fault::OutputNotFinite { .. } | Fault::StateNotFinite);
        let all = [fault, state, stuck];
        match all.iter().flatten().find(|f| is_worst(f)).or(all.iter().flatten().next()) {
            None => Verdict::Well,
            Some(&fault) => Verdict::Ill { fault, remedy: self.remedy(fault) },
        }
    }

    /// Looks at a whole state: before a save, say, for a snapshot is worth no more than what it holds.
    pub fn check_state(&mut self, model: &Model<'_>, state: &State<'_>) -> Option<Fault> {
        let mut is_saturated = false;
        for numbers in state.numbers(model) {
            match worst_of(numbers, self.limits.state) {
                Worst::Fine => {}
                Worst::Beyond(_) => is_saturated = true,
                Worst::NotFinite(_) => {
                    count(&mut self.counters.states_not_finite);
                    return Some(Fault::StateNotFinite);
                }
            }
        }
        is_saturated |= state.halves(model).flatten().any(|bits| bits & 0x7fff >= LARGEST_HALF);
        if is_saturated {
            count(&mut self.counters.states_saturated);
        }
        is_saturated.then_some(Fault::StateSaturated)
    }

    /// Does what a verdict says. A snapshot that is not well itself is not kept.
    pub fn heal<F: NorFlash>(
        &mut self,
        remedy: Remedy,
        model: &Model<'_>,
        state: &mut State<'_>,
        snapshots: &mut SnapshotStore<F>,
    ) -> Healed {
        self.repeats = 0;
        let restored = match remedy {
            Remedy::Report => return Healed::AsItIs,
            Remedy::Reset => Restored::Nothing { refused: None },
            Remedy::RestoreSnapshot => snapshots.restore(state),
        };
        if matches!(restored, Restored::Nothing { .. }) || self.check_state(model, state).is_some() {
            state.reset();
            count(&mut self.counters.resets);
            return Healed::Reset;
        }
        count(&mut self.counters.restores);
        Healed::Restored(restored)
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn remedy(&self, fault: Fault) -> Remedy {
        match fault {
            Fault::OutputNotFinite { .. } | Fault::StateNotFinite => self.limits.on_not_finite,
            Fault::OutputSaturated { .. } | Fault::StateSaturated => self.limits.on_saturated,
            Fault::OutputsStuck { .. } => self.limits.on_stuck,
        }
    }

    fn check_outputs(&mut self, outputs: &[f32]) -> Option<Fault> {
        match worst_of(outputs, self.limits.output) {
            Worst::Fine => None,
            Worst::Beyond(index) => {
                count(&mut self.counters.outputs_saturated);
                Some(Fault::OutputSaturated { index })
            }
            Worst::NotFinite(index) => {
                count(&mut self.counters.outputs_not_finite);
                Some(Fault::OutputNotFinite { index })
            }
        }
    }

    fn check_moves(&mut self, outputs: &[f32]) -> Option<Fault> {
        if self.limits.stuck_steps == 0 {
            return None;
        }
        // 32-bit FNV-1a over words: outputs that differ in one place never share it.
        let fingerprint = outputs.iter().fold(0x811c_9dc5, |h: u32, y| (h ^ y.to_bits()).wrapping_mul(0x0100_0193));
        if fingerprint != self.fingerprint {
            self.fingerprint = fingerprint;
            self.repeats = 1;
            return None;
        }
        self.repeats = self.repeats.saturating_add(1);
        if self.repeats < self.limits.stuck_steps {
            return None;
        }
        // Counted once per spell of `stuck_steps`.
        let steps = self.repeats;
        self.repeats = 0;
        count(&mut self.counters.stuck);
        Some(Fault::OutputsStuck { steps })
    }
}

/// The bits of 65504, the largest number in half precision.
const LARGEST_HALF: u16 = 0x7bff;

enum Worst {
    Fine,
    Beyond(usize),
    NotFinite(usize),
}

/// The first number that is not finite, else the first beyond `limit`.
fn worst_of(numbers: &[f32], limit: f32) -> Worst {
    // One comparison each, without a branch, for the many that are fine; it is false for what is no number.
    let limit = limit.min(f32::MAX);
    if numbers.iter().fold(true, |fine, x| fine & (x.abs() <= limit)) {
        return Worst::Fine;
    }
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(index) => Worst::NotFinite(index),
        None => Worst::Beyond(numbers.iter().position(|x| x.abs() > limit).unwrap_or(0)),
    }
}

fn count(counter: &mut u32) {
    *counter = counter.saturating_add(1);
}
