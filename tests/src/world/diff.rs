//! What a step changed on the disk, in words: for somebody who reads a trace.
//!
//! Records are compared value by value, images by their marks and snapshots, other files by their size. Names that only
//! exist while something is being replaced, and spares of rows, are left out. Only traced worlds look; it costs a read of the whole disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use holdfast_persist::disk::Disk;
use holdfast_persist::{MemDisk, crashsafe};
use serde_json::Value;

use super::guests::mark_in;
use super::storage::raw_tool;

/// The values of each file, by their place in it.
#[derive(Debug, Clone, Default)]
pub struct Seen(BTreeMap<PathBuf, BTreeMap<String, String>>);

impl Seen {
    pub fn of(disk: &MemDisk) -> Seen {
        let is_lasting = |path: &PathBuf| path.file_name().is_some_and(|name| !crashsafe::is_temporary(name));
        let files = disk.all_files().into_iter().filter(is_lasting);
        Seen(files.map(|path| (path.clone(), values(disk, &path))).collect())
    }

    /// One line for each value that is another one in `after`.
    pub fn changes(&self, after: &Seen) -> Vec<String> {
        let nothing = BTreeMap::new();
        let mut lines = Vec::new();
        for path in self.0.keys().chain(after.0.keys().filter(|path| !self.0.contains_key(*path))) {
            let (was, is) = (self.0.get(path), after.0.get(path));
            let shown = path.display();
            match (was, is) {
                (None, Some(_)) => lines.push(format!("+ {shown}")),
                (Some(_), None) => {
                    lines.push(format!("- {shown}"));
                    continue;
                }
                _ => {}
            }
            let (was, is) = (was.unwrap_or(&nothing), is.unwrap_or(&nothing));
            for place in was.keys().chain(is.keys().filter(|place| !was.contains_key(*place))) {
                match (was.get(place), is.get(place)) {
                    (Some(old), Some(new)) if old == new => {}
                    (Some(old), Some(new)) => lines.push(format!("  {shown} {place}: {old} -> {new}")),
                    (None, Some(new)) => lines.push(format!("  {shown} {place}: {new}")),
                    (Some(old), None) => lines.push(format!("  {shown} {place}: {old} is gone")),
                    (None, None) => {}
                }
            }
        }
        lines
    }
}

fn values(disk: &MemDisk, path: &Path) -> BTreeMap<String, String> {
    let bytes = disk.read(path).unwrap_or_default();
    if let Ok(value @ Value::Object(_)) = serde_json::from_slice(&bytes) {
        let mut found = BTreeMap::new();
        leaves(&value, String::new(), &mut found);
        return found;
    }
    let tool = raw_tool(disk);
    match tool.image(path) {
        Ok(image)
            if !image.blocks.is_empty() || !image.snapshots.is_empty() || image.virtual_size_bytes > 0 =>
        {
            let mark = |blocks| mark_in(blocks).map_or("torn".to_owned(), |mark| format!("mark {mark}"));
            let mut found = BTreeMap::from([("content".to_owned(), mark(&image.blocks))]);
            found.insert("leaks".to_owned(), image.leaks.to_string());
            let snapshots = image.snapshots.iter();
            found.extend(
                snapshots.map(|snapshot| (format!("snapshot {}", snapshot.name), mark(&snapshot.blocks))),
            );
            found
        }
        _ => BTreeMap::from([("size".to_owned(), format!("{} bytes", bytes.len()))]),
    }
}

fn leaves(value: &Value, place: String, found: &mut BTreeMap<String, String>) {
    let below = |name: &str| if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| leaves(value, below(name), found));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(at, value)| leaves(value, below(&at.to_string()), found));
        }
        value => drop(found.insert(place, value.to_string())),
    }
}
