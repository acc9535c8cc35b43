//! [`ImageTool`] by qemu-img, 7.2 and newer.
//!
//! ```text
//!   convert -p [-n --target-is-zero] -f A -O B from to     info -f F --output=json [-U] image (but for qcow2: look.rs)
//!   snapshot -c|-a|-d NAME --image-opts …
//!   create -f F image SIZE           check -f qcow2 --output=json [-r leaks] image     resize -f F image SIZE
//! ```
//!
//! Formats are always given. Error texts (in the C locale) are sorted into the few kinds that callers branch on;
//! the text itself goes along. Looking for another word in a newer QEMU's text costs one line in `sort_error`.
//!
//! Deliberately absent: retries, names chosen here, and anything that remembers a call.

#![allow(clippy::disallowed_methods, reason = "part of the ImageTool seam: it looks at real images")]

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;
use holdfast_types::volume::Format;
use serde::Deserialize;

use super::header;
use super::kept;
use super::limit;
use super::look;
use crate::context::HandlerCx;
use crate::error::ToolError;
use crate::process::{self, Ended};
use crate::tool::{Access, CheckReport, ImageInfo, ImageSnapshot, ImageTool, Mend, qemu_format};
use crate::zvol::device;

/// What the kernel says of a volume's device while the pool's configuration is locked (`zvol/device.rs` tells more). It has waited
/// for a second by then.
const NOT_YET: [&str; 2] = ["No such device or address", "Unknown error 512"];
const OPEN_TRIES: usize = 5;
/// QEMU's default: clusters of 64 KiB, counts of 2 bytes.
const CLUSTER_BYTES: u64 = 64 << 10;
const BYTES_OF_FILE_PER_BYTE_OF_COUNTS: u64 = CLUSTER_BYTES / 2;
/// As many as QEMU takes by itself.
const LEAST_COUNTS_CACHED_BYTES: u64 = 4 * CLUSTER_BYTES;
/// Enough for 1 TiB. It is memory of the tool while it runs.
const MOST_COUNTS_CACHED_BYTES: u64 = 32 << 20;

/// The qemu-img program.
#[derive(Debug, Clone)]
pub struct QemuImg {
    program: PathBuf,
}

impl QemuImg {
    /// As found by `PATH`.
    pub fn new() -> Self {
        QemuImg::at("qemu-img")
    }

    pub fn at(program: impl Into<PathBuf>) -> Self {
        QemuImg { program: program.into() }
    }

    /// The first line of `--version`; the way to find out early whether it is installed.
    pub fn version(&self) -> Result<String, ToolError> {
        let ended = self.run(&["--version".into()], limit::for_metadata(0), &HandlerCx::unattended())?;
        let text = String::from_utf8_lossy(&ended.stdout);
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }

    fn run(&self, arguments: &[OsString], limit: Duration, cx: &HandlerCx<'_>) -> Result<Ended, ToolError> {
        tracing::debug!(program = %self.program.display(), ?arguments, "running");
        process::run(&self.program, arguments, limit, cx)
    }

    /// Runs it and takes any status but 0 for a failure.
    fn succeed(
        &self,
        arguments: &[OsString],
        limit: Duration,
        cx: &HandlerCx<'_>,
    ) -> Result<Ended, ToolError> {
        let ended = self.run(arguments, limit, cx)?;
        if ended.status.success() { Ok(ended) } else { Err(sort_error(&ended)) }
    }

    /// As [`ImageTool::info`]; qemu-img prints no sizes of snapshots.
    pub(super) fn told_by_tool(
        &self,
        image: &Path,
        format: Format,
        access: Access,
    ) -> Result<ImageInfo, ToolError> {
        let mut arguments: Vec<OsString> =
            vec!["info".into(), "-f".into(), qemu_format(format).into(), "--output=json".into()];
        if access == Access::Shared {
            arguments.push("-U".into());
        }
        arguments.push(plain(image));
        let ended = self.succeed(&arguments, limit::for_metadata(length(image)), &HandlerCx::unattended())?;
        Ok(parse::<JsonInfo>(&ended.stdout)?.into_image_info(image))
    }

