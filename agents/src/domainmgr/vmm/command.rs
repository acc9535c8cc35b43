//! QEMU's command line, made from a [`VmSpec`]: a plain function, tested word by word.
//!
//! No shell is involved. Disks are given as JSON, so that no character in a path means anything; elsewhere a comma is doubled,
//! as QEMU wants it. Nothing is taken from QEMU's defaults or configuration files.

use std::path::{Path, PathBuf};

use holdfast_volumehandlers::placement::is_device;
use serde_json::json;

use super::accel::Accelerator;
use super::{Boot, Disk, DiskFormat, VmSpec};

/// The control socket's name in the domain's directory. QEMU is started in that directory and told this name only, because
/// the path of a socket may have 107 bytes and no more.
pub(super) const SOCKET_NAME: &str = "qmp.sock";

/// The word that marks a hypervisor's process as ours: what follows it on the command line is the pid file's path.
pub(super) const PID_FILE_ARGUMENT: &str = "-pidfile";

/// The words to start QEMU with, or what in the specification it cannot be given.
pub(super) fn arguments(
    spec: &VmSpec,
    pid_file: &Path,
    accelerator: Accelerator,
) -> Result<Vec<String>, String> {
    let mut words = Words::default();
    words.add("-name", format!("guest={}", escaped(&spec.name)));
    words.add("-uuid", spec.app.to_string());
    words.flag("-nodefaults");
    words.flag("-no-user-config");
    words.flag("-daemonize");
    words.add(PID_FILE_ARGUMENT, utf8(pid_file)?);
    // Not denied: spawning and changing the session, both needed by -daemonize itself.
    words.add("-sandbox", "on,obsolete=deny,resourcecontrol=deny");
    words.add("-machine", format!("q35,accel={}", accelerator.as_str()));
    words.add("-cpu", accelerator.cpu_model());
    words.add("-m", format!("size={}K", positive(spec.memory_kib, "memory")?));
    words.add("-smp", positive(spec.vcpus.into(), "number of vCPUs")?.to_string());
    words.add("-display", "none");
    words.add("-chardev", format!("socket,id=control,path={SOCKET_NAME},server=on,wait=off"));
    words.add("-mon", "chardev=control,mode=control");
    let console = escaped(&absolute(&spec.console_log)?);
    words.add("-chardev", format!("file,id=console,path={console},append=on"));
    words.add("-serial", "chardev:console");
    words.add("-device", "virtio-rng-pci");
    // A guest that panics ends its machine, instead of hanging in it for ever.
    words.add("-device", "pvpanic-pci");
    for (place, disk) in spec.disks.iter().enumerate() {
        add_disk(&mut words, place, disk)?;
    }
    add_boot(&mut words, &spec.boot)?;
    Ok(words.0)
}

fn add_disk(words: &mut Words, place: usize, disk: &Disk) -> Result<(), String> {
    // QEMU's driver for files refuses devices, and the other way round.
    let driver = if is_device(&disk.path) { "host_device" } else { "file" };
    let node = json!({
        "node-name": format!("disk{place}"),
        "driver": format_name(disk.format),
        "read-only": disk.read_only,
        // Locks the disk: a second domain, or qemu-img, cannot open what a guest is writing to.
        "file": { "driver": driver, "filename": absolute(&disk.path)?, "locking": "on" },
    });
    words.add("-blockdev", node.to_string());
    let boot = if place == 0 { ",bootindex=1" } else { "" };
    words.add("-device", format!("virtio-blk-pci,drive=disk{place},serial=holdfast-{place}{boot}"));
    Ok(())
}

fn add_boot(words: &mut Words, boot: &Boot) -> Result<(), String> {
    let Boot::Kernel { kernel, ramdisk, cmdline } = boot else {
        words.add("-boot", "strict=on");
        return Ok(());
    };
    words.add("-kernel", absolute(kernel)?);
    if let Some(ramdisk) = ramdisk {
        words.add("-initrd", absolute(ramdisk)?);
    }
    words.add("-append", cmdline);
    Ok(())
}

fn format_name(format: DiskFormat) -> &'static str {
    match format {
        DiskFormat::Qcow2 => "qcow2",
        DiskFormat::Raw => "raw",
        DiskFormat::Vmdk => "vmdk",
        DiskFormat::Vhdx => "vhdx",
    }
}

fn positive(value: u64, what: &str) -> Result<u64, String> {
    if value == 0 { Err(format!("its {what} is 0")) } else { Ok(value) }
}

/// QEMU runs in another directory, so every path it gets is absolute.
fn absolute(path: &Path) -> Result<String, String> {
    utf8(&std::path::absolute(path).map_err(|error| format!("the path {path:?} is unusable: {error}"))?)
}

fn utf8(path: &Path) -> Result<String, String> {
    path.to_str().map(str::to_owned).ok_or_else(|| format!("the path {path:?} is not UTF-8"))
}

/// In `key=value,...` options a comma ends the value unless it is doubled.
fn escaped(value: &str) -> String {
    value.replace(',', ",,")
}

#[derive(Default)]
struct Words(Vec<String>);

impl Words {
    fn flag(&mut self, name: &str) {
        self.0.push(name.to_owned());
    }

