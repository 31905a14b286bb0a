//! One program for all tests but `memory`: each more would link everything once more.

mod bad_checkpoints;
mod bad_input;
mod budgets;
mod config_says_little;
mod damaged_files;
mod families_golden;
mod gguf;
mod hostile_checkpoints;
mod irregular;
mod missing;
mod passes;
mod pieces;
mod polynomial_taps;
mod rates;
mod snapshots;
mod state_bytes;
mod streaming_equals_whole;
