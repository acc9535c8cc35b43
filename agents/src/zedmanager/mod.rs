pub mod change;
pub mod desired;
pub mod list;
pub mod machine;
pub mod status;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod walks;
