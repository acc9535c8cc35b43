//! The last good device configuration on disk: `checkpoint/lastconfig`.
//!
//! ```text
//!   body as received          ConfigResponse, byte for byte
//!   field 50000, ours         when it came; what was in force with it, if something in it was refused;
//!                             why the file before it was lost, if that still matters
//!   field 50001, ours, last   SHA-256 of all bytes before this field
//! ```
//!
//! Protobuf puts messages together by writing them one after the other, so the whole file still decodes as the
//! `ConfigResponse` it holds, and whoever does not know our fields skips them. One file, because it is one commit:
//! a configuration without the last good one of what it got wrong would, after a restart, look like the deletion
//! of that application ([003] A8).
//!
//! The digest is there because protobuf has none: a file cut between two applications decodes, and has lost one.
//!
//! Nothing here touches the disk; the agent stages the write, `jobs.rs` reads.

use std::fmt;

use chrono::DateTime;
use holdfast_types::Timestamp;
use prost::Message;
use sha2::{Digest, Sha256};

use super::parse::{InForce, Parsed, parse};
use crate::wire::config::{ConfigResponse, EdgeDevConfig};

const DIGEST_BYTES: usize = 32;
/// Key (field 50001, length-delimited) and length of the last field.
const DIGEST_PREFIX: [u8; 4] = [0x8a, 0xb5, 0x18, DIGEST_BYTES as u8];

/// What the file says. Its `Debug` form hides the configuration, which may hold secrets.
#[derive(Clone, PartialEq)]
pub struct Checkpoint {
    pub response: ConfigResponse,
    pub received_at: Option<Timestamp>,
    /// Why the one before was lost, as long as something it may have known is still missing.
    pub lost: Option<String>,
    /// The objects that were in force with it; empty when all of it was taken.
    in_force: EdgeDevConfig,
}

/// Why the file is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it is empty")]
    Empty,
    #[error("its last field, the digest, is missing: it was cut short or is not ours")]
    NoDigest,
    #[error("its content does not match its digest")]
    WrongDigest,
    #[error("it does not decode as a configuration")]
    Undecodable(#[source] prost::DecodeError),
    #[error("it holds no configuration")]
    NoConfig,
}

/// The file's own fields, read beside those of the response.
#[derive(Clone, PartialEq, Message)]
struct Appendix {
    #[prost(message, optional, tag = "50000")]
    ours: Option<Ours>,
}

#[derive(Clone, PartialEq, Message)]
struct Ours {
    #[prost(message, optional, tag = "1")]
    received_at: Option<prost_types::Timestamp>,
    #[prost(message, optional, tag = "2")]
    in_force: Option<EdgeDevConfig>,
    #[prost(string, optional, tag = "3")]
    lost: Option<String>,
}

/// The bytes of the file for a configuration that was taken.
pub fn render(raw: &[u8], parsed: &Parsed, received_at: Timestamp, lost: Option<&str>) -> Vec<u8> {
    let received_at = prost_types::Timestamp {
        seconds: received_at.timestamp(),
        nanos: i32::try_from(received_at.timestamp_subsec_nanos()).unwrap_or(0),
    };
    let in_force = (!parsed.refused.is_empty()).then(|| parsed.in_force.to_message());
    sealed(raw, Ours { received_at: Some(received_at), in_force, lost: lost.map(str::to_owned) })
}

/// The bytes of the file when there is no configuration and the one there was is lost.
pub fn render_lost(reason: &str) -> Vec<u8> {
    sealed(&[], Ours { lost: Some(reason.to_owned()), ..Default::default() })
}

fn sealed(raw: &[u8], ours: Ours) -> Vec<u8> {
    let mut bytes = raw.to_vec();
    bytes.extend(Appendix { ours: Some(ours) }.encode_to_vec());
    let digest = Sha256::digest(&bytes);
    bytes.extend(DIGEST_PREFIX);
    bytes.extend(digest);
    bytes
}

