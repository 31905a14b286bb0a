//! Classes of a sensor model: names, decisions, votes, and the one that a file name carries.

use brooklet::artifact::OutputSpec;
use brooklet::{Model, softmax};
use serde::ser::{Serialize, Serializer};

/// The class names; numbers where a model's outputs have none.
pub(crate) fn class_names(model: &Model<'_>) -> Vec<String> {
    match model.header().output {
        OutputSpec::Classes { names } | OutputSpec::Values { names, .. } => names.lines().map(str::to_owned).collect(),
        OutputSpec::Logits { count } => (0..count).map(|i| i.to_string()).collect(),
    }
}

/// Whether the outputs are values rather than logits.
pub(crate) fn gives_values(model: &Model<'_>) -> bool {
    matches!(model.header().output, OutputSpec::Values { .. })
}

/// Number of the largest value; the first of equals.
pub(crate) fn best(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = i;
        }
    }
    best
}

/// Number of the class that got the most votes; the first of equals.
pub(crate) fn most_voted(votes: &[u64]) -> usize {
    let most = votes.iter().max().copied().unwrap_or(0);
    votes.iter().position(|&v| v == most).unwrap_or(0)
}

/// Copies logits and turns them into probabilities.
pub(crate) fn probabilities(logits: &[f32], into: &mut Vec<f32>) {
    into.clear();
    into.extend_from_slice(logits);
    softmax(into);
}

/// The class whose name stands as words of its own in `text`, as in `walk_03.csv`; the longest if several do.
pub(crate) fn class_in(text: &str, names: &[String]) -> Option<usize> {
    let text = words(text);
    let found = names.iter().enumerate().filter(|(_, name)| !name.is_empty() && text.contains(&words(name)));
    found.max_by_key(|(_, name)| name.len()).map(|(class, _)| class)
}

/// Lower case, with one space before, between and behind the words.
fn words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    words.fold(String::from(" "), |all, word| all + &word.to_lowercase() + " ")
}

/// Names with their values, as a JSON object in the order of the classes.
pub(crate) struct Named<'a>(pub(crate) &'a [String], pub(crate) &'a [f32]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::{best, class_in, most_voted};

    #[test]
    fn a_file_name_carries_a_class_as_a_word() {
        let names = ["walk", "run", "fast run", "ER"].map(str::to_owned);
        assert_eq!(class_in("data/Walk-03", &names), Some(0));
        assert_eq!(class_in("fast_run_2", &names), Some(2));
        assert_eq!(class_in("s07_er_left", &names), Some(3));
        assert_eq!(class_in("runner", &names), None);
    }

    #[test]
    fn the_first_of_equals_wins() {
        assert_eq!(best(&[0.1, 0.4, 0.4]), 1);
        assert_eq!(best(&[]), 0);
        assert_eq!(most_voted(&[2, 5, 5]), 1);
    }
}
