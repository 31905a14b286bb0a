//! The models and the recording inside this program, for `brooklet demo`.

/// A classifier of smartwatch recordings.
pub(crate) const WATCH: &[u8] = include_bytes!("../../../examples/models/watch.brook");
/// A small writer of English prose.
pub(crate) const PROSE: &[u8] = include_bytes!("../../../examples/models/prose.brook");
/// A recording that the classifier has not learned from; the name carries its class.
pub(crate) const RECORDING: &[u8] = include_bytes!("../../../examples/recordings/subject03_ROW_right_01.csv");
pub(crate) const RECORDING_NAME: &str = "subject03_ROW_right_01";
/// How the text begins.
pub(crate) const PROMPT: &str = "The configuration file";
