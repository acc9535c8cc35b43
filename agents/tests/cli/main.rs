//! The `holdfast` command as people and programs meet it: the real binary against a real socket.
//!
//! `golden.rs` compares what it prints about a fixed node with transcripts in `tests/golden/`; `UPDATE_GOLDEN=1`
//! writes them anew. `refusals.rs` is about everything that goes wrong, `service.rs` about the node as a
//! process, `install.rs` about what `make install` leaves behind.

#![allow(clippy::disallowed_methods, reason = "real processes, real files, real time")]

mod fixture;
mod golden;
mod install;
mod refusals;
mod service;
mod support;
mod watch;
