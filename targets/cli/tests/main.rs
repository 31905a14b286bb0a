//! One program for all tests of the package: each more would link everything once more.

mod bench;
mod c_programs;
mod cli;
mod download;
mod export;
mod rig;
mod serve;
mod stream;
