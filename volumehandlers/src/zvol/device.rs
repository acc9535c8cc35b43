//! The block device of a volume: is it there, who has it open, and a flush. Part of both real backends.
//!
//! Who has it open is asked twice: an exclusive open, which the kernel refuses for what is mounted or claimed by it, and a look
//! through `/proc`, for QEMU claims nothing. Processes that this one may not look into are not seen; ZFS itself then refuses a rollback
//! and a destruction under an open device, without saying whose it is.
//!
//! **Why an open is tried again.** While another command holds the pool's configuration, the kernel gives up opening a volume's device
//! after a second and says that there is no such device, or "unknown error 512" (seen: two volumes made at once, OpenZFS 2.1.11). udev's own look at the
//! device, after each closing, may fail so, too; then it takes the link away, and nothing brings it back. So who misses a link has udev
//! look again.

#![allow(clippy::disallowed_methods, reason = "part of the Zfs seam: it looks at real devices")]

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind::NotFound;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::zfs::{Dataset, SnapshotOf, ZfsError};
use crate::context::HandlerCx;
use crate::process;

/// udev makes the link; on a busy node it has much to do.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
/// The kernel's own limit for one try is a second.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const UDEV_LIMIT: Duration = Duration::from_secs(10);
const LOOK_UP: Duration = Duration::from_millis(20);

/// Waits until the device has appeared and can be opened, or says that it does not.
pub(super) fn wait_for(dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
    let limit = cx.step_limit().unwrap_or(DEVICE_LIMIT);
    match open_within(&dataset.device(), OpenOptions::new().read(true), limit, cx) {
        Ok(_) => Ok(()),
        Err(_) if cx.cancelled() => Err(ZfsError::Cancelled),
        Err(error) => {
            let said = format!("its device cannot be opened: {error}; does udev run?");
            Err(ZfsError::Failed { what: format!("creating {dataset}"), said })
        }
    }
}

/// Makes durable what was written to the device by whoever has closed it, or has it open still.
pub(super) fn flush(dataset: &Dataset) -> Result<(), ZfsError> {
    let device = dataset.device();
    open(&device, OpenOptions::new().read(true)).and_then(|device| device.sync_all()).map_err(|error| {
        match error.kind() {
            NotFound => ZfsError::Missing { object: dataset.to_string() },
            _ => failed("flushing", dataset, &error),
        }
    })
}

/// Whoever has it open or mounted. A device that is not there is used by nobody.
pub(super) fn user_of(dataset: &Dataset) -> Result<Option<String>, ZfsError> {
    let device = dataset.device();
    let exclusive = open(&device, OpenOptions::new().read(true).custom_flags(exclusively()));
    let is_claimed = match &exclusive {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(EBUSY) => true,
        Err(error) if error.kind() == NotFound => return Ok(None),
        Err(error) => return Err(failed("opening", dataset, error)),
    };
    // Else it would find itself.
    drop(exclusive);
    let number = fs::metadata(&device).map_err(|error| failed("looking at", dataset, &error))?.rdev();
    let process = process_with(number);
    Ok(process.or_else(|| is_claimed.then(|| holder_of(number))))
}

/// Names the device's user where the kernel says only that there is one.
pub(super) fn with_user(error: ZfsError, dataset: &Dataset) -> ZfsError {
    match error {
        ZfsError::Busy { object, user } => {
            let user = user_of(dataset).ok().flatten().unwrap_or(user);
            ZfsError::Busy { object, user }
        }
        error => error,
    }
}

/// The same for the member that the error is about.
pub(super) fn with_users(error: ZfsError, group: &[SnapshotOf]) -> ZfsError {
    let ZfsError::Busy { object, .. } = &error else { return error };
    match group.iter().find(|member| member.dataset.as_str() == object) {
        Some(member) => with_user(error, &member.dataset),
        None => error,
    }
}

/// Opens a device, again and again while it is not there yet.
pub(crate) fn open(device: &Path, options: &OpenOptions) -> std::io::Result<File> {
    open_within(device, options, OPEN_LIMIT, &HandlerCx::unattended())
}

fn open_within(
    device: &Path,
    options: &OpenOptions,
    limit: Duration,
    cx: &HandlerCx<'_>,
) -> std::io::Result<File> {
    let started = Instant::now();
    let mut asked_udev = 0;
    loop {
        let error = match options.open(device) {
            Err(error) if is_not_yet(&error) => error,
            opened => return opened,
        };
        if started.elapsed() > limit || cx.cancelled() {
            return Err(error);
        }
        if error.kind() == NotFound && started.elapsed().as_secs() > asked_udev {
            asked_udev = started.elapsed().as_secs();
            have_udev_look(device);
        }
        std::thread::sleep(LOOK_UP);
    }
}

/// At all volumes of all pools: which one the link is missing of only udev can tell.
fn have_udev_look(device: &Path) {
    let words = ["trigger", "--action=change", "--subsystem-match=block", "--sysname-match=zd*"];
    let words: Vec<_> = words.into_iter().map(Into::into).collect();
    let asked = process::run(Path::new("udevadm"), &words, UDEV_LIMIT, &HandlerCx::unattended());
    tracing::warn!(device = %device.display(), ?asked, "a volume's device is missing: udev looks again");
}

const EBUSY: i32 = 16;
const ENXIO: i32 = 6;
/// The kernel's own number for "try again", which it lets out here.
const ERESTARTSYS: i32 = 512;

fn is_not_yet(error: &std::io::Error) -> bool {
    error.kind() == NotFound || matches!(error.raw_os_error(), Some(ENXIO | ERESTARTSYS))
}

fn exclusively() -> i32 {
    rustix::fs::OFlags::EXCL.bits().cast_signed()
}

/// Mounted, or claimed by the kernel itself.
fn holder_of(number: u64) -> String {
    let wanted = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mounted_at = mounts.lines().find_map(|line| {
        let columns: Vec<&str> = line.split(' ').collect();
        (columns.get(2) == Some(&wanted.as_str()))
            .then(|| columns.get(4).copied().unwrap_or_default().to_owned())
    });
    match mounted_at {
        Some(place) => format!("mounted at {place}"),
        None => "claimed by the kernel, a mount or another device for example".to_owned(),
    }
}

/// The first process found that has this device open.
fn process_with(number: u64) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?;
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let id = ids.into_iter().find(|id| has_open(*id, number))?;
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    Some(format!("process {id} ({})", name.trim_end()))
}

fn has_open(id: u32, number: u64) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
    let is_it = |found: fs::Metadata| found.file_type().is_block_device() && found.rdev() == number;
    files.flatten().any(|file| fs::metadata(file.path()).is_ok_and(is_it))
}

fn failed(verb: &str, dataset: &Dataset, error: &std::io::Error) -> ZfsError {
    ZfsError::Failed { what: format!("{verb} the device of {dataset}"), said: error.to_string() }
}
