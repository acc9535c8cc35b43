//! The hypervisor seam on a real QEMU with a real guest. Skips, saying why, on a machine that has no QEMU.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use holdfast_agents::domainmgr::vmm::{
    Accelerator, Boot, Disk, DiskFormat, Domain, DomainExit, Presence, QemuSettings, QemuVmm, VmSpec, Vmm,
    VmmError, Wait,
};
use holdfast_tests::guest::{self, Console, Guest};
use uuid::Uuid;

/// Enough for a start on a machine that is busy with other tests.
const START: Wait<'static> = Wait { at_most: Duration::from_secs(30), cancelled: &|| false };
/// Enough for an emulated guest to boot or to power off.
const GUEST: Duration = Duration::from_secs(60);
/// For what happens at once.
const SOON: Duration = Duration::from_secs(10);
/// Long enough to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(1500);

/// A node's hypervisor with one application on it: an image volume of version 1 and a blank data volume.
struct Bench {
    directory: tempfile::TempDir,
    guest: Guest,
    vmm: QemuVmm,
    app: Uuid,
}

impl Bench {
    /// `None`, with the reason printed, if this machine cannot run the guest.
    fn new() -> Option<Self> {
        let guest = match Guest::ensure() {
            Ok(guest) => guest,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        let directory = tempfile::tempdir().expect("a directory");
        let image = guest::image_content("1", 1 << 20);
        guest::make_qcow2(&directory.path().join("image,1.qcow2"), Some(&image)).expect("an image volume");
        guest::make_qcow2(&directory.path().join("data.qcow2"), None).expect("a data volume");
        let vmm = hypervisor(directory.path());
        Some(Self { directory, guest, vmm, app: Uuid::new_v4() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn console(&self) -> Console {
        Console::new(self.path("console.log"))
    }

    fn spec(&self, options: &str) -> VmSpec {
        let disk = |name: &str| Disk { path: self.path(name), format: DiskFormat::Qcow2, read_only: false };
        VmSpec {
            app: self.app,
            name: "test guest".into(),
            memory_kib: 192 * 1024,
            vcpus: 1,
            boot: Boot::Kernel {
                kernel: self.guest.kernel.clone(),
                ramdisk: Some(self.guest.initrd.clone()),
                cmdline: format!("{} {options}", guest::KERNEL_OPTIONS),
            },
            disks: vec![disk("image,1.qcow2"), disk("data.qcow2")],
            console_log: self.path("console.log"),
        }
    }

    /// Starts the guest and waits until it is ready; `boots` is how often it has been started on this console.
    fn boot(&self, spec: &VmSpec, boots: usize) -> Domain {
        let domain = self.vmm.start(spec, &START).expect("starts");
        self.console().wait_for("guest: ready", boots, GUEST).expect("boots");
        domain
    }

    fn shut_down(&self, domain: &Domain) {
        self.vmm.request_shutdown(domain).expect("asks");
        let exit = self.vmm.wait_gone(domain, &Wait::at_most(GUEST)).expect("waits");
        assert_eq!(exit, Some(DomainExit::Stopped));
    }

    fn line(&self, disk: &str, line: guest::Line) -> Option<String> {
        let content = guest::read_qcow2(&self.path(disk), None).expect("reads");
        guest::read_line(&content, line)
    }

    fn watch(&self, domain: &Domain) -> Receiver<DomainExit> {
        let (told, hear) = channel();
        self.vmm.watch(domain, Box::new(move |exit| told.send(exit).expect("heard"))).expect("watches");
        hear
    }

    /// No process carries this bench's directory on its command line.
    fn expect_no_process(&self) {
        let ours = self.directory.path().to_str().expect("is UTF-8").to_owned();
        for entry in std::fs::read_dir("/proc").expect("lists") {
            let words = std::fs::read(entry.expect("an entry").path().join("cmdline")).unwrap_or_default();
            let text = String::from_utf8_lossy(&words).replace('\0', " ");
            assert!(!text.contains(&ours), "still there: {text}");
        }
    }
}

impl Drop for Bench {
    /// Whatever a failed test left running is ended.
    fn drop(&mut self) {
        for presence in self.vmm.list().unwrap_or_default().into_values() {
            if let Presence::Running { domain, .. } = presence {
                let _ = self.vmm.kill(&domain);
                let _ = self.vmm.wait_gone(&domain, &Wait::at_most(SOON));
            }
        }
    }
}

fn hypervisor(directory: &Path) -> QemuVmm {
    // So deep that the control socket's path is longer than a socket's path may be.
    let runtime_dir = directory.join("run").join("d".repeat(100));
    let settings =
        QemuSettings { binary: "qemu-system-x86_64".into(), runtime_dir, accelerator: Accelerator::Tcg };
    QemuVmm::new(settings).expect("a runtime directory")
}

#[test]
fn a_guest_keeps_its_diary_and_powers_off_when_asked() {
    let Some(bench) = Bench::new() else { return };
    assert_eq!(bench.vmm.presence(bench.app).expect("asks"), Presence::Absent);
    for boots in 1..=2 {
        let domain = bench.boot(&bench.spec(""), boots);
        let ready = bench.console().wait_for("guest: ready", boots, GUEST).expect("is ready");
        assert_eq!(guest::fields(&ready)["vdb-boots"], boots.to_string());
        bench.shut_down(&domain);
        bench.console().wait_for("guest: power button, shutting down", boots, SOON).expect("says so");
        assert_eq!(bench.vmm.presence(bench.app).expect("asks"), Presence::Ended(DomainExit::Stopped));
        for disk in ["image,1.qcow2", "data.qcow2"] {
            assert_eq!(bench.line(disk, guest::BOOTS_LINE), Some(boots.to_string()));
            assert_eq!(bench.line(disk, guest::LAST_VERSION_LINE).as_deref(), Some("1"));
        }
    }
    bench.vmm.forget(bench.app).expect("forgets");
    assert_eq!(bench.vmm.presence(bench.app).expect("asks"), Presence::Absent);
    bench.expect_no_process();
}

#[test]
fn version_two_changes_the_data_and_a_read_only_disk_is_left_alone() {
    let Some(bench) = Bench::new() else { return };
    let image = guest::image_content("2", 1 << 20);
    guest::make_qcow2(&bench.path("image,1.qcow2"), Some(&image)).expect("an image volume");
    std::fs::write(bench.path("tools.iso"), guest::image_content("tools", 1 << 20)).expect("writes");
    let mut spec = bench.spec("");
    spec.disks.push(Disk { path: bench.path("tools.iso"), format: DiskFormat::Raw, read_only: true });
    let domain = bench.boot(&spec, 1);
    let found = bench.console().wait_for("guest: found disk=vdc", 1, SOON).expect("is found");
    let found = guest::fields(&found);
    assert_eq!((found["access"].as_str(), found["version"].as_str()), ("ro", "tools"));
    bench.shut_down(&domain);
    assert_eq!(bench.line("data.qcow2", guest::PAYLOAD_LINE).as_deref(), Some("written-by-2"));
    assert_eq!(bench.line("image,1.qcow2", guest::PAYLOAD_LINE), None);
}

#[test]
fn a_guest_that_ignores_the_power_button_is_killed() {
    let Some(bench) = Bench::new() else { return };
    let domain = bench.boot(&bench.spec("holdfast.ignore_shutdown=1"), 1);
    bench.vmm.request_shutdown(&domain).expect("asks");
    bench.console().wait_for("guest: power button, ignored", 1, GUEST).expect("says so");
    assert_eq!(
        bench.vmm.wait_gone(&domain, &Wait::at_most(MOMENT)).expect("waits"),
        None,
        "asked is not gone"
    );
    bench.vmm.kill(&domain).expect("kills");
    let exit = bench.vmm.wait_gone(&domain, &Wait::at_most(SOON)).expect("waits");
    assert_eq!(exit, Some(DomainExit::Killed));
    assert_eq!(bench.vmm.presence(bench.app).expect("asks"), Presence::Ended(DomainExit::Killed));
    bench.vmm.kill(&domain).expect("killing what is gone is no error");
    bench.vmm.request_shutdown(&domain).expect("nor is asking it");
    bench.expect_no_process();
}

#[test]
fn the_end_of_a_domain_is_noticed_however_it_comes() {
    let Some(bench) = Bench::new() else { return };
    let domain = bench.boot(&bench.spec(""), 1);
    let ended = bench.watch(&domain);
    assert_eq!(ended.recv_timeout(MOMENT), Err(RecvTimeoutError::Timeout), "it runs");
    bench.vmm.kill(&domain).expect("kills");
    assert_eq!(ended.recv_timeout(SOON), Ok(DomainExit::Killed));
    assert_eq!(bench.watch(&domain).recv_timeout(SOON), Ok(DomainExit::Killed), "gone before it was watched");

    for (boots, option) in [(2, "holdfast.poweroff_after=0"), (3, "holdfast.crash_after=0")] {
        let domain = bench.boot(&bench.spec(option), boots);
        assert_eq!(bench.watch(&domain).recv_timeout(GUEST), Ok(DomainExit::Stopped), "{option}");
    }
}

#[test]
fn a_guest_that_reboots_stays_the_same_domain() {
    let Some(bench) = Bench::new() else { return };
    let domain = bench.vmm.start(&bench.spec("holdfast.reboot_after=1"), &START).expect("starts");
    bench.console().wait_for("guest: ready", 2, GUEST).expect("boots again");
    let expected = Presence::Running { domain: domain.clone(), answers: true };
    assert_eq!(bench.vmm.presence(bench.app).expect("asks"), expected);
}

#[test]
fn another_node_process_finds_the_running_domain_and_takes_it_over() {
    let Some(bench) = Bench::new() else { return };
    let domain = bench.boot(&bench.spec(""), 1);
    let restarted = hypervisor(bench.directory.path());
    let expected = Presence::Running { domain: domain.clone(), answers: true };
    assert_eq!(
        restarted.list().expect("lists").into_iter().collect::<Vec<_>>(),
        [(bench.app, expected.clone())]
    );
    assert!(matches!(restarted.start(&bench.spec(""), &START), Err(VmmError::AlreadyRunning { .. })));
    assert!(matches!(restarted.forget(bench.app), Err(VmmError::AlreadyRunning { .. })));
    assert_eq!(restarted.presence(bench.app).expect("asks"), expected, "none of this touched it");

    let (told, hear) = channel();
    restarted.watch(&domain, Box::new(move |exit| told.send(exit).expect("heard"))).expect("watches");
    restarted.request_shutdown(&domain).expect("asks");
    assert_eq!(hear.recv_timeout(GUEST), Ok(DomainExit::Stopped));
    assert_eq!(bench.console().lines_with("guest: ready").len(), 1, "it was never started again");
}

#[test]
fn a_pid_file_that_names_a_stranger_is_not_believed() {
    let Some(bench) = Bench::new() else { return };
    let domain = bench.boot(&bench.spec(""), 1);
    bench.vmm.kill(&domain).expect("kills");
    bench.vmm.wait_gone(&domain, &Wait::at_most(SOON)).expect("waits").expect("is gone");
    // After a reboot the number belongs to some other process: to this test, say.
    let pid_file =
        bench.directory.path().join("run").join("d".repeat(100)).join(bench.app.to_string()).join("pid");
    std::fs::write(pid_file, std::process::id().to_string()).expect("writes");
    assert_eq!(bench.vmm.presence(bench.app).expect("asks"), Presence::Ended(DomainExit::Killed));
    let domain = bench.boot(&bench.spec(""), 2);
    bench.shut_down(&domain);
}

#[test]
fn a_start_that_fails_says_why_and_leaves_no_process() {
    let Some(bench) = Bench::new() else { return };
    let refusal = |spec: &VmSpec| {
        let error = bench.vmm.start(spec, &START).expect_err("cannot start");
        assert_eq!(bench.vmm.presence(bench.app).expect("asks"), Presence::Absent);
        bench.expect_no_process();
        error
    };

    let mut spec = bench.spec("");
    spec.disks[0].path = bench.path("nowhere.qcow2");
    let error = refusal(&spec);
    assert!(
        matches!(error, VmmError::Unusable { .. }) && error.to_string().contains("nowhere.qcow2"),
        "{error}"
    );

    let mut spec = bench.spec("");
    spec.boot = Boot::Kernel { kernel: bench.path("no-kernel"), ramdisk: None, cmdline: String::new() };
    assert!(refusal(&spec).to_string().contains("no-kernel"));

    std::fs::write(bench.path("broken.qcow2"), b"this is no image").expect("writes");
    let mut spec = bench.spec("");
    spec.disks[1].path = bench.path("broken.qcow2");
    let error = refusal(&spec);
    assert!(matches!(error, VmmError::DiedAtStart { .. }), "{error:?}");
    assert!(error.to_string().contains("not in qcow2 format"), "{error}");

    let cancelled = Wait { at_most: GUEST, cancelled: &|| true };
    let error = bench.vmm.start(&bench.spec(""), &cancelled).expect_err("is cancelled");
    assert!(matches!(error, VmmError::StartCancelled { .. }), "{error:?}");
    bench.expect_no_process();
    let error = bench.vmm.start(&bench.spec(""), &Wait::at_most(Duration::ZERO)).expect_err("is too slow");
    assert!(matches!(error, VmmError::StartTooSlow { .. }), "{error:?}");
    bench.expect_no_process();

    let missing = QemuSettings {
        binary: "no-such-hypervisor".into(),
        runtime_dir: bench.path("other"),
        accelerator: Accelerator::Tcg,
    };
    let error =
        QemuVmm::new(missing).expect("makes").start(&bench.spec(""), &START).expect_err("is not there");
    assert!(matches!(error, VmmError::NoHypervisor { .. }), "{error:?}");

    let domain = bench.boot(&bench.spec(""), 1);
    bench.shut_down(&domain);
}

#[test]
fn two_domains_never_share_a_disk() {
    let Some(bench) = Bench::new() else { return };
    let first = bench.boot(&bench.spec(""), 1);
    let error =
        bench.vmm.start(&VmSpec { app: Uuid::new_v4(), ..bench.spec("") }, &START).expect_err("is locked");
    assert!(error.to_string().contains("lock"), "{error}");
    bench.shut_down(&first);
}

#[test]
fn a_hypervisor_that_does_not_answer_is_running_all_the_same() {
    let Some(bench) = Bench::new() else { return };
    let domain = bench.boot(&bench.spec(""), 1);
    signal(&domain, "-STOP");
    let expected = Presence::Running { domain: domain.clone(), answers: false };
    assert_eq!(bench.vmm.presence(bench.app).expect("asks"), expected);
    assert!(matches!(bench.vmm.request_shutdown(&domain), Err(VmmError::Control { .. })));
    bench.vmm.kill(&domain).expect("kills");
    let exit = bench.vmm.wait_gone(&domain, &Wait::at_most(SOON)).expect("waits");
    assert_eq!(exit, Some(DomainExit::Killed));
}

#[test]
fn a_disk_boots_through_the_firmware() {
    let Some(bench) = Bench::new() else { return };
    let mut sector = guest::boot_sector().to_vec();
    sector.resize(1 << 20, 0);
    guest::make_qcow2(&bench.path("boot.qcow2"), Some(&sector)).expect("a disk");
    let disks = vec![Disk { path: bench.path("boot.qcow2"), format: DiskFormat::Qcow2, read_only: false }];
    let spec = VmSpec { boot: Boot::Disk, disks, ..bench.spec("") };
    let domain = bench.vmm.start(&spec, &START).expect("starts");
    bench.console().wait_for(guest::BOOT_SECTOR_SAYS, 1, GUEST).expect("boots");
    bench.vmm.kill(&domain).expect("kills");
}

fn signal(domain: &Domain, signal: &str) {
    let status =
        std::process::Command::new("kill").args([signal, &domain.pid.to_string()]).status().expect("runs");
    assert!(status.success());
}
