//! Bodies of the device API: message to bytes and back.
//!
//! ```text
//!   message ──encode──▶ payload ──seal──▶ body        body ──open──▶ payload ──decode──▶ message
//! ```
//!
//! Sealing and opening is where EVE's `AuthContainer` (the signature over the payload) belongs. Until certificates
//! exist on both sides a body *is* its payload, so [`encode_body`] and [`decode_body`] are the one pair of
//! functions to change then; every body passes through them.
//!
//! Nothing here does I/O, and nothing here judges what a message says.

use prost::Message;

use super::config::{ConfigRequest, ConfigResponse};
use super::info::ZInfoMsg;

/// The content type of every body.
pub const CONTENT_TYPE: &str = "application/x-proto-binary";

/// A body that is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{size_bytes} bytes do not decode as {message}")]
pub struct DecodeError {
    /// The message that was expected.
    pub message: &'static str,
    pub size_bytes: usize,
    #[source]
    pub source: prost::DecodeError,
}

pub fn encode_config_request(request: &ConfigRequest) -> Vec<u8> {
    encode_body(request)
}

pub fn decode_config_request(body: &[u8]) -> Result<ConfigRequest, DecodeError> {
    decode_body("ConfigRequest", body)
}

pub fn encode_config_response(response: &ConfigResponse) -> Vec<u8> {
    encode_body(response)
}

pub fn decode_config_response(body: &[u8]) -> Result<ConfigResponse, DecodeError> {
    decode_body("ConfigResponse", body)
}

pub fn encode_info(message: &ZInfoMsg) -> Vec<u8> {
    encode_body(message)
}

pub fn decode_info(body: &[u8]) -> Result<ZInfoMsg, DecodeError> {
    decode_body("ZInfoMsg", body)
}

/// Makes a body. The place to seal the payload in an `AuthContainer`.
fn encode_body(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}

