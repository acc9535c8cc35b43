//! What the guest says: its console log, followed line by line, and the diary of its boots.
//!
//! The log may be cut or replaced between boots; what was read before is kept here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::guest;

/// A growing file, read line by line.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    inode: u64,
    offset: u64,
    partial: Vec<u8>,
}

impl Tail {
    pub fn new(path: PathBuf) -> Self {
        Tail { path, inode: 0, offset: 0, partial: Vec::new() }
    }

    /// Complete lines that came since the last call; none while there is no file.
    pub fn new_lines(&mut self) -> Vec<String> {
        // What cannot be read now is read at the next call.
        let _ = self.read_on();
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.partial.split_off(end + 1);
        let complete = std::mem::replace(&mut self.partial, rest);
        let text = String::from_utf8_lossy(&complete);
        text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
    }

    fn read_on(&mut self) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        let metadata = file.metadata()?;
        if metadata.ino() != self.inode || metadata.len() < self.offset {
            (self.inode, self.offset) = (metadata.ino(), 0);
            self.partial.clear();
        }
        file.seek(SeekFrom::Start(self.offset))?;
        self.offset += file.read_to_end(&mut self.partial)? as u64;
        Ok(())
    }
}

/// One boot, as the guest told it.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    /// What the image says the guest's version is.
    pub version: String,
    /// By role (`image`, `data`): what was on the disk before this boot wrote.
    found: BTreeMap<String, BTreeMap<String, String>>,
    /// By role: what this boot wrote.
    wrote: BTreeMap<String, BTreeMap<String, String>>,
    pub ready: bool,
}

impl Boot {
    /// Words of the `found` line of a disk, as `key=value ...`.
    pub fn found(&self, role: &str, keys: &[&str]) -> String {
        words(self.found.get(role), keys)
    }

    /// Words of the `wrote` line of a disk.
    pub fn wrote(&self, role: &str, keys: &[&str]) -> String {
        words(self.wrote.get(role), keys)
    }
}

fn words(fields: Option<&BTreeMap<String, String>>, keys: &[&str]) -> String {
    let Some(fields) = fields else { return "nothing was said".into() };
    let word = |key: &&str| format!("{key}={}", fields.get(*key).map_or("?", String::as_str));
    keys.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// All boots, oldest first.
#[derive(Debug, Default)]
pub struct Diary {
    pub boots: Vec<Boot>,
}

impl Diary {
    /// Takes a line of the console. Returns what the guest said, if it was the guest who spoke.
    pub fn take<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        let said = &line[line.find("guest: ")? + "guest: ".len()..];
        let fields = guest::fields(said);
        let verb = said.split_ascii_whitespace().next()?;
        if verb == "started" {
            let version = fields.get("version").cloned().unwrap_or_default();
            self.boots.push(Boot { version, ..Boot::default() });
        }
        let boot = self.boots.last_mut()?;
        let role = fields.get("role").cloned().unwrap_or_default();
        match verb {
            "found" => drop(boot.found.insert(role, fields)),
            "wrote" => drop(boot.wrote.insert(role, fields)),
            "ready" => boot.ready = true,
            _ => {}
        }
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn boots_are_told_apart() {
        let mut diary = Diary::default();
        for line in [
            "[    0.1] noise",
            "guest: started version=1 disks=2",
            "guest: found disk=vdb role=data access=rw version=none boots=none payload=none",
            "guest: ready version=1 vda-boots=1",
            "\u{1b}cguest: started version=2 disks=2",
        ] {
            diary.take(line);
        }
        assert_eq!(diary.boots.len(), 2);
        assert_eq!(diary.boots[0].found("data", &["boots", "payload"]), "boots=none payload=none");
        assert!(diary.boots[0].ready && !diary.boots[1].ready);
        assert_eq!(diary.boots[1].version, "2");
    }

    #[test]
    fn a_replaced_file_is_read_from_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut tail = Tail::new(path.clone());
        assert!(tail.new_lines().is_empty());
        let mut file = File::create(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(tail.new_lines(), ["one"]);
        file.write_all(b"o\n").unwrap();
        assert_eq!(tail.new_lines(), ["two"]);
        std::fs::write(folder.path().join("new"), "three\n").unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(tail.new_lines(), ["three"]);
    }
}
