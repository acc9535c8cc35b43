//! The wire to the controller: EVE's device API as protobuf messages over HTTP.
//!
//! ```text
//!   proto/*.proto ──build.rs──▶ config, info, auth, common      the messages
//!   codec.rs                    body bytes ⇄ message            the secure envelope will slot in here
//!   link.rs                     ControllerLink, HttpLink        TLS will slot in here
//! ```
//!
//! The messages are as the controller sends them: strings that should be ids are still strings. Checking them is
//! zedagent's border, not ours. Nothing here keeps state, and nothing here knows an agent.

pub mod codec;
pub mod link;

pub use codec::DecodeError;
pub use generated::org::lfedge::eve::{auth, common, config, info};
pub use link::{ControllerLink, Fetched, HttpLink, LinkError, LinkSettings};

/// The encoded `FileDescriptorSet` of the messages, for a JSON view of them.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/wire.descriptors"));

#[allow(clippy::all)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/wire.rs"));
}
