//! Records: JSON files a person can read, with fields that must be there ([003] H1-H4).
//!
//! ```text
//!   bytes ─▶ empty? ─▶ JSON? ─▶ an object? ─▶ format known? ─▶ mandatory fields ─▶ seal matches? ─▶ types fit ─▶ T
//!              Empty    NotJson   WrongType     NewerFormat       MissingFields       WrongSeal         WrongType
//! ```
//!
//! Each check comes before those that would only confuse after it: a newer format may well lack our fields, so
//! its number is looked at first. *Every* missing field is named, at any depth, because whoever repairs a
//! record wants the whole list at once.
//!
//! A null counts as missing: Go writes its empty lists and maps as null, and an optional one takes its default.
//! [`store`] applies the same checks to what it is about to write, so a record this release cannot read back
//! never replaces one that it can.
//!
//! Nothing here moves or removes a file: what to do with a damaged record is `quarantine.rs`, when the caller
//! says so.

use std::io;
use std::path::{Path, PathBuf};

use holdfast_types::Record;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::crashsafe;
use crate::disk::{Disk, is_no_space};
use crate::mandatory::{self, Findings, type_name};
use crate::seal::{self, SEAL_FIELD, Seal};

/// The field that carries the number of the format; without it a record is format 1, as all of EVE's are.
pub const FORMAT_FIELD: &str = "FormatVersion";

