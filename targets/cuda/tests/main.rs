//! One program for all tests of the package: each more would link everything once more.

mod errors;
mod exact;
mod head;
mod long_runs;
mod models;
mod norm;
mod operations;
mod products;
mod recurrences;
mod rig;
