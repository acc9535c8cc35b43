//! What `make bench` measures: the machinery around the storage tool, beside what it would cost without it.
//!
//! ```text
//!   criterion (pubsub/benches) ─▶ target/criterion ─▶ criterion.rs ─┐
//!   bus_latency.rs, durable.rs    the bus and the disk by themselves ┤
//!   app_work.rs, delay.rs         a node at work, on rig.rs          ├─▶ figures.rs ─▶ the table, target/bench.json
//!   start.rs, footprint.rs        a node that starts, and one idle   ┤
//!   cuts.rs                       the simulation                     ┤
//!   qcow2_cost.rs                 the storage tool by itself ────────┴─▶ plot.rs ─▶ docs/qcow2-cost.svg
//! ```
//!
//! Every figure is the median of several rounds with the least and the most of them. Where there is something to compare
//! with, both take turns in the same run. What cannot be measured here is left out with its reason, never guessed.

pub mod app_work;
pub mod bus_latency;
pub mod criterion;
pub mod cuts;
pub mod delay;
pub mod durable;
pub mod figures;
pub mod footprint;
pub mod node_process;
pub mod plot;
pub mod qcow2_cost;
pub mod quiet;
pub mod rig;
pub mod slow_disk;
pub mod start;
pub mod timed_vmm;