/// Why a record cannot be had, with the file it should be in.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("there is no {record} at {}", path.display())]
    NotFound { path: PathBuf, record: &'static str },

    #[error("{record} {} is empty", path.display())]
    Empty { path: PathBuf, record: &'static str },

    /// Lines and columns count from 1. `truncated` when the text ends before the value does.
    #[error("{record} {} is {} at line {line}, column {column}", path.display(), not_json(truncated))]
    NotJson {
        path: PathBuf,
        record: &'static str,
        line: usize,
        column: usize,
        truncated: bool,
        source: serde_json::Error,
    },

    #[error("{record} {} holds a value of the wrong type: {detail}", path.display())]
    WrongType { path: PathBuf, record: &'static str, detail: String },

    /// Every field that is missing or null and must not be, as paths: `Snapshot.SnapshotID`,
    /// `Volumes[2].Name`, `Meta{key}.Name`.
    #[error("{record} {} lacks mandatory fields: {}", path.display(), fields.join(", "))]
    MissingFields { path: PathBuf, record: &'static str, fields: Vec<String> },

    /// Some bits of it are not what was written: it may name another volume, another generation ([`seal`]).
    #[error("{record} {} does not match its checksum", path.display())]
    WrongSeal { path: PathBuf, record: &'static str },

    /// Written by a newer release; the file is left as it is.
    #[error("{record} {} has format {found}, this release knows up to {known}", path.display())]
    NewerFormat { path: PathBuf, record: &'static str, found: u64, known: u32 },

    #[error("{record} {} cannot be read or written", path.display())]
    Io { path: PathBuf, record: &'static str, source: io::Error },
}

impl RecordError {
    pub fn path(&self) -> &Path {
        match self {
            RecordError::NotFound { path, .. }
            | RecordError::Empty { path, .. }
            | RecordError::NotJson { path, .. }
            | RecordError::WrongType { path, .. }
            | RecordError::MissingFields { path, .. }
            | RecordError::WrongSeal { path, .. }
            | RecordError::NewerFormat { path, .. }
            | RecordError::Io { path, .. } => path,
        }
    }

    /// True when the file itself is broken and belongs into quarantine. False for one that is missing, that a
    /// newer release wrote, or that could not be read: moving those aside would lose something whole.
    pub fn is_damage(&self) -> bool {
        match self {
            RecordError::Empty { .. }
            | RecordError::NotJson { .. }
            | RecordError::WrongType { .. }
            | RecordError::MissingFields { .. }
            | RecordError::WrongSeal { .. } => true,
            RecordError::NotFound { .. } | RecordError::NewerFormat { .. } | RecordError::Io { .. } => false,
        }
    }

    /// True when writing failed for want of room.
    pub fn is_no_space(&self) -> bool {
        matches!(self, RecordError::Io { source, .. } if is_no_space(source))
    }
}

/// Reads and checks the record. Changes nothing.
pub fn load<T: Record>(disk: &dyn Disk, path: &Path) -> Result<T, RecordError> {
    match disk.read(path) {
        Ok(bytes) => parse(path, &bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(RecordError::NotFound { path: path.to_path_buf(), record: T::NAME })
        }
        Err(source) => Err(RecordError::Io { path: path.to_path_buf(), record: T::NAME, source }),
    }
}

/// Writes the record, durable when `Ok`; its directory must be there. After an error or a cut the file is whole,
/// old or new. A record that [`parse`] would refuse is refused here, before anything is touched.
pub fn store<T: Record>(disk: &dyn Disk, path: &Path, record: &T) -> Result<(), RecordError> {
    let bytes = render(path, record)?;
    crashsafe::durable_replace(disk, path, &bytes).map_err(|source| io_error::<T>(path, source))
}

/// The bytes [`store`] would write: indented JSON and a newline, the record's own field order, the seal last.
pub fn render<T: Record>(path: &Path, record: &T) -> Result<Vec<u8>, RecordError> {
    let rendered = if T::FORMAT > 1 {
        serde_json::to_vec_pretty(&WithFormat { format_version: T::FORMAT, record })
    } else {
        serde_json::to_vec_pretty(record)
    };
    let mut bytes = seal::seal(&rendered.map_err(|e| io_error::<T>(path, e.into()))?);
    bytes.push(b'\n');
    parse::<T>(path, &bytes)?;
    Ok(bytes)
}

/// Checks the bytes of a record; `path` is for the error only.
pub fn parse<T: Record>(path: &Path, bytes: &[u8]) -> Result<T, RecordError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(RecordError::Empty { path: path.to_path_buf(), record: T::NAME });
    }
    let mut value: Value = serde_json::from_slice(bytes).map_err(|e| not_json_error::<T>(path, e))?;
    let Value::Object(fields) = &mut value else {
        return Err(wrong_type::<T>(path, format!("the whole is {}, not an object", type_name(&value))));
    };
    let seal = seal::check(bytes);
    if seal != Seal::Absent {
        fields.remove(SEAL_FIELD);
    }
    check_format::<T>(path, fields)?;
    let names: Vec<String> = fields.keys().cloned().collect();
    check_fields::<T>(path, &value)?;
    if seal == Seal::Wrong {
        return Err(RecordError::WrongSeal { path: path.to_path_buf(), record: T::NAME });
    }
    let record = fit(path, bytes, value)?;
    warn_of_unknown(path, &record, &names);
    Ok(record)
}

#[derive(Serialize)]
struct WithFormat<'a, T> {
    #[serde(rename = "FormatVersion")]
    format_version: u32,
    #[serde(flatten)]
    record: &'a T,
}

fn check_format<T: Record>(path: &Path, fields: &Map<String, Value>) -> Result<(), RecordError> {
    let found = match fields.get(FORMAT_FIELD) {
        None | Some(Value::Null) => 1,
        Some(value) => value.as_u64().ok_or_else(|| {
            wrong_type::<T>(path, format!("{FORMAT_FIELD} is {}, not a whole number", type_name(value)))
        })?,
    };
    if found > u64::from(T::FORMAT) {
        let path = path.to_path_buf();
        return Err(RecordError::NewerFormat { path, record: T::NAME, found, known: T::FORMAT });
    }
    Ok(())
}

fn check_fields<T: Record>(path: &Path, value: &Value) -> Result<(), RecordError> {
    let Findings { missing, misshapen } = mandatory::check(&T::SHAPE, value);
    if !missing.is_empty() {
        return Err(RecordError::MissingFields {
            path: path.to_path_buf(),
            record: T::NAME,
            fields: missing,
        });
    }
    if !misshapen.is_empty() {
        return Err(wrong_type::<T>(path, misshapen.join("; ")));
    }
    Ok(())
}

fn fit<T: Record>(path: &Path, bytes: &[u8], value: Value) -> Result<T, RecordError> {
    serde_json::from_value(mandatory::without_nulls(&T::SHAPE, value)).map_err(|error| {
        // Read from the text once more, only for the line and column; a null could make that succeed.
        let placed = serde_json::from_slice::<T>(bytes).err().filter(serde_json::Error::is_data);
        wrong_type::<T>(path, placed.unwrap_or(error).to_string())
    })
}

fn warn_of_unknown<T: Record>(path: &Path, record: &T, found: &[String]) {
    let unknown = unknown_fields(record, found);
    if !unknown.is_empty() {
        tracing::warn!(path = %path.display(), record = T::NAME, ?unknown, "unknown fields ignored");
    }
}

/// Unknown are the fields that are not in the record once it is written again; only the outermost are compared.
fn unknown_fields<'a, T: Record>(record: &T, found: &'a [String]) -> Vec<&'a String> {
    let Ok(Value::Object(known)) = serde_json::to_value(record) else { return Vec::new() };
    found
        .iter()
        .filter(|name| *name != FORMAT_FIELD && !known.contains_key(*name))
        .filter(|name| !mandatory::names_field(&T::SHAPE, name))
        .collect()
}

fn not_json_error<T: Record>(path: &Path, source: serde_json::Error) -> RecordError {
    RecordError::NotJson {
        path: path.to_path_buf(),
        record: T::NAME,
        line: source.line(),
        column: source.column(),
        truncated: source.is_eof(),
        source,
    }
}

fn not_json(truncated: &bool) -> &'static str {
    if *truncated { "cut off" } else { "not JSON" }
}

