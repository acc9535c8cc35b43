//! What makes a type a topic of the bus.
//!
//! The trait stands here, beside the types that implement it, because of the orphan rule; the bus itself is
//! `holdfast-pubsub`.

use std::fmt::{Debug, Display};

/// Whether a topic's rows outlive the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Rows live as long as the process.
    Volatile,
    /// A row is durable on disk before any subscriber sees it, and comes back as created after a restart.
    Persistent,
}

/// A type whose values are published on the bus, one row per key.
pub trait Topic:
    Clone + Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static
{
    /// The topic's name, EVE's where EVE has one. Also the folder name of a persistent topic.
    const NAME: &'static str;
    const DURABILITY: Durability;
    /// The key's `Display` is used as a file name for persistent topics, so it holds no `/` and is not empty.
    type Key: Ord + Clone + Debug + Display + Send + Sync + 'static;
    fn key(&self) -> Self::Key;
}
