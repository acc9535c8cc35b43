//! The runtime with a toy agent: order of effects, commits, jobs, timers, durability, health, stop.

mod commits;
mod effects;
mod jobs;
mod node;
mod toy;