fn wrong_type<T: Record>(path: &Path, detail: String) -> RecordError {
    RecordError::WrongType { path: path.to_path_buf(), record: T::NAME, detail }
}

fn io_error<T: Record>(path: &Path, source: io::Error) -> RecordError {
    RecordError::Io { path: path.to_path_buf(), record: T::NAME, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemDisk;
    use holdfast_types::{Field, Shape};
    use serde::Deserialize;
    use std::collections::BTreeMap;

    #[derive(Debug, Serialize, Deserialize)]
    struct Note {
        text: String,
        /// Not written when it is not there, and known all the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer: Option<String>,
    }

    const EMBEDDED: Shape = Shape::Struct(&[Field::optional("inner")]);

    impl Record for Note {
        const NAME: &'static str = "note";
        const SHAPE: Shape = Shape::Struct(&[
            Field::mandatory("text"),
            Field::optional("answer"),
            Field::flattened(&EMBEDDED),
        ]);
    }

    #[test]
    fn a_field_is_unknown_if_neither_the_record_nor_its_shape_has_it() {
        let names = ["FormatVersion", "text", "answer", "inner", "added later"].map(str::to_owned);
        let note = Note { text: "t".into(), answer: None };
        assert_eq!(unknown_fields(&note, &names), ["added later"]);
    }

    /// The seal is no field of the record, also where a record keeps the fields it does not know.
    #[test]
    fn the_seal_is_taken_off_before_a_record_is_read() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Keeper {
            #[serde(flatten)]
            fields: BTreeMap<String, Value>,
        }
        impl Record for Keeper {
            const NAME: &'static str = "keeper";
            const SHAPE: Shape = Shape::Struct(&[]);
        }
        let path = Path::new("/keeper.json");
        let keeper = Keeper { fields: BTreeMap::from([("a".to_owned(), Value::from(1))]) };
        let disk = MemDisk::new();
        store(&disk, path, &keeper).expect("stored");
        let loaded: Keeper = load(&disk, path).expect("whole");
        assert_eq!(loaded.fields, keeper.fields);
    }
}
