//! The wire's messages as JSON, and back: protobuf's own JSON mapping, the one EVE's open controller shows.
//!
//! Names are the wire's in camelCase, enums are names, 64-bit numbers are strings (numbers are read too), defaults
//! are left out. Reading is strict, because a person wrote it: an unknown field is an error, and every error names
//! the place (`apps[0].snapshot.snapshots[1].type`).

use std::sync::LazyLock;

use holdfast_agents::wire::DESCRIPTORS;
use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor,
};
use serde_json::Value;

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the build made these descriptors"));

/// JSON that is not the message it should be.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("not JSON")]
    Syntax(#[from] serde_json::Error),
    #[error("{place}: {reason}")]
    Place { place: String, reason: String },
}

/// The message as a JSON value.
pub fn to_value<M: Message + Name>(message: &M) -> Value {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("both sides have the same descriptor");
    serde_json::to_value(&dynamic).expect("a message of the wire has a JSON form")
}

/// The message as JSON on one line.
pub fn to_line<M: Message + Name>(message: &M) -> String {
    to_value(message).to_string()
}

/// The message as JSON to be read by people.
pub fn to_text<M: Message + Name>(message: &M) -> String {
    format!("{:#}", to_value(message))
}

pub fn from_text<M: Message + Name + Default>(text: &str) -> Result<M, JsonError> {
    from_value(&serde_json::from_str(text)?)
}

pub fn from_value<M: Message + Name + Default>(value: &Value) -> Result<M, JsonError> {
    let descriptor = descriptor::<M>();
    let dynamic = parse(&descriptor, value).map_err(|error| locate(&descriptor, value, M::NAME, error))?;
    dynamic
        .transcode_to()
        .map_err(|error| JsonError::Place { place: M::NAME.into(), reason: error.to_string() })
}

fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("every message of the wire is described")
}

fn parse(descriptor: &MessageDescriptor, value: &Value) -> Result<DynamicMessage, serde_json::Error> {
    DynamicMessage::deserialize_with_options(descriptor.clone(), value, &DeserializeOptions::new())
}

/// Follows an error down to the smallest part that has it.
fn locate(descriptor: &MessageDescriptor, value: &Value, place: &str, error: serde_json::Error) -> JsonError {
    let here = || JsonError::Place { place: place.to_owned(), reason: error.to_string() };
    let Value::Object(object) = value else { return here() };
    for (name, part) in object {
        let place = format!("{place}.{name}");
        let Some(field) = field_named(descriptor, name) else {
            return JsonError::Place { place, reason: "there is no such field".into() };
        };
        if let Some(found) = locate_in_field(descriptor, &field, name, part, &place) {
            return found;
        }
    }
    here()
}

fn locate_in_field(
    parent: &MessageDescriptor,
    field: &FieldDescriptor,
    name: &str,
    part: &Value,
    place: &str,
) -> Option<JsonError> {
    let alone = Value::Object([(name.to_owned(), part.clone())].into_iter().collect());
    let error = parse(parent, &alone).err()?;
    let elements: Vec<(String, &Value)> = match part {
        Value::Array(list) if field.is_list() => {
            list.iter().enumerate().map(|(index, element)| (format!("{place}[{index}]"), element)).collect()
        }
        one => vec![(place.to_owned(), one)],
    };
    if let Kind::Message(child) = field.kind() {
        for (place, element) in elements {
            if let Err(error) = parse(&child, element) {
                return Some(locate(&child, element, &place, error));
            }
        }
    }
    Some(JsonError::Place { place: place.to_owned(), reason: error.to_string() })
}

fn field_named(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(name).or_else(|| descriptor.get_field_by_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_agents::wire::config::EdgeDevConfig;
    use holdfast_agents::wire::info::ZInfoMsg;
    use serde_json::json;

    fn complaint(value: Value) -> String {
        from_value::<EdgeDevConfig>(&value).unwrap_err().to_string()
    }

    #[test]
    fn a_configuration_reads_as_people_write_it_and_comes_back_the_same() {
        let written = json!({
            "id": { "uuid": "d", "version": "1" },
            "apps": [{
                "uuidandversion": { "uuid": "a", "version": "1" },
                "displayname": "db",
                "fixedresources": { "memory": 65536, "vcpus": 1, "virtualizationMode": "HVM" },
                "activate": true,
                "volumeRefList": [{ "uuid": "v", "generationCount": "2" }],
                "snapshot": {
                    "activeSnapshot": "s",
                    "rollbackCmd": { "counter": 1 },
                    "maxSnapshots": 1,
                    "snapshots": [{ "id": "s", "type": "SNAPSHOT_TYPE_APP_UPDATE" }]
                },
                "holdfast": { "haState": "ignored", "tags": ["force_rollback"] }
            }],
            "contentInfo": [{ "uuid": "c", "URL": "image.qcow2", "iformat": "QCOW2" }],
            "configTimestamp": "2024-05-06T07:08:09Z"
        });
        let config: EdgeDevConfig = from_value(&written).unwrap();
        assert_eq!(config.apps[0].volume_ref_list[0].generation_count, 2);
        assert_eq!(config.config_timestamp.unwrap().seconds, 1_714_979_289);
        assert_eq!(to_value(&config), written);
        assert_eq!(from_text::<EdgeDevConfig>(&to_text(&config)).unwrap(), config);
    }

    #[test]
    fn a_report_shows_its_content_under_its_own_name() {
        let written = json!({
            "ztype": "ZiApp", "devId": "d",
            "ainfo": { "AppID": "a", "appVersion": "1", "state": "RUNNING" }
        });
        let report: ZInfoMsg = from_value(&written).unwrap();
        assert_eq!(to_value(&report), written);
    }

    #[test]
    fn an_error_names_the_place() {
        assert_eq!(complaint(json!({ "appz": [] })), "EdgeDevConfig.appz: there is no such field");
        assert_eq!(
            complaint(json!({ "apps": [{}, { "snapshot": { "snapshot": [] } }] })),
            "EdgeDevConfig.apps[1].snapshot.snapshot: there is no such field"
        );
        let wrong_type = complaint(json!({ "apps": [{ "activate": "perhaps" }] }));
        assert!(wrong_type.starts_with("EdgeDevConfig.apps[0].activate: "), "{wrong_type}");
        let wrong_name =
            complaint(json!({ "apps": [{ "snapshot": { "snapshots": [{ "type": "NEVER" }] } }] }));
        assert!(wrong_name.starts_with("EdgeDevConfig.apps[0].snapshot.snapshots[0].type: "), "{wrong_name}");
        let no_object = complaint(json!([1]));
        assert!(no_object.starts_with("EdgeDevConfig: "), "{no_object}");
        assert!(matches!(from_text::<EdgeDevConfig>("{"), Err(JsonError::Syntax(_))));
    }
}
