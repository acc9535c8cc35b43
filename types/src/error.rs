//! Errors as data: what travels on the bus, stands in records and is reported to the controller.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A point in time, UTC. Only the runtime's clock makes one.
pub type Timestamp = DateTime<Utc>;

/// Go's zero time, which EVE writes where no time is known; read as "none".
pub(crate) fn zero_is_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Timestamp>, D::Error> {
    const YEAR_ONE: i64 = -62_135_596_800;
    Ok(Option::<Timestamp>::deserialize(deserializer)?.filter(|time| time.timestamp() > YEAR_ONE))
}

/// How bad it is, with EVE's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Severity {
    Notice,
    Warning,
    #[default]
    Error,
}

impl Severity {
    /// The number on the wire (`Severity` of EVE's info API).
    pub fn number(self) -> i32 {
        match self {
            Severity::Notice => 1,
            Severity::Warning => 2,
            Severity::Error => 3,
        }
    }

    pub fn from_number(number: i32) -> Self {
        match number {
            1 => Severity::Notice,
            2 => Severity::Warning,
            _ => Severity::Error,
        }
    }
}

impl Serialize for Severity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(self.number())
    }
}

impl<'de> Deserialize<'de> for Severity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i32::deserialize(deserializer).map(Severity::from_number)
    }
}

/// What an error is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntity {
    #[serde(rename = "EntityType")]
    pub kind: EntityKind,
    #[serde(rename = "EntityID")]
    pub id: String,
}

/// The kinds of entities, with EVE's wire numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub enum EntityKind {
    AppInstance,
    ContentTree,
    Volume,
}

impl From<EntityKind> for i32 {
    fn from(kind: EntityKind) -> i32 {
        match kind {
            EntityKind::AppInstance => 5,
            EntityKind::ContentTree => 9,
            EntityKind::Volume => 11,
        }
    }
}

impl TryFrom<i32> for EntityKind {
    type Error = String;

    fn try_from(number: i32) -> Result<Self, String> {
        match number {
            5 => Ok(EntityKind::AppInstance),
            9 => Ok(EntityKind::ContentTree),
            11 => Ok(EntityKind::Volume),
            other => Err(format!("unknown entity type {other}")),
        }
    }
}

/// An error as a person will read it, with what it is about and when it can be tried again.
///
/// Field names are EVE's `ErrorDescription`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// One sentence or a chain of them, outermost first, joined by `: `.
    #[serde(rename = "Error")]
    pub summary: String,
    #[serde(rename = "ErrorTime")]
    pub time: Timestamp,
    #[serde(rename = "ErrorSeverity", default)]
    pub severity: Severity,
    #[serde(rename = "ErrorEntities", default, skip_serializing_if = "Vec::is_empty")]
    pub entities: Vec<ErrorEntity>,
    /// When or after what it makes sense to try again, in words; empty when nothing but a person helps.
    #[serde(rename = "ErrorRetryCondition", default, skip_serializing_if = "String::is_empty")]
    pub retry_condition: String,
}

impl ErrorReport {
    pub fn new(summary: impl Into<String>, time: Timestamp) -> Self {
        ErrorReport {
            summary: summary.into(),
            time,
            severity: Severity::Error,
            entities: Vec::new(),
            retry_condition: String::new(),
        }
    }

    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    pub fn about(mut self, kind: EntityKind, id: impl fmt::Display) -> Self {
        self.entities.push(ErrorEntity { kind, id: id.to_string() });
        self
    }

    pub fn retry(mut self, condition: impl Into<String>) -> Self {
        self.retry_condition = condition.into();
        self
    }

    /// A cause that only goes on keeps the report, and the time, with which it was known.
    pub fn or_known(self, known: Option<ErrorReport>) -> Self {
        known.filter(|known| known.summary == self.summary).unwrap_or(self)
    }
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary.fmt(f)
    }
}

/// An error and all its sources in one line, outermost first.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Go keeps an "error or nothing" as a struct whose text may be empty; these two functions read and write that.
pub mod optional_error {
    use super::{ErrorReport, Severity};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    struct Loose {
        #[serde(rename = "Error", default)]
        summary: String,
        #[serde(rename = "ErrorTime", default)]
        time: Option<super::Timestamp>,
        #[serde(rename = "ErrorSeverity", default)]
        severity: Severity,
        #[serde(rename = "ErrorEntities", default)]
        entities: Option<Vec<super::ErrorEntity>>,
        #[serde(rename = "ErrorRetryCondition", default)]
        retry_condition: String,
    }

    pub fn serialize<S: Serializer>(error: &Option<ErrorReport>, serializer: S) -> Result<S::Ok, S::Error> {
        error.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ErrorReport>, D::Error> {
        let loose = Option::<Loose>::deserialize(deserializer)?;
        Ok(loose.filter(|loose| !loose.summary.is_empty()).map(|loose| ErrorReport {
            summary: loose.summary,
            time: loose.time.unwrap_or_default(),
            severity: loose.severity,
            entities: loose.entities.unwrap_or_default(),
            retry_condition: loose.retry_condition,
        }))
    }
}
