//! The agents of a Holdfast node and what they need around them.

pub mod api;
pub mod cli;
pub mod domainmgr;
pub mod node;
pub mod runtime;
pub mod settings;
pub mod volumemgr;
pub mod wire;
pub mod zedagent;
pub mod zedmanager;
