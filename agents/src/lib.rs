//! The agents of a Holdfast node and what they need around them.

pub mod domainmgr;
pub mod runtime;
pub mod wire;
pub mod zedagent;
pub mod zedmanager;