    fn snapshot(&self, flag: &str, name: &str, image: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        let file_bytes = length(image);
        let mut opened = qcow2_with_counts(image, file_bytes);
        if flag == "-a" {
            opened.push(",pass-discard-snapshot=off");
        }
        let arguments = ["snapshot".into(), flag.into(), name.into(), "--image-opts".into(), opened];
        self.succeed(&arguments, limit::for_metadata(file_bytes), cx).map(drop)
    }
}

impl Default for QemuImg {
    fn default() -> Self {
        QemuImg::new()
    }
}

impl ImageTool for QemuImg {
    fn create(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        let arguments = [
            "create".into(),
            "-q".into(),
            "-f".into(),
            qemu_format(format).into(),
            plain(image),
            size_bytes.to_string().into(),
        ];
        self.succeed(&arguments, limit::for_metadata(size_bytes), cx).map(drop)
    }

    fn convert(
        &self,
        from: (&Path, Format),
        to: (&Path, Format),
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        let arguments = [
            "convert".into(),
            "-p".into(),
            "-f".into(),
            qemu_format(from.1).into(),
            "-O".into(),
            qemu_format(to.1).into(),
            plain(from.0),
            plain(to.0),
        ];
        // A compressed image holds more than its length; ten times more is beyond any compressor used for disks.
        let content_bytes = length(from.0).saturating_mul(10);
        self.succeed(&arguments, limit::for_content(content_bytes), cx).map(drop)
    }

    fn write_device(
        &self,
        from: (&Path, Format),
        device: &Path,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        let arguments = [
            "convert".into(),
            "-p".into(),
            "-n".into(),
            "--target-is-zero".into(),
            "-f".into(),
            qemu_format(from.1).into(),
            "-O".into(),
            "raw".into(),
            plain(from.0),
            plain(device),
        ];
        let content_bytes = length(from.0).saturating_mul(10);
        let is_not_yet = |error: &ToolError| match error {
            ToolError::Failed { stderr, .. } => NOT_YET.iter().any(|words| stderr.contains(words)),
            ToolError::Missing { stderr } => stderr.contains(&*device.to_string_lossy()),
            _ => false,
        };
        let mut written = Ok(());
        for _ in 0..OPEN_TRIES {
            // Who has it open already keeps it from being late for others.
            let held = device::open(device, OpenOptions::new().read(true)).map_err(unreadable_file)?;
            written = self.succeed(&arguments, limit::for_content(content_bytes), cx).map(drop);
            drop(held);
            if !written.as_ref().is_err_and(is_not_yet) {
                break;
            }
        }
        written
    }

