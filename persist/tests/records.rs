//! The record test set of [003] H4: simple struct, no file, empty, not JSON, truncated, wrong type, mandatory
//! missing and null, extra field, missing optional, flattened, nested, array of structs, map of structs; and
//! the format number of H2.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use holdfast_persist::crashsafe::ensure_dir;
use holdfast_persist::record::{load, parse, render, store};
use holdfast_persist::{Disk, MemDisk, RecordError};
use holdfast_types::{Field, Record, Shape};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const PATH: &str = "/snapshots/s1/status.json";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Simple {
    name: String,
    size_bytes: u64,
    #[serde(default)]
    note: String,
    #[serde(default)]
    tags: Vec<String>,
}

impl Record for Simple {
    const NAME: &'static str = "simple record";
    const SHAPE: Shape = Shape::Struct(&[
        Field::mandatory("Name"),
        Field::mandatory("SizeBytes"),
        Field::optional("Note"),
        Field::optional("Tags"),
    ]);
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Embedded {
    generation: u32,
    #[serde(default)]
    label: String,
}

const EMBEDDED: Shape = Shape::Struct(&[Field::mandatory("Generation"), Field::optional("Label")]);
const VOLUME: Shape = Shape::Struct(&[Field::mandatory("Name"), Field::flattened(&EMBEDDED)]);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Volume {
    name: String,
    #[serde(flatten)]
    embedded: Embedded,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Descriptor {
    #[serde(rename = "SnapshotID")]
    snapshot_id: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deep {
    snapshot: Descriptor,
    volumes: Vec<Volume>,
    #[serde(default)]
    meta: BTreeMap<String, Volume>,
    #[serde(default)]
    groups: BTreeMap<String, Vec<Volume>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<Descriptor>,
}

const DESCRIPTOR: Shape = Shape::Struct(&[Field::mandatory("SnapshotID")]);

impl Record for Deep {
    const NAME: &'static str = "deep record";
    const FORMAT: u32 = 3;
    const SHAPE: Shape = Shape::Struct(&[
        Field::mandatory("Snapshot").of(&DESCRIPTOR),
        Field::mandatory("Volumes").of(&Shape::List(&VOLUME)),
        Field::optional("Meta").of(&Shape::Map(&VOLUME)),
        Field::optional("Groups").of(&Shape::Map(&Shape::List(&VOLUME))),
        Field::optional("Parent").of(&DESCRIPTOR),
    ]);
}

fn disk() -> MemDisk {
    let disk = MemDisk::new();
    ensure_dir(&disk, Path::new("/snapshots/s1")).unwrap();
    disk
}

fn simple() -> Simple {
    Simple { name: "root".into(), size_bytes: 7, note: "n".into(), tags: vec!["a".into()] }
}

fn volume(name: &str) -> Volume {
    Volume { name: name.into(), embedded: Embedded { generation: 2, label: "l".into() } }
}

fn deep() -> Deep {
    Deep {
        snapshot: Descriptor { snapshot_id: "s1".into() },
        volumes: vec![volume("a"), volume("b")],
        meta: BTreeMap::from([("m".into(), volume("c"))]),
        groups: BTreeMap::from([("g".into(), vec![volume("d")])]),
        parent: None,
    }
}

fn parse_json<T: Record>(value: Value) -> Result<T, RecordError> {
    parse(Path::new(PATH), value.to_string().as_bytes())
}

fn missing<T: Record + std::fmt::Debug>(value: Value) -> Vec<String> {
    match parse_json::<T>(value) {
        Err(RecordError::MissingFields { path, fields, .. }) if path == Path::new(PATH) => fields,
        other => panic!("expected missing fields, got {other:?}"),
    }
}

fn text<T: Record + std::fmt::Debug>(value: Value) -> String {
    parse_json::<T>(value).unwrap_err().to_string()
}

#[test]
fn a_simple_struct_is_stored_and_loaded() {
    let disk = disk();
    store(&disk, Path::new(PATH), &simple()).unwrap();
    disk.crash();
    let loaded: Simple = load(&disk, Path::new(PATH)).unwrap();
    assert_eq!(loaded, simple());
    let written = String::from_utf8(disk.read(Path::new(PATH)).unwrap()).unwrap();
    assert_eq!(
        written,
        "{\n  \"Name\": \"root\",\n  \"SizeBytes\": 7,\n  \"Note\": \"n\",\n  \"Tags\": [\n    \"a\"\n  ],\n  \"Checksum\": \"crc32:1d6dbc09\"\n}\n"
    );
}

/// A flipped bit that leaves good JSON of another meaning is damage; a record without a checksum is taken as it is.
#[test]
fn a_changed_value_does_not_match_the_checksum() {
    let bytes = String::from_utf8(render(Path::new(PATH), &simple()).unwrap()).unwrap();
    let changed = bytes.replace("\"SizeBytes\": 7", "\"SizeBytes\": 5");
    let error = parse::<Simple>(Path::new(PATH), changed.as_bytes()).unwrap_err();
    assert!(matches!(error, RecordError::WrongSeal { .. }) && error.is_damage());
    assert!(error.to_string().ends_with("does not match its checksum"), "{error}");
    let mended = changed.replace(",\n  \"Checksum\": \"crc32:1d6dbc09\"", "");
    assert_eq!(
        parse::<Simple>(Path::new(PATH), mended.as_bytes()).unwrap(),
        Simple { size_bytes: 5, ..simple() }
    );
}

#[test]
fn no_file() {
    let error = load::<Simple>(&disk(), Path::new(PATH)).unwrap_err();
    assert!(matches!(error, RecordError::NotFound { .. }) && !error.is_damage());
    assert_eq!(error.to_string(), format!("there is no simple record at {PATH}"));
}

#[test]
fn a_file_that_cannot_be_read_is_not_damage() {
    let disk = disk();
    store(&disk, Path::new(PATH), &simple()).unwrap();
    disk.fail_at(1, ErrorKind::Other);
    let error = load::<Simple>(&disk, Path::new(PATH)).unwrap_err();
    assert!(matches!(error, RecordError::Io { .. }) && !error.is_damage());
}

#[test]
fn an_empty_file() {
    for bytes in [&b""[..], b" \n\t"] {
        let error = parse::<Simple>(Path::new(PATH), bytes).unwrap_err();
        assert!(matches!(error, RecordError::Empty { .. }) && error.is_damage());
    }
}

#[test]
fn not_json() {
    let error = parse::<Simple>(Path::new(PATH), b"{\n  \"Name\": oops\n}").unwrap_err();
    assert!(matches!(error, RecordError::NotJson { line: 2, column: 11, truncated: false, .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("simple record {PATH} is not JSON at line 2, column 11"));
    let error = parse::<Simple>(Path::new(PATH), b"\0\0\0\0").unwrap_err();
    assert!(matches!(error, RecordError::NotJson { .. }) && error.is_damage());
}

#[test]
fn a_file_cut_off_anywhere_is_damage_and_never_another_record() {
    let whole = render(Path::new(PATH), &deep()).unwrap();
    let end = whole.len() - 2;
    for length in 1..=end {
        let error = parse::<Deep>(Path::new(PATH), &whole[..length]).unwrap_err();
        assert!(matches!(error, RecordError::NotJson { truncated: true, .. }), "{length}: {error:?}");
    }
}

#[test]
fn a_wrong_type() {
    assert_eq!(
        text::<Simple>(json!({"Name": "n", "SizeBytes": "many"})),
        format!(
            "simple record {PATH} holds a value of the wrong type: invalid type: string \"many\", expected u64 \
             at line 1 column 30"
        )
    );
    for (whole, found) in [(json!([]), "an array"), (json!("x"), "a string"), (json!(null), "null")] {
        let expected = format!("holds a value of the wrong type: the whole is {found}, not an object");
        assert!(text::<Simple>(whole).ends_with(&expected));
    }
}

#[test]
fn a_wrong_type_where_fields_should_be_is_named() {
    let error = text::<Deep>(json!({"Snapshot": "s1", "Volumes": {}, "Meta": 3}));
    assert!(
        error.ends_with("Snapshot is a string, not an object; Volumes is an object, not an array; Meta is a number, not an object"),
        "{error}"
    );
}

#[test]
fn a_mandatory_field_missing_or_null() {
    assert_eq!(missing::<Simple>(json!({"SizeBytes": 1})), ["Name"]);
    assert_eq!(missing::<Simple>(json!({"Name": null, "SizeBytes": null})), ["Name", "SizeBytes"]);
    assert_eq!(missing::<Simple>(json!({})), ["Name", "SizeBytes"]);
    assert_eq!(
        text::<Simple>(json!({})),
        format!("simple record {PATH} lacks mandatory fields: Name, SizeBytes")
    );
}

#[test]
fn an_empty_value_is_not_a_missing_one() {
    let loaded: Simple = parse_json(json!({"Name": "", "SizeBytes": 0})).unwrap();
    assert_eq!(loaded, Simple { name: String::new(), size_bytes: 0, note: String::new(), tags: vec![] });
}

#[test]
fn an_extra_field_is_ignored() {
    let loaded: Simple =
        parse_json(json!({"Name": "root", "SizeBytes": 7, "Note": "n", "Tags": ["a"], "New": {"x": [1]}}))
            .unwrap();
    assert_eq!(loaded, simple());
}

#[test]
fn a_missing_or_null_optional_field_takes_its_default() {
    for value in [
        json!({"Name": "root", "SizeBytes": 7}),
        // As Go writes an empty list.
        json!({"Name": "root", "SizeBytes": 7, "Note": null, "Tags": null}),
    ] {
        let loaded: Simple = parse_json(value).unwrap();
        assert_eq!(loaded, Simple { note: String::new(), tags: vec![], ..simple() });
    }
}

#[test]
fn a_field_of_a_flattened_struct_stands_in_its_parent() {
    let loaded: Deep = parse_json(json!({
        "Snapshot": {"SnapshotID": "s1"},
        "Volumes": [{"Name": "a", "Generation": 2, "Label": null}],
    }))
    .unwrap();
    assert_eq!(loaded.volumes[0].embedded, Embedded { generation: 2, label: String::new() });
    assert_eq!(
        missing::<Deep>(json!({"Snapshot": {"SnapshotID": "s1"}, "Volumes": [{"Name": "a"}]})),
        ["Volumes[0].Generation"]
    );
}

#[test]
fn a_field_of_a_nested_struct() {
    assert_eq!(missing::<Deep>(json!({"Snapshot": {}, "Volumes": []})), ["Snapshot.SnapshotID"]);
    // An optional parent is checked when it is there.
    assert_eq!(
        missing::<Deep>(json!({"Snapshot": {"SnapshotID": "s1"}, "Volumes": [], "Parent": {}})),
        ["Parent.SnapshotID"]
    );
    assert!(
        parse_json::<Deep>(json!({"Snapshot": {"SnapshotID": "s1"}, "Volumes": [], "Parent": null})).is_ok()
    );
}

#[test]
fn a_field_in_an_array_of_structs_and_in_a_map_of_structs() {
    let value = json!({
        "Snapshot": {"SnapshotID": "s1"},
        "Volumes": [{"Name": "a", "Generation": 1}, null, {"Generation": 1}],
        "Meta": {"good": {"Name": "a", "Generation": 1}, "key": {"Generation": null}, "none": null},
        "Groups": {"g": [{"Name": "a", "Generation": 1}, {}]},
    });
    assert_eq!(
        missing::<Deep>(value),
        [
            "Volumes[1]",
            "Volumes[2].Name",
            "Meta{key}.Name",
            "Meta{key}.Generation",
            "Meta{none}",
            "Groups{g}[1].Name",
            "Groups{g}[1].Generation",
        ]
    );
}

#[test]
fn every_missing_field_is_named_at_once() {
    assert_eq!(
        missing::<Deep>(json!({"Volumes": [{}]})),
        ["Snapshot", "Volumes[0].Name", "Volumes[0].Generation"]
    );
}

#[test]
fn the_format_is_written_from_the_second_on() {
    let bytes = render(Path::new(PATH), &deep()).unwrap();
    let written: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(written["FormatVersion"], 3);
    assert!(bytes.starts_with(b"{\n  \"FormatVersion\": 3,\n  \"Snapshot\""), "the format stands first");
    assert_eq!(parse::<Deep>(Path::new(PATH), &bytes).unwrap(), deep());
}

#[test]
fn older_formats_load_and_newer_ones_are_refused_and_left_in_place() {
    let older = json!({"Snapshot": {"SnapshotID": "s1"}, "Volumes": []});
    assert!(parse_json::<Deep>(older).is_ok());

    let disk = disk();
    let newer = br#"{"FormatVersion": 4, "Everything": "is different"}"#;
    disk.create_new(Path::new(PATH), newer, 0o600).unwrap();
    let error = load::<Deep>(&disk, Path::new(PATH)).unwrap_err();
    assert!(matches!(error, RecordError::NewerFormat { found: 4, known: 3, .. }) && !error.is_damage());
    assert_eq!(error.to_string(), format!("deep record {PATH} has format 4, this release knows up to 3"));
    assert_eq!(disk.read(Path::new(PATH)).unwrap(), newer);

    assert!(matches!(parse_json::<Deep>(json!({"FormatVersion": "4"})), Err(RecordError::WrongType { .. })));
}

#[test]
fn what_could_not_be_loaded_again_is_not_stored() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Hole {
        #[serde(rename = "Name")]
        name: Option<String>,
    }
    impl Record for Hole {
        const NAME: &'static str = "hole";
        const SHAPE: Shape = Shape::Struct(&[Field::mandatory("Name")]);
    }
    let disk = disk();
    store(&disk, Path::new(PATH), &Hole { name: Some("x".into()) }).unwrap();
    let error = store(&disk, Path::new(PATH), &Hole { name: None }).unwrap_err();
    assert!(matches!(error, RecordError::MissingFields { .. }));
    assert_eq!(load::<Hole>(&disk, Path::new(PATH)).unwrap().name.as_deref(), Some("x"));
}
