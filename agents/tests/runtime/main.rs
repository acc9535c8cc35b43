//! The runtime with a toy agent: order of effects, jobs, timers, durability, health, stop.

mod effects;
mod jobs;
mod node;
mod toy;
