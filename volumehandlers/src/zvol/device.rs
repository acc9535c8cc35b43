//! The block device of a volume: is it there, who has it open, and a flush. Part of both real backends.
//!
//! Who has it open is asked twice: an exclusive open, which the kernel refuses for what is mounted or claimed by it, and a look
//! through `/proc`, for QEMU claims nothing. Processes that this one may not look into are not seen; ZFS itself then refuses a rollback
//! and a destruction under an open device, without saying whose it is.
//!
//! **Why an open is tried again.** While another command holds the pool's configuration, the kernel gives up opening a volume's device
//! after a second and says that there is no such device (seen: two volumes made at once, OpenZFS 2.1.11).

#![allow(clippy::disallowed_methods, reason = "part of the Zfs seam: it looks at real devices")]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::zfs::{Dataset, SnapshotOf, ZfsError};
use crate::context::HandlerCx;

/// udev makes the link; on a busy node it has much to do.
const DEVICE_LIMIT: Duration = Duration::from_secs(30);
/// The kernel's own limit for one try is a second.
const OPEN_LIMIT: Duration = Duration::from_secs(10);
const LOOK_UP: Duration = Duration::from_millis(20);

/// Waits until the device has appeared, or says that it has not.
pub(super) fn wait_for(dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
    let device = dataset.device();
    let started = Instant::now();
    while !is_device(&device) || is_not_yet(&File::open(&device).map(drop)) {
        if cx.cancelled() {
            return Err(ZfsError::Cancelled);
        }
        if started.elapsed() > cx.step_limit().unwrap_or(DEVICE_LIMIT) {
            let said = format!("{} has not appeared; does udev run?", device.display());
            return Err(ZfsError::Failed { what: format!("creating {dataset}"), said });
        }
        std::thread::sleep(LOOK_UP);
    }
    Ok(())
}

/// Makes durable what was written to the device by whoever has closed it, or has it open still.
pub(super) fn flush(dataset: &Dataset) -> Result<(), ZfsError> {
    let device = dataset.device();
    open(&device, OpenOptions::new().read(true)).and_then(|device| device.sync_all()).map_err(|error| {
        match error.kind() {
            std::io::ErrorKind::NotFound => ZfsError::Missing { object: dataset.to_string() },
            _ => failed("flushing", dataset, &error),
        }
    })
}

/// Whoever has it open or mounted. A device that is not there is used by nobody.
pub(super) fn user_of(dataset: &Dataset) -> Result<Option<String>, ZfsError> {
    let device = dataset.device();
    let number = match fs::metadata(&device) {
        Ok(found) => found.rdev(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("looking at", dataset, &error)),
    };
    if let Some(process) = process_with(number) {
        return Ok(Some(process));
    }
    let exclusive = open(&device, OpenOptions::new().read(true).custom_flags(exclusively()));
    match exclusive {
        Ok(_) => Ok(None),
        Err(error) if error.raw_os_error() == Some(EBUSY) => Ok(Some(holder_of(number))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("opening", dataset, &error)),
    }
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

/// Opens a device, again and again while the kernel says that it is not there yet.
pub(crate) fn open(device: &Path, options: &OpenOptions) -> std::io::Result<File> {
    let started = Instant::now();
    loop {
        let opened = options.open(device);
        if !is_not_yet(&opened) || started.elapsed() > OPEN_LIMIT {
            return opened;
        }
        std::thread::sleep(LOOK_UP);
    }
}

const EBUSY: i32 = 16;
const ENXIO: i32 = 6;

fn is_not_yet<T>(opened: &std::io::Result<T>) -> bool {
    opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(ENXIO))
}

fn exclusively() -> i32 {
    rustix::fs::OFlags::EXCL.bits().cast_signed()
}

fn is_device(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
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
