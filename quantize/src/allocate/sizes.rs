//! What a file is made of, in bytes: before anything is rounded.

use super::{Choice, Goal, Part, knapsack};
use crate::error::Error;
use crate::fit::candidates::{Unit, all_at_least, units};
use crate::graph::{Graph, Output, Role, Values};
use crate::lower::Layout;
use crate::recipe::Recipe;
use brooklet::artifact::{Content, SECTION_ALIGN, SectionSource};
use brooklet::kernels::quant::Format;
use std::path::Path;

/// Parts that an error for an impossible budget names.
const MOST_NAMED: usize = 4;

/// The sizes of all files that a graph can become.
pub(super) struct Sizes<'g> {
    graph: &'g Graph<'g>,
    layout: Layout<'g>,
    header_bytes: u64,
    /// Formats to choose from, from coarse to fine.
    pub(super) formats: Vec<Format>,
    /// Every tensor in its coarsest format.
    pub(super) plain: Vec<Option<Format>>,
    /// What there is to choose for.
    pub(super) units: Vec<Unit>,
    /// Bytes of everything else.
    pub(super) fixed_bytes: u64,
}

impl<'g> Sizes<'g> {
    /// Of files of these formats, laid out as `recipe` says; formats that a file of `limit_bytes` has no use for are left out.
    pub(super) fn new(
        graph: &'g Graph<'_>,
        recipe: &Recipe,
        formats: &[Format],
        limit_bytes: Option<u64>,
        goal: Goal,
        out: &Path,
    ) -> Result<Self, Error> {
        let layout = Layout::new(graph, recipe, out)?;
        let header = layout.header(&layout.sections(&recipe.formats(graph)), 0);
        let header_bytes = header.map_err(|e| Error::invalid(out, "header", format!("cannot be written: {e}")))?.len() as u64;
        let plain = floors(graph, formats);
        let mut sizes = Sizes { graph, layout, header_bytes, formats: formats.to_vec(), plain, units: Vec::new(), fixed_bytes: 0 };
        if let Some(limit) = limit_bytes
            && sizes.file_bytes(&sizes.plain) > limit
        {
            return Err(sizes.impossible(limit, goal, out));
        }
        // Two bits are for budgets that leave little else to give up: where four throughout fit, no matrix is worth as little as that.
        if let [Format::T2, rest @ ..] = formats
            && let [_, next, ..] = rest
            && limit_bytes.is_none_or(|limit| sizes.file_bytes(&floors(graph, &[*next])) <= limit)
        {
            (sizes.formats, sizes.plain) = (rest.to_vec(), floors(graph, rest));
        }
        sizes.units = units(graph, &sizes.plain).into_iter().filter(|unit| sizes.has_choice(unit)).collect();
        let chosen: u64 = sizes.units.iter().map(|unit| sizes.unit_bytes(unit, &sizes.plain)).sum();
        // The last section is not padded. Where its size is a matter of choice it counts as if it were, so that everything adds up.
        let last = sizes.layout.sections(&sizes.plain).len().wrapping_sub(1);
        let is_chosen = sizes.units.iter().any(|unit| unit.tensors.contains(&last));
        let all = if is_chosen { sizes.padded_bytes(&sizes.plain) } else { sizes.file_bytes(&sizes.plain) };
        sizes.fixed_bytes = all - chosen;
        Ok(sizes)
    }

    /// Bytes of the whole file.
    pub(super) fn file_bytes(&self, formats: &[Option<Format>]) -> u64 {
        let place = |at: u64, section: u64| at.next_multiple_of(SECTION_ALIGN as u64) + section;
        self.header_bytes + self.sections(formats).fold(0, place)
    }

    fn padded_bytes(&self, formats: &[Option<Format>]) -> u64 {
        self.header_bytes + self.sections(formats).map(padded).sum::<u64>()
    }

    fn sections(&self, formats: &[Option<Format>]) -> impl Iterator<Item = u64> {
        self.layout.sections(formats).into_iter().map(|s| s.content.bytes(s.rows, s.cols).unwrap_or(0))
    }

    fn unit_bytes(&self, unit: &Unit, formats: &[Option<Format>]) -> u64 {
        let bytes = |&tensor: &usize| {
            let decl = &self.graph.tensors[tensor];
            formats[tensor].and_then(|format| Content::of(format).bytes(decl.rows as u32, decl.cols as u32)).map_or(0, padded)
        };
        unit.tensors.iter().map(bytes).sum()
    }

    fn has_choice(&self, unit: &Unit) -> bool {
        let finest = self.formats.last().copied().unwrap_or(Format::F32);
        unit.tensors.iter().any(|&tensor| all_at_least(&self.plain[tensor..=tensor], finest) != self.plain[tensor..=tensor])
    }

    /// What every unit can take, from coarse to fine; `losses` are (units, formats).
    pub(super) fn choices(&self, losses: &[Vec<f64>]) -> Vec<Vec<Choice>> {
        let of_unit = |(unit, losses): (&Unit, &Vec<f64>)| {
            let mut formats = self.plain.clone();
            let mut choices: Vec<Choice> = Vec::new();
            for (&format, &loss) in self.formats.iter().zip(losses) {
                unit.set(&mut formats, &self.plain, format);
                // A format below the unit's own floor is that floor.
                let lasting = unit.tensors.iter().any(|&tensor| formats[tensor] == Some(format));
                if lasting {
                    choices.push(Choice { format, bytes: self.unit_bytes(unit, &formats), loss });
                }
            }
            choices
        };
        self.units.iter().zip(losses).map(of_unit).collect()
    }