/// Reads a body. The place to open the `AuthContainer` and check its signature.
fn decode_body<M: Message + Default>(message: &'static str, body: &[u8]) -> Result<M, DecodeError> {
    M::decode(body).map_err(|source| DecodeError { message, size_bytes: body.len(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::config::*;
    use crate::wire::info::{self, ZInfoApp, ZInfoDevice, z_info_msg::InfoContent};

    /// One field of protobuf's encoding, written by hand: key, then value or length and content.
    fn varint_field(number: u64, value: u64) -> Vec<u8> {
        [varint(number << 3), varint(value)].concat()
    }

    fn bytes_field(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn varint(mut value: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        bytes.push(value as u8);
        bytes
    }

    fn uuid_and_version(uuid: &str, version: &str) -> Vec<u8> {
        [bytes_field(1, uuid.as_bytes()), bytes_field(2, version.as_bytes())].concat()
    }

    #[test]
    fn a_config_request_is_the_bytes_eve_sends() {
        let request = ConfigRequest { config_hash: "ab".into(), integrity_token: vec![7] };
        assert_eq!(encode_config_request(&request), [0x0a, 2, b'a', b'b', 0x12, 1, 7]);
    }

    #[test]
    fn the_field_numbers_of_a_configuration_are_eves() {
        let app = AppInstanceConfig {
            uuidandversion: Some(UuiDandVersion { uuid: "a".into(), version: "1".into() }),
            displayname: "db".into(),
            fixedresources: Some(VmConfig {
                kernel: "k".into(),
                memory: 1024,
                vcpus: 2,
                extraargs: "quiet".into(),
                ..Default::default()
            }),
            activate: true,
            restart: Some(InstanceOpsCmd { counter: 4, ops_time: "t".into() }),
            purge: Some(InstanceOpsCmd { counter: 5, ..Default::default() }),
            volume_ref_list: vec![VolumeRef {
                uuid: "v".into(),
                generation_count: 3,
                mount_dir: "/m".into(),
            }],
            snapshot: Some(SnapshotConfig {
                active_snapshot: "s".into(),
                rollback_cmd: Some(InstanceOpsCmd { counter: 6, ..Default::default() }),
                max_snapshots: 2,
                snapshots: vec![SnapshotDesc { id: "s".into(), r#type: SnapshotType::Immediate as i32 }],
            }),
            holdfast: Some(HoldfastAppExtension { ha_state: "ignored".into(), tags: vec!["x".into()] }),
            ..Default::default()
        };
        let response = ConfigResponse {
            config: Some(EdgeDevConfig {
                id: Some(UuiDandVersion { uuid: "d".into(), version: "9".into() }),
                apps: vec![app],
                datastores: vec![DatastoreConfig {
                    id: "ds".into(),
                    d_type: 1,
                    fqdn: "f".into(),
                    ..Default::default()
                }],
                content_info: vec![ContentTree {
                    uuid: "c".into(),
                    url: "u".into(),
                    iformat: Format::Qcow2 as i32,
                    sha256: "5".into(),
                    max_size_bytes: 8,
                    ds_ids_list: vec!["ds".into()],
                    ..Default::default()
                }],
                volumes: vec![Volume {
                    uuid: "v".into(),
                    origin: Some(VolumeContentOrigin { r#type: 2, download_content_tree_id: "c".into() }),
                    generation_count: 3,
                    maxsizebytes: 8,
                    readonly: true,
                    display_name: "n".into(),
                    clear_text: true,
                }],
                ..Default::default()
            }),
            config_hash: "h".into(),
        };

        let snapshot = [
            bytes_field(1, b"s"),
            bytes_field(2, &varint_field(2, 6)),
            varint_field(3, 2),
            bytes_field(4, &[bytes_field(1, b"s"), varint_field(2, 2)].concat()),
        ];
        let resources =
            [bytes_field(1, b"k"), varint_field(3, 1024), varint_field(5, 2), bytes_field(8, b"quiet")];
        let app = [
            bytes_field(1, &uuid_and_version("a", "1")),
            bytes_field(2, b"db"),
            bytes_field(3, &resources.concat()),
            varint_field(5, 1),
            bytes_field(9, &[varint_field(2, 4), bytes_field(4, b"t")].concat()),
            bytes_field(10, &varint_field(2, 5)),
            bytes_field(16, &[bytes_field(1, b"v"), varint_field(2, 3), bytes_field(3, b"/m")].concat()),
            bytes_field(22, &snapshot.concat()),
            bytes_field(50000, &[bytes_field(1, b"ignored"), bytes_field(2, b"x")].concat()),
        ];
        let content = [
            bytes_field(1, b"c"),
            bytes_field(3, b"u"),
            varint_field(4, 3),
            bytes_field(5, b"5"),
            varint_field(6, 8),
            bytes_field(11, b"ds"),
        ];
        let volume = [
            bytes_field(1, b"v"),
            bytes_field(2, &[varint_field(1, 2), bytes_field(2, b"c")].concat()),
            varint_field(4, 3),
            varint_field(5, 8),
            varint_field(6, 1),
            bytes_field(7, b"n"),
            varint_field(8, 1),
        ];
        let datastore = [varint_field(1, 1), bytes_field(2, b"f"), bytes_field(100, b"ds")];
        let config = [
            bytes_field(1, &uuid_and_version("d", "9")),
            bytes_field(4, &app.concat()),
            bytes_field(6, &datastore.concat()),
            bytes_field(20, &content.concat()),
            bytes_field(21, &volume.concat()),
        ];
        let by_hand = [bytes_field(1, &config.concat()), bytes_field(2, b"h")].concat();

        assert_eq!(encode_config_response(&response), by_hand);
        assert_eq!(decode_config_response(&by_hand).unwrap(), response);
    }

    #[test]
    fn the_field_numbers_of_a_report_are_eves() {
        let failure = info::ErrorInfo {
            description: "e".into(),
            timestamp: None,
            severity: info::Severity::Error as i32,
            entities: vec![info::DeviceEntity { entity: 11, entity_id: "v".into(), entity_name: "n".into() }],
            retry_condition: "r".into(),
        };
        let report = ZInfoMsg {
            ztype: info::ZInfoTypes::ZiApp as i32,
            dev_id: "d".into(),
            at_time_stamp: Some(prost_types::Timestamp { seconds: 5, nanos: 0 }),
            info_content: Some(InfoContent::Ainfo(ZInfoApp {
                app_id: "a".into(),
                app_version: "1".into(),
                app_name: "db".into(),
                boot_time: Some(prost_types::Timestamp { seconds: 6, nanos: 0 }),
                app_err: vec![failure.clone()],
                state: info::ZSwState::Running as i32,
                volume_refs: vec!["v".into()],
                snapshots: vec![info::ZInfoSnapshot {
                    id: "s".into(),
                    config_id: "a".into(),
                    config_version: "1".into(),
                    create_time: Some(prost_types::Timestamp { seconds: 7, nanos: 0 }),
                    r#type: info::SnapshotType::AppUpdate as i32,
                    snap_err: Some(failure),
                }],
                ..Default::default()
            })),
        };

        let entity = [varint_field(1, 11), bytes_field(2, b"v"), bytes_field(3, b"n")].concat();
        let failure =
            [bytes_field(1, b"e"), varint_field(3, 3), bytes_field(4, &entity), bytes_field(5, b"r")]
                .concat();
        let snapshot = [
            bytes_field(1, b"s"),
            bytes_field(2, b"a"),
            bytes_field(3, b"1"),
            bytes_field(4, &varint_field(1, 7)),
            varint_field(5, 1),
            bytes_field(6, &failure),
        ];
        let app = [
            bytes_field(1, b"a"),
            bytes_field(2, b"1"),
            bytes_field(7, b"db"),
            bytes_field(12, &varint_field(1, 6)),
            bytes_field(14, &failure),
            varint_field(15, 7),
            bytes_field(17, b"v"),
            bytes_field(18, &snapshot.concat()),
        ];
        let by_hand = [
            varint_field(1, 3),
            bytes_field(2, b"d"),
            bytes_field(5, &app.concat()),
            bytes_field(6, &varint_field(1, 5)),
        ]
        .concat();

        assert_eq!(decode_info(&by_hand).unwrap(), report);
        assert_eq!(encode_info(&report).len(), by_hand.len());
    }

    #[test]
    fn the_device_and_volume_reports_have_eves_numbers() {
        let device = ZInfoDevice {
            api_capability: info::ApiCapability::VolumeSnapshotsImmediate as i32,
            holdfast: Some(info::HoldfastDeviceExtension { config_hash: "h".into(), ..Default::default() }),
        };
        let by_hand = [varint_field(51, 13), bytes_field(50000, &bytes_field(2, b"h"))].concat();
        assert_eq!(device.encode_to_vec(), by_hand);

        let volume = info::ZInfoVolume {
            uuid: "v".into(),
            display_name: "n".into(),
            state: 15,
            progress_percentage: 40,
            volume_err: Some(info::ErrorInfo::default()),
            generation_count: 2,
        };
        let by_hand = [
            bytes_field(1, b"v"),
            bytes_field(2, b"n"),
            varint_field(5, 15),
            varint_field(6, 40),
            bytes_field(7, b""),
            varint_field(8, 2),
        ]
        .concat();
        assert_eq!(volume.encode_to_vec(), by_hand);
    }

    #[test]
    fn fields_of_a_newer_controller_are_skipped() {
        let newer = [bytes_field(2, b"h"), bytes_field(4711, b"news"), varint_field(99, 1)].concat();
        let response = decode_config_response(&newer).unwrap();
        assert_eq!(response, ConfigResponse { config: None, config_hash: "h".into() });
    }

    #[test]
    fn a_body_that_is_no_message_says_which_message_was_expected() {
        let error = decode_config_response(b"<html>no</html>").unwrap_err();
        assert_eq!(error.to_string(), "15 bytes do not decode as ConfigResponse");
    }
}