    fn add(&mut self, name: &str, value: impl Into<String>) {
        self.flag(name);
        self.0.push(value.into());
    }
}

/// All files that must exist before QEMU can start, for a message that names them plainly.
pub(super) fn files_read(spec: &VmSpec) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = spec.disks.iter().map(|disk| disk.path.clone()).collect();
    if let Boot::Kernel { kernel, ramdisk, .. } = &spec.boot {
        files.push(kernel.clone());
        files.extend(ramdisk.clone());
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use uuid::Uuid;

    fn spec() -> VmSpec {
        VmSpec {
            app: Uuid::from_u128(7),
            name: "db, the first".into(),
            memory_kib: 262_144,
            vcpus: 2,
            boot: Boot::Kernel {
                kernel: "/boot/vmlinuz".into(),
                ramdisk: Some("/boot/initrd,1".into()),
                cmdline: "console=ttyS0 a=b,c".into(),
            },
            disks: vec![
                Disk { path: "/volumes/a,b#0.qcow2".into(), format: DiskFormat::Qcow2, read_only: false },
                Disk { path: "/volumes/tools.iso".into(), format: DiskFormat::Raw, read_only: true },
            ],
            console_log: "/log/db,1.log".into(),
        }
    }

    fn words(spec: &VmSpec) -> Vec<String> {
        arguments(spec, Path::new("/run/d/pid"), Accelerator::Tcg).expect("a legal specification")
    }

    fn values<'a>(words: &'a [String], name: &str) -> Vec<&'a str> {
        words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn commas_never_end_a_value() {
        let words = words(&spec());
        assert_eq!(values(&words, "-name"), ["guest=db,, the first"]);
        assert_eq!(values(&words, "-initrd"), ["/boot/initrd,1"], "a path of its own needs no escape");
        assert_eq!(values(&words, "-append"), ["console=ttyS0 a=b,c"]);
        assert!(values(&words, "-chardev").contains(&"file,id=console,path=/log/db,,1.log,append=on"));
    }

    #[test]
    fn disks_come_in_order_with_format_lock_and_access() {
        let words = words(&spec());
        let nodes: Vec<serde_json::Value> = values(&words, "-blockdev")
            .into_iter()
            .map(|text| serde_json::from_str(text).expect("is JSON"))
            .collect();
        assert_eq!(nodes[0]["file"]["filename"], "/volumes/a,b#0.qcow2");
        assert_eq!((&nodes[0]["driver"], &nodes[0]["read-only"]), (&json!("qcow2"), &json!(false)));
        assert_eq!((&nodes[1]["driver"], &nodes[1]["read-only"]), (&json!("raw"), &json!(true)));
        assert!(nodes.iter().all(|node| node["file"]["locking"] == "on"));
        let devices = values(&words, "-device");
        let blocks: Vec<&&str> = devices.iter().filter(|device| device.starts_with("virtio-blk")).collect();
        assert_eq!(*blocks[0], "virtio-blk-pci,drive=disk0,serial=holdfast-0,bootindex=1");
        assert_eq!(*blocks[1], "virtio-blk-pci,drive=disk1,serial=holdfast-1");
    }

    /// [003] K: a ZFS volume is a block device, and is locked like a file.
    #[test]
    fn a_zfs_volume_is_opened_as_a_device() {
        let device = Disk { path: "/dev/zvol/p/vault/volumes/a.1".into(), ..spec().disks[1].clone() };
        let words = words(&VmSpec { disks: vec![device], ..spec() });
        let node: serde_json::Value = serde_json::from_str(values(&words, "-blockdev")[0]).expect("is JSON");
        assert_eq!((&node["driver"], &node["file"]["driver"]), (&json!("raw"), &json!("host_device")));
        assert_eq!(node["file"]["locking"], "on");
    }

    #[test]
    fn a_disk_boot_has_no_kernel_and_nothing_else_to_boot_from() {
        let words = words(&VmSpec { boot: Boot::Disk, ..spec() });
        assert!(values(&words, "-kernel").is_empty() && values(&words, "-append").is_empty());
        assert_eq!(values(&words, "-boot"), ["strict=on"]);
    }

    #[test]
    fn what_cannot_be_given_to_qemu_is_named() {
        let refusal =
            |spec: &VmSpec| arguments(spec, Path::new("/run/d/pid"), Accelerator::Tcg).expect_err("refused");
        assert_eq!(refusal(&VmSpec { memory_kib: 0, ..spec() }), "its memory is 0");
        assert_eq!(refusal(&VmSpec { vcpus: 0, ..spec() }), "its number of vCPUs is 0");
        let console_log = PathBuf::from(OsString::from_vec(vec![b'/', 0xff]));
        assert!(refusal(&VmSpec { console_log, ..spec() }).ends_with("is not UTF-8"));
    }

    #[test]
    fn relative_paths_are_made_absolute() {
        let words = words(&VmSpec { console_log: "console.log".into(), ..spec() });
        let here = std::env::current_dir().expect("a directory");
        let expected = format!("file,id=console,path={}/console.log,append=on", here.display());
        assert!(values(&words, "-chardev").contains(&expected.as_str()));
    }
}