    /// The choices that lose least in a file of at most so many bytes; `None` if there is none that small.
    pub(super) fn choose(&self, choices: &[Vec<Choice>], limit_bytes: u64) -> Option<Vec<usize>> {
        let chosen = limit_bytes.checked_sub(self.fixed_bytes).and_then(|room| knapsack::choose(choices, room));
        // The smallest file may fit with what its last section is not padded with.
        chosen.or_else(|| (self.file_bytes(&self.plain) <= limit_bytes).then(|| vec![0; choices.len()]))
    }

    /// The formats of all tensors under these choices.
    pub(super) fn formats_of(&self, choices: &[Vec<Choice>], chosen: &[usize]) -> Vec<Option<Format>> {
        let mut formats = self.plain.clone();
        for ((unit, choices), &chosen) in self.units.iter().zip(choices).zip(chosen) {
            unit.set(&mut formats, &self.plain, choices[chosen].format);
        }
        formats
    }

    /// The loss of every unit in a file of these formats.
    pub(super) fn losses_of(&self, choices: &[Vec<Choice>], formats: &[Option<Format>]) -> Vec<f64> {
        let of_unit = |(unit, choices): (&Unit, &Vec<Choice>)| {
            let format = formats[unit.tensors[0]];
            // Finer than there is to choose: nothing is lost.
            choices.iter().find(|choice| Some(choice.format) == format).map_or(0.0, |choice| choice.loss)
        };
        self.units.iter().zip(choices).map(of_unit).collect()
    }

    /// The units by name, with their choices.
    pub(super) fn parts(&self, choices: Vec<Vec<Choice>>, chosen: &[usize]) -> Vec<Part> {
        let part = |((unit, choices), &chosen): ((&Unit, Vec<Choice>), &usize)| {
            let first = &self.graph.tensors[unit.tensors[0]];
            let (name, shape, loss) = (first.name.clone(), (first.rows, first.cols), choices[chosen].loss);
            Part { name, tensors: unit.tensors.clone(), shape, choices, chosen, loss }
        };
        self.units.iter().zip(choices).zip(chosen).map(part).collect()
    }

    /// The error for a budget that not even the smallest file fits in.
    pub(super) fn impossible(&self, limit_bytes: u64, goal: Goal, out: &Path) -> Error {
        let sections = self.layout.sections(&self.plain);
        let bytes_of = |s: &SectionSource| s.content.bytes(s.rows, s.cols).unwrap_or(0);
        let arrays_bytes: u64 = sections.iter().filter(|s| s.content == Content::Array).map(bytes_of).sum();
        let mut parts: Vec<&SectionSource> = sections.iter().filter(|s| s.content != Content::Array).collect();
        parts.sort_by_key(|s| std::cmp::Reverse(bytes_of(s)));
        let named = |s: &&SectionSource| match s.content {
            _ if s.content.is_tokenizer() => format!("{} {}", bytes_of(s), s.name),
            _ => format!("{} {} ({} x {}, {})", bytes_of(s), s.name, s.rows, s.cols, s.content.name()),
        };
        let named: Vec<String> = parts.iter().take(MOST_NAMED).map(named).collect();
        let least = self.file_bytes(&self.plain);
        let budget = match goal {
            Goal::BitsPerWeight(bits) => format!("{bits} bits per weight are {limit_bytes} bytes, and that is"),
            Goal::Flash { bytes, code_bytes } if code_bytes > 0 => {
                format!("of {bytes} bytes the firmware's code takes {code_bytes}; for the model {limit_bytes} are left, and that is")
            }
            _ => format!("{limit_bytes} bytes are"),
        };
        let more = match goal {
            Goal::Flash { code_bytes, .. } if code_bytes > 0 => format!(" (with the code {})", least + code_bytes),
            _ => String::new(),
        };
        let problem = format!(
            "{budget} too few: the smallest possible file takes {least}{more}. Its largest parts, in bytes: {}; all arrays together {arrays_bytes}, \
             the header {}",
            named.join(", "),
            self.header_bytes
        );
        Error::invalid(out, goal.option(), problem)
    }
}

fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(SECTION_ALIGN as u64)
}

/// The coarsest of `formats` that every tensor may take.
fn floors(graph: &Graph<'_>, formats: &[Format]) -> Vec<Option<Format>> {
    let coarsest = formats.first().copied().unwrap_or(Format::F32);
    let gives_values = matches!(graph.output, Output::Values { .. });
    let floor = |values: &Values<'_>| {
        let Values::Matrix(role, _) = values else { return None };
        let least = match role {
            Role::Projection | Role::Embedding | Role::StepSize => coarsest,
            // A decision that flips is rarely seen in a measurement, and outweighs all rounding.
            Role::Router => Format::F32,
            // Where values are asked for, every number of the answer counts, however small its share of the loss.
            Role::Fine if gives_values => Format::F16,
            Role::Fine => Format::Q8,
        };
        all_at_least(&[Some(coarsest)], least)[0]
    };
    graph.tensors.iter().map(|tensor| floor(&tensor.values)).collect()
}
