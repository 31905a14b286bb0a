//! One program for all tests of the package: each more would link everything once more.

mod health;
mod life;
mod models;
mod snapshots;
mod support;
