//! The controller's state on disk, so that a restart of the simulator forgets nothing.
//!
//! ```text
//!   DIR/<device>/config.json      the configuration, as JSON for people; replaced as a whole
//!   DIR/<device>/reports.jsonl    one report a line, appended
//! ```
//!
//! A configuration is durable when the call returns. Reports are written but not synced: a crash can lose the last
//! ones, or tear the last line, which is dropped with a warning at the next start; nodes report again. Anything
//! else that cannot be read is an error, because it was somebody's work.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use holdfast_agents::wire::config::EdgeDevConfig;
use holdfast_agents::wire::info::ZInfoMsg;
use holdfast_persist::crashsafe::durable_replace;
use holdfast_persist::real_disk::RealDisk;
use uuid::Uuid;

use super::json::{self, JsonError};
use super::{ControllerCore, REPORTS_KEPT};

const CONFIG_FILE: &str = "config.json";
const REPORTS_FILE: &str = "reports.jsonl";

/// The state folder, with the report files that are open.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    report_files: Mutex<BTreeMap<Uuid, File>>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: JsonError,
    },
}

/// Turns an error of the file system into one that names the file.
fn naming(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, path: path.to_owned(), source }
}

impl Store {
    /// Opens the folder, making it if it is new, and reads what it holds.
    pub fn open(folder: &Path) -> Result<(Store, ControllerCore), StoreError> {
        fs::create_dir_all(folder).map_err(naming("create", folder))?;
        let mut core = ControllerCore::new();
        for entry in fs::read_dir(folder).map_err(naming("list", folder))? {
            let path = entry.map_err(naming("list", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match name.parse::<Uuid>() {
                Ok(device) => load_device(&mut core, device, &path)?,
                Err(_) => tracing::warn!(path = %path.display(), "not a device; left alone"),
            }
        }
        Ok((Store { folder: folder.to_owned(), report_files: Mutex::default() }, core))
    }

    /// Keeps a configuration. Durable on return; a crash in the middle leaves the old one or the new one.
    pub fn save_config(&self, device: Uuid, config: &EdgeDevConfig) -> Result<(), StoreError> {
        let folder = self.folder.join(device.to_string());
        fs::create_dir_all(&folder).map_err(naming("create", &folder))?;
        let path = folder.join(CONFIG_FILE);
        let text = json::to_text(config) + "\n";
        durable_replace(&RealDisk, &path, text.as_bytes()).map_err(naming("write", &path))
    }

    /// Appends a report. In the file on return, but not synced.
    pub fn append_report(&self, device: Uuid, report: &ZInfoMsg) -> Result<(), StoreError> {
        let path = self.folder.join(device.to_string()).join(REPORTS_FILE);
        let mut files = self.report_files.lock().expect("no holder panics");
        if let std::collections::btree_map::Entry::Vacant(slot) = files.entry(device) {
            let opened = OpenOptions::new().create(true).append(true).open(&path);
            slot.insert(opened.map_err(naming("open", &path))?);
        }
        let line = json::to_line(report) + "\n";
        let file = files.get_mut(&device).expect("opened above");
        file.write_all(line.as_bytes()).map_err(naming("append to", &path))
    }
}

fn load_device(core: &mut ControllerCore, device: Uuid, folder: &Path) -> Result<(), StoreError> {
    let path = folder.join(CONFIG_FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        // The folder is made before its configuration is in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(naming("read", &path)(error)),
    };
    let config = json::from_text(&text).map_err(|source| StoreError::Damaged { path, source })?;
    core.set_config(device, config);
    load_reports(core, device, &folder.join(REPORTS_FILE))
}

fn load_reports(core: &mut ControllerCore, device: Uuid, path: &Path) -> Result<(), StoreError> {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(naming("read", path)(error)),
    };
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let lines: Vec<&str> = text[..whole].lines().collect();
    for line in &lines {
        let report =
            json::from_text(line).map_err(|source| StoreError::Damaged { path: path.to_owned(), source })?;
        core.record_info(device, report).expect("its configuration was loaded before");
    }
    if whole < text.len() {
        tracing::warn!(path = %path.display(), "the last report was torn and is dropped");
    }
    if whole < text.len() || lines.len() > REPORTS_KEPT {
        let kept = &lines[lines.len().saturating_sub(REPORTS_KEPT)..];
        let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
        durable_replace(&RealDisk, path, text.as_bytes()).map_err(naming("write", path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::DeviceConfig;

    const DEVICE: Uuid = Uuid::from_u128(0xd);

    fn report(device: &str) -> ZInfoMsg {
        ZInfoMsg { dev_id: device.into(), ..Default::default() }
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart_and_a_torn_report_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let (store, core) = Store::open(folder.path()).unwrap();
        assert_eq!(core.devices().count(), 0);
        let config = DeviceConfig::new(DEVICE).into_message();
        store.save_config(DEVICE, &config).unwrap();
        store.append_report(DEVICE, &report("one")).unwrap();
        store.append_report(DEVICE, &report("two")).unwrap();
        let reports = folder.path().join(DEVICE.to_string()).join(REPORTS_FILE);
        OpenOptions::new().append(true).open(&reports).unwrap().write_all(b"{\"devId\":\"thr").unwrap();

        let (store, core) = Store::open(folder.path()).unwrap();
        assert_eq!(core.config(DEVICE).unwrap(), &config);
        store.append_report(DEVICE, &report("three")).unwrap();

        let (_, core) = Store::open(folder.path()).unwrap();
        let said: Vec<_> = core.info(DEVICE).unwrap().iter().map(|report| report.dev_id.as_str()).collect();
        assert_eq!(said, ["one", "two", "three"]);
    }

    #[test]
    fn a_damaged_configuration_is_named_and_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(DEVICE.to_string()).join(CONFIG_FILE);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\"apps\": 3}").unwrap();
        let error = Store::open(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("{} is damaged", path.display()));
    }
}
