//! zedagent
pub mod check;
pub mod checkpoint;
mod claims;
pub mod parse;
#[cfg(test)]
mod parse_tests;
pub mod refusal;
#[cfg(test)]
mod testing;
