//! What the tests of Holdfast are made of.

pub mod bench;
pub mod controller;
pub mod decision;
pub mod demo;
mod expectation;
pub mod guest;
pub mod hooked_tool;
pub mod powercut;
pub mod real_kills;
pub mod real_machine;
pub mod recovery;
pub mod story;
pub mod world;
pub mod zfs_guest;