pub fn read(bytes: &[u8]) -> Result<Checkpoint, Damage> {
    if bytes.is_empty() {
        return Err(Damage::Empty);
    }
    check_digest(bytes)?;
    let response = ConfigResponse::decode(bytes).map_err(Damage::Undecodable)?;
    let appendix = Appendix::decode(bytes).map_err(Damage::Undecodable)?;
    let ours = appendix.ours.unwrap_or_default();
    if response.config.is_none() && ours.lost.is_none() {
        return Err(Damage::NoConfig);
    }
    let received_at = ours
        .received_at
        .and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?));
    let in_force = ours.in_force.unwrap_or_default();
    Ok(Checkpoint { response, received_at, lost: ours.lost, in_force })
}

fn check_digest(bytes: &[u8]) -> Result<(), Damage> {
    let start = bytes.len().checked_sub(DIGEST_BYTES + DIGEST_PREFIX.len()).ok_or(Damage::NoDigest)?;
    let (content, last_field) = bytes.split_at(start);
    let digest = last_field.strip_prefix(&DIGEST_PREFIX).ok_or(Damage::NoDigest)?;
    if Sha256::digest(content).as_slice() == digest { Ok(()) } else { Err(Damage::WrongDigest) }
}

impl Checkpoint {
    /// What was in force when it was written, and what was refused then.
    pub fn parse(&self) -> Parsed {
        let before = parse(&self.in_force, &InForce::default()).in_force;
        let config = self.response.config.clone().unwrap_or_default();
        parse(&config, &before)
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Checkpoint")
            .field("config_hash", &self.response.config_hash)
            .field("received_at", &self.received_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zedagent::testing::*;

    fn saved(config: EdgeDevConfig, before: &InForce) -> (Vec<u8>, Parsed) {
        let parsed = parse(&config, before);
        let raw = ConfigResponse { config: Some(config), config_hash: "h1".into() }.encode_to_vec();
        (render(&raw, &parsed, at(10), None), parsed)
    }

    #[test]
    fn what_was_in_force_comes_back_as_it_was() {
        let (bytes, parsed) = saved(config([app(APP_A, "1"), app(APP_B, "1")]), &InForce::default());
        let checkpoint = read(&bytes).unwrap();
        assert_eq!(checkpoint.parse(), parsed);
        assert_eq!(checkpoint.received_at, Some(at(10)));
        assert_eq!(checkpoint.response.config_hash, "h1");
    }

    /// [003] A8: after a restart, too, the neighbour of a bad application and the bad one itself are in force.
    #[test]
    fn the_last_good_configuration_of_a_refused_application_comes_back() {
        let first =
            parse(&config([with_snapshots(app(APP_A, "1"), &[S1]), app(APP_B, "1")]), &InForce::default());
        let stolen = config([with_snapshots(app(APP_A, "2"), &[S1]), with_snapshots(app(APP_B, "2"), &[S1])]);
        let (bytes, parsed) = saved(stolen, &first.in_force);
        assert_eq!(parsed.refused.len(), 1, "only the one that did not own it: {:?}", parsed.refused);

        let back = read(&bytes).unwrap().parse();
        assert_eq!(back, parsed);
        assert_eq!(back.in_force.apps[&id(APP_A)].config.version(), "2");
        assert_eq!(back.in_force.apps[&id(APP_B)].config.version(), "1");
    }

    #[test]
    fn a_note_of_a_loss_is_read_back() {
        let note = read(&render_lost("it is empty")).unwrap();
        assert_eq!((note.response.config, note.lost.as_deref()), (None, Some("it is empty")));
    }

    #[test]
    fn the_file_decodes_as_the_response_it_holds() {
        let (bytes, _) = saved(config([app(APP_A, "1")]), &InForce::default());
        let response = ConfigResponse::decode(bytes.as_slice()).unwrap();
        assert_eq!(response.config.unwrap().apps.len(), 1);
    }

    #[test]
    fn a_file_cut_anywhere_or_changed_anywhere_is_damaged() {
        let (bytes, _) = saved(config([app(APP_A, "1"), app(APP_B, "1")]), &InForce::default());
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "cut to {length} bytes");
        }
        for position in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[position] ^= 0x10;
            assert!(read(&changed).is_err(), "byte {position} changed");
        }
    }
}
