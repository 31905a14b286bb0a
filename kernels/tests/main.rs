//! One program for all tests of the package: each more would link everything once more.

mod back_ends;
mod products;
mod rows_together;