    fn resize(
        &self,
        image: &Path,
        format: Format,
        size_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ToolError> {
        let arguments = [
            "resize".into(),
            "-q".into(),
            "-f".into(),
            qemu_format(format).into(),
            plain(image),
            size_bytes.to_string().into(),
        ];
        self.succeed(&arguments, limit::for_metadata(length(image)), cx).map(drop)
    }

    fn info(&self, image: &Path, format: Format, access: Access) -> Result<ImageInfo, ToolError> {
        match format {
            Format::Qcow2 => return look::at_qcow2(image, access),
            Format::Vmdk => refuse_vmdk_descriptor(image)?,
            _ => {}
        }
        self.told_by_tool(image, format, access)
    }

    fn check(&self, image: &Path, mend: Mend, cx: &HandlerCx<'_>) -> Result<CheckReport, ToolError> {
        let mut arguments: Vec<OsString> = vec!["check".into(), "-f".into(), "qcow2".into()];
        arguments.push("--output=json".into());
        if mend == Mend::Leaks {
            arguments.extend(["-r".into(), "leaks".into()]);
        }
        arguments.push(plain(image));
        let ended = self.run(&arguments, limit::for_content(length(image)), cx)?;
        // 0: clean. 2: damaged. 3: leaks only. 1 also stands for "could not open" and then nothing is printed.
        match ended.status.code() {
            Some(0..=3) if !ended.stdout.is_empty() => Ok(parse::<JsonCheck>(&ended.stdout)?.into()),
            _ => Err(sort_error(&ended)),
        }
    }

    fn snapshot_create(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.snapshot("-c", name, image, cx)
    }

    fn snapshot_apply(&self, image: &Path, id_or_name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.snapshot("-a", id_or_name, image, cx)
    }

    fn snapshot_delete(&self, image: &Path, name: &str, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        self.snapshot("-d", name, image, cx)
    }

    fn keep_tables(
        &self,
        image: &Path,
        id: &str,
        into: &Path,
        most_bytes: u64,
        cx: &HandlerCx<'_>,
    ) -> Result<bool, ToolError> {
        let held = look::Held::new(image)?;
        kept::keep(&held, id, into, most_bytes, cx)
    }

    fn put_back_tables(&self, image: &Path, from: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        let held = look::Held::new(image)?;
        kept::put_back(&held, from, cx)
    }

    fn discard_freed(&self, image: &Path, since: &Path, cx: &HandlerCx<'_>) -> Result<(), ToolError> {
        let held = look::Held::new(image)?;
        kept::discard_freed(&held, since, cx)
    }
}

/// A path that can be nothing else: `nbd:x`, `json:{…}` and `-o` mean other things to qemu-img.
fn plain(path: &Path) -> OsString {
    if path.is_absolute() { path.into() } else { Path::new(".").join(path).into() }
}

/// The image as `--image-opts` takes it: as qcow2 whatever it looks like (`snapshot` knows no `-f`), and with a cache for
/// all its reference counts. With the default one, which covers 8 GiB, a rollback or a deletion waits for the disk each
/// time a part of them has to make room: 64 times where 3 do, for 128 GiB (docs/performance.md).
fn qcow2_with_counts(image: &Path, file_bytes: u64) -> OsString {
    let counts_bytes = (file_bytes / BYTES_OF_FILE_PER_BYTE_OF_COUNTS).min(MOST_COUNTS_CACHED_BYTES);
    let cache_bytes = LEAST_COUNTS_CACHED_BYTES + counts_bytes.next_multiple_of(CLUSTER_BYTES);
    let mut options = OsString::from(format!("driver=qcow2,refcount-cache-size={cache_bytes},"));
    options.push("file.driver=file,file.filename=");
    // A comma ends a value there; two of them are one.
    let doubled = plain(image).into_vec().into_iter();
    let doubled = doubled.flat_map(|byte| std::iter::repeat_n(byte, if byte == b',' { 2 } else { 1 }));
    options.push(OsString::from_vec(doubled.collect()));
    options
}

/// For limits and caches only: a missing file gets the shortest.
fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map(|found| found.len()).unwrap_or(0)
}

fn refuse_vmdk_descriptor(image: &Path) -> Result<(), ToolError> {
    match header::flaw_of_vmdk(image).map_err(unreadable_file)? {
        Some(flaw) => Err(not_an_image(flaw)),
        None => Ok(()),
    }
}

pub(super) fn not_an_image(why: &str) -> ToolError {
    ToolError::NotAnImage { stderr: why.to_owned() }
}

pub(super) fn unreadable_file(error: std::io::Error) -> ToolError {
    match error.kind() {
        std::io::ErrorKind::NotFound => ToolError::Missing { stderr: error.to_string() },
        _ => ToolError::Unreadable { program: "the image's header".to_owned(), reason: error.to_string() },
    }
}

/// What the error texts of qemu-img (C locale) mean.
fn sort_error(ended: &Ended) -> ToolError {
    let stderr = ended.stderr.clone();
    let says = |words: &str| stderr.contains(words);
    if says("Failed to get") && says("lock") {
        ToolError::Locked { stderr }
    } else if says("No space left on device") || says("Disk quota exceeded") {
        ToolError::NoSpace { stderr }
    } else if says("No such file or directory") {
        ToolError::Missing { stderr }
    } else if says("Could not open")
        && !["Permission denied", "Input/output error"].into_iter().chain(NOT_YET).any(says)
    {
        // All else that keeps an image from being opened is in its own bytes.
        ToolError::NotAnImage { stderr }
    } else {
        ToolError::Failed { program: "qemu-img".to_owned(), status: ended.status.to_string(), stderr }
    }
}

