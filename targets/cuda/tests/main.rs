//! One program for all tests of the package but those that look at how much memory a GPU has left: each more would link everything once more.

mod exact;
mod head;
mod models;
mod norm;
mod operations;
mod products;
mod recurrences;
mod rig;
