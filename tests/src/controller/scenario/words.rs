//! How single values are written in a scenario: durations, texts that look like numbers, names of enums.

use std::time::Duration;

use holdfast_agents::wire::config::{Format, SnapshotType};
use holdfast_agents::wire::info::ZSwState;
use serde::de::{Deserialize, Deserializer, Error};
use serde_json::Value;

/// `30s`, `500ms` or `2m`.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text)
        .ok_or_else(|| D::Error::custom(format!("`{text}` is not a duration; write 500ms, 30s or 2m")))
}

pub fn optional_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    match unit.trim() {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        _ => None,
    }
}

/// A text; a whole number is one too, so that `version: 2` needs no quotes.
pub fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) if number.is_u64() => Ok(Some(number.to_string())),
        other => Err(D::Error::custom(format!("`{other}` is not a text; put it in quotes"))),
    }
}

/// The wire's name of a state: `RUNNING`.
pub fn optional_state<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ZSwState>, D::Error> {
    let name = String::deserialize(deserializer)?;
    match ZSwState::from_str_name(&name) {
        Some(state) => Ok(Some(state)),
        None => {
            Err(D::Error::custom(format!("`{name}` is not a state; they are the wire's, such as RUNNING")))
        }
    }
}

/// `app_update`, `immediate`, or `unspecified`.
pub fn snapshot_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SnapshotType, D::Error> {
    let name = String::deserialize(deserializer)?;
    SnapshotType::from_str_name(&format!("SNAPSHOT_TYPE_{}", name.to_uppercase())).ok_or_else(|| {
        D::Error::custom(format!("`{name}` is not a snapshot's type; write app_update or immediate"))
    })
}

/// `qcow2`, `raw`, `iso` and so on.
pub fn format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Format, D::Error> {
    let name = String::deserialize(deserializer)?;
    Format::from_str_name(&name.to_uppercase())
        .ok_or_else(|| D::Error::custom(format!("`{name}` is not a format; write qcow2, raw or iso")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(parse_duration("500 ms"), Some(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        for wrong in ["", "30", "s", "1h", "-1s", "1.5s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