fn parse<'a, T: Deserialize<'a>>(stdout: &'a [u8]) -> Result<T, ToolError> {
    serde_json::from_slice(stdout)
        .map_err(|error| ToolError::Unreadable { program: "qemu-img".to_owned(), reason: error.to_string() })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonInfo {
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    #[serde(default)]
    backing_filename: Option<String>,
    #[serde(default)]
    encrypted: bool,
    #[serde(default)]
    snapshots: Vec<JsonSnapshot>,
    #[serde(default)]
    format_specific: Option<JsonFormatSpecific>,
}

#[derive(Debug, Deserialize)]
struct JsonFormatSpecific {
    #[serde(default)]
    data: JsonFormatData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonFormatData {
    #[serde(default)]
    corrupt: bool,
    #[serde(default)]
    data_file: Option<String>,
    #[serde(default)]
    extents: Vec<JsonExtent>,
}

#[derive(Debug, Deserialize)]
struct JsonExtent {
    filename: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonSnapshot {
    id: String,
    name: String,
    #[serde(default)]
    vm_state_size: u64,
    #[serde(default)]
    date_sec: i64,
    #[serde(default)]
    date_nsec: u32,
}

impl JsonInfo {
    fn into_image_info(self, image: &Path) -> ImageInfo {
        let data = self.format_specific.map(|specific| specific.data).unwrap_or_default();
        let foreign_extent = data.extents.iter().any(|extent| Path::new(&extent.filename) != image);
        ImageInfo {
            virtual_size_bytes: self.virtual_size,
            allocated_bytes: self.actual_size,
            backing_file: self.backing_filename,
            external_data_file: data.data_file.is_some() || foreign_extent,
            encrypted: self.encrypted,
            marked_corrupt: data.corrupt,
            snapshots: self.snapshots.into_iter().map(JsonSnapshot::into_image_snapshot).collect(),
        }
    }
}

impl JsonSnapshot {
    fn into_image_snapshot(self) -> ImageSnapshot {
        ImageSnapshot {
            // It prints none.
            size_bytes: None,
            id: self.id,
            name: self.name,
            created_at: DateTime::from_timestamp(self.date_sec, self.date_nsec).unwrap_or_default(),
            vm_state_size_bytes: self.vm_state_size,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct JsonCheck {
    #[serde(default)]
    leaks: u64,
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    check_errors: u64,
    #[serde(default)]
    leaks_fixed: u64,
    #[serde(default)]
    corruptions_fixed: u64,
}

impl From<JsonCheck> for CheckReport {
    fn from(json: JsonCheck) -> Self {
        CheckReport {
            leaks: json.leaks,
            corruptions: json.corruptions,
            check_errors: json.check_errors,
            leaks_fixed: json.leaks_fixed,
            corruptions_fixed: json.corruptions_fixed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    fn failed(stderr: &str) -> ToolError {
        let status = std::process::ExitStatus::from_raw(1 << 8);
        sort_error(&Ended { status, stdout: Vec::new(), stderr: stderr.to_owned() })
    }

    #[test]
    fn error_texts_are_sorted_into_the_kinds_callers_branch_on() {
        let locked = "qemu-img: Could not open 'a': Failed to get shared \"write\" lock";
        assert!(matches!(failed(locked), ToolError::Locked { .. }));
        let full = "qemu-img: error while writing at byte 0: No space left on device";
        assert!(matches!(failed(full), ToolError::NoSpace { .. }));
        let other = failed("qemu-img: Could not apply snapshot 'x': -2 (Input/output error)");
        assert!(other.to_string().contains("exit status: 1"), "{other}");
        let foreign = "qemu-img: Could not open 'a': Image is not in qcow2 format";
        assert!(matches!(failed(foreign), ToolError::NotAnImage { .. }));
        // The file may be whole, and only the way to it is not.
        for passing in ["Permission denied", "Input/output error"].into_iter().chain(NOT_YET) {
            let error = failed(&format!("qemu-img: Could not open 'a': {passing}"));
            assert!(matches!(error, ToolError::Failed { .. }), "{passing}");
        }
        let sizeless = failed("qemu-img: Failed to get size of 'a'");
        assert!(matches!(sizeless, ToolError::Failed { .. }), "no lock in it");
    }

    #[test]
    fn data_in_another_file_are_seen_however_they_are_told() {
        let told = |data: &str| {
            let json = format!(r#"{{"virtual-size": 1, "format-specific": {{"data": {data}}}}}"#);
            let info = parse::<JsonInfo>(json.as_bytes()).expect("an answer");
            info.into_image_info(Path::new("/v")).external_data_file
        };
        assert!(!told("{}") && !told(r#"{"extents": [{"filename": "/v"}]}"#));
        assert!(told(r#"{"data-file": "/etc/shadow"}"#));
        assert!(told(r#"{"extents": [{"filename": "/v"}, {"filename": "/etc/shadow"}]}"#));
    }

    /// Seen in the header, before the program is started: the one named here does not exist.
    #[test]
    fn what_the_header_gives_away_is_refused_without_the_tool() {
        let tool = QemuImg::at("/no/such/tool");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let look = |bytes: &[u8], format| {
            std::fs::write(file.path(), bytes).expect("written");
            tool.info(file.path(), format, Access::Shared)
        };
        let descriptor = look(b"# Disk DescriptorFile\nRW 1 FLAT \"/etc/shadow\" 0\n", Format::Vmdk);
        assert!(matches!(descriptor, Err(ToolError::NotAnImage { .. })), "{descriptor:?}");
        assert_eq!(length(file.path()), 37 + 11);
    }

    #[test]
    fn what_newer_versions_add_to_the_answer_is_ignored() {
        let json = br#"{"virtual-size": 1048576, "actual-size": 5, "children": [{"name": "file"}],
            "snapshots": [{"id": "1", "name": "a", "date-sec": 1, "date-nsec": 2, "vm-state-size": 0,
                           "vm-clock-sec": 0, "vm-clock-nsec": 0, "icount": 0}],
            "format-specific": {"type": "qcow2", "data": {"corrupt": true, "compat": "1.1"}}}"#;
        let info = parse::<JsonInfo>(json).expect("an answer");
        let info = info.into_image_info(Path::new("/v"));
        assert!(info.marked_corrupt && info.backing_file.is_none());
        assert_eq!(info.snapshots[0].name, "a");
    }

    #[test]
    fn the_counts_of_an_image_fit_into_the_cache_up_to_a_bound() {
        let options = |file_bytes| qcow2_with_counts(Path::new("/v/a#1.qcow2"), file_bytes);
        let told = |cache_bytes: u64| {
            let words = format!("driver=qcow2,refcount-cache-size={cache_bytes},file.driver=file,");
            OsString::from(words + "file.filename=/v/a#1.qcow2")
        };
        assert_eq!(options(0), told(256 << 10), "a missing file is for qemu-img to tell");
        assert_eq!(options((128 << 30) + 1), told((4 << 20) + (256 << 10)));
        assert_eq!(options(100 << 40), told((32 << 20) + (256 << 10)));
    }

    /// Real qemu-img: more counts than its own cache holds, and a name that could be taken for an option.
    #[test]
    fn a_large_image_with_commas_in_its_name_is_cut_applied_and_rid_of_its_snapshot() {
        let tool = QemuImg::new();
        if let Err(reason) = tool.version() {
            println!("skipped: {reason}");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        let image = folder.path().join("a,driver=raw,,b.qcow2");
        let cx = HandlerCx::unattended();
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata"])
            .arg(&image)
            .arg("20G")
            .status();
        assert!(made.expect("runs").success());
        let snapshots = || {
            let info = tool.info(&image, Format::Qcow2, Access::Exclusive).expect("info");
            info.snapshots.into_iter().map(|snapshot| snapshot.name).collect::<Vec<_>>()
        };
        tool.snapshot_create(&image, "first", &cx).expect("cut");
        tool.snapshot_create(&image, "second", &cx).expect("cut");
        tool.snapshot_apply(&image, "first", &cx).expect("applied");
        assert_eq!(snapshots(), ["first", "second"]);
        tool.snapshot_delete(&image, "first", &cx).expect("deleted");
        assert_eq!(snapshots(), ["second"]);
        assert!(tool.check(&image, Mend::Nothing, &cx).expect("checked").is_clean());
        let missing = tool.snapshot_apply(&folder.path().join("no,such"), "first", &cx);
        assert!(matches!(missing, Err(ToolError::Missing { .. })), "{missing:?}");
        std::fs::write(&image, "no image at all, and long enough to be looked at".repeat(100))
            .expect("written");
        let foreign = tool.snapshot_create(&image, "third", &cx);
        assert!(matches!(foreign, Err(ToolError::NotAnImage { .. })), "{foreign:?}");
    }

    #[test]
    fn a_path_is_never_an_option_or_a_protocol() {
        assert_eq!(plain(Path::new("json:{}")), OsString::from("./json:{}"));
        assert_eq!(plain(Path::new("/v/a#1.qcow2")), OsString::from("/v/a#1.qcow2"));
    }
}
