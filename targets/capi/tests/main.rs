//! One program for all tests of the package: each more would link everything once more.

mod abi;
mod header;
mod linux_example;
