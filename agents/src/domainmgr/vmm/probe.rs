//! A guest of one boot sector that proves an accelerator: it runs to its end, in time, or the accelerator is no good.
//!
//! ```text
//! firmware ──▶ boot sector ──▶ 64-bit mode ──▶ 20 timer interrupts ──▶ 100 million memory accesses ──▶ exit device
//! ```
//!
//! That is what an ordinary kernel needs first. The work at the end is there because a nested KVM can be sound and yet a hundred
//! times slower than emulation: its guests seem to hang while they unpack their kernel. Seen so: the whole probe takes 0.4 s under
//! emulation, and was not through after 60 s under such a KVM.
//!
//! Deliberately absent: any use of the applications' own kernels and disks.

#![allow(clippy::disallowed_methods, reason = "the seam to the hypervisor: files, processes, time")]

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;

use super::accel::Accelerator;

/// The guest writes 2ah to the exit device, of which QEMU makes this exit code.
const PASSED: i32 = 0x2a << 1 | 1;

/// Runs the probe guest under the accelerator, as an application's would be. `Ok` is the time it took; `Err` says why the
/// accelerator is not to be used. Takes `at_most` this long and leaves nothing behind; if the caller dies meanwhile, the
/// probe's processor time is limited and it ends by itself.
pub(super) fn run(qemu: &Path, accelerator: Accelerator, at_most: Duration) -> Result<Duration, String> {
    let scratch =
        tempfile::tempdir().map_err(|error| format!("no temporary directory for a probe: {error}"))?;
    let disk = scratch.path().join("probe.img");
    fs::write(&disk, probe_disk()).map_err(|error| format!("no disk for a probe: {error}"))?;
    let begin = Instant::now();
    let mut child = spawn(qemu, accelerator, &disk)?;
    limit_processor_time(&child, at_most);
    let ended = wait(&mut child, begin + at_most);
    let Some(status) = ended? else {
        return Err(format!("the probe guest did not finish within {} s", at_most.as_secs_f32()));
    };
    match status.code() {
        Some(PASSED) => Ok(begin.elapsed()),
        _ => Err(failure(&mut child, status)),
    }
}

fn spawn(qemu: &Path, accelerator: Accelerator, disk: &Path) -> Result<Child, String> {
    let drive = json!({
        "node-name": "probe", "driver": "raw", "read-only": true,
        "file": { "driver": "file", "filename": disk.to_str().ok_or("the temporary directory is not UTF-8")? },
    });
    Command::new(qemu)
        .args([
            "-name",
            "guest=holdfast-probe",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args(["-machine", &format!("q35,accel={}", accelerator.as_str()), "-cpu", accelerator.cpu_model()])
        .args([
            "-m",
            "size=16M",
            "-blockdev",
            &drive.to_string(),
            "-device",
            "virtio-blk-pci,drive=probe,bootindex=1",
        ])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{} cannot be run: {error}", qemu.display()))
}

fn limit_processor_time(child: &Child, at_most: Duration) {
    let seconds = Some(at_most.as_secs() + 2);
    // Only a second line of defence: without it, the deadline still holds.
    let _ =
        prlimit(Some(Pid::from_child(child)), Resource::Cpu, Rlimit { current: seconds, maximum: seconds });
}

/// Waits for the end until then; after that, kills it and gives `None`. It is reaped in any case.
fn wait(child: &mut Child, end: Instant) -> Result<Option<ExitStatus>, String> {
    let ended = loop {
        match child.try_wait() {
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(10)),
            Ok(ended) => break Ok(ended),
            Err(error) => break Err(format!("the probe guest cannot be waited for: {error}")),
        }
    };
    if !matches!(ended, Ok(Some(_))) {
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

/// The first line QEMU said on its way out, or how it ended.
fn failure(child: &mut Child, status: ExitStatus) -> String {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // QEMU is gone, so this ends; and what a broken one says has bounds.
        let _ = stderr.take(4096).read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    let how = match status.signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => "ended early".to_owned(),
    };
    let line = said.lines().find(|line| !line.contains("warning")).unwrap_or("it said nothing");
    format!("the probe guest {how}: {line}")
}

/// The firmware does not read disks that are too small.
fn probe_disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[..BOOT_SECTOR.len()].copy_from_slice(&BOOT_SECTOR);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Machine code, loaded at 7c00h.
#[rustfmt::skip]
const BOOT_SECTOR: [u8; 236] = [
    // 16 bits. Page tables at 1000h map the first 2 MiB to themselves; the interrupt table is at 4000h.
    0xfa, 0xfc, 0x66, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // cli; cld; xor eax,eax; mov ds,ax; mov es,ax
    0x8e, 0xd0, 0xbc, 0x00, 0x70, 0xbf, 0x00, 0x10, // mov ss,ax; mov sp,0x7000; mov di,0x1000
    0xb9, 0x00, 0x10, 0x66, 0xf3, 0xab, // mov cx,0x1000; rep stos [di],eax
    0xc7, 0x06, 0x00, 0x10, 0x03, 0x20, // mov 0x1000,0x2003
    0xc7, 0x06, 0x00, 0x20, 0x03, 0x30, // mov 0x2000,0x3003
    0xc7, 0x06, 0x00, 0x30, 0x83, 0x00, // mov 0x3000,0x83
    // The gate of interrupt 32.
    0xc7, 0x06, 0x00, 0x42, 0xc8, 0x7c, // mov 0x4200,0x7cc8
    0xc7, 0x06, 0x02, 0x42, 0x08, 0x00, // mov 0x4202,0x8
    0xc7, 0x06, 0x04, 0x42, 0x00, 0x8e, // mov 0x4204,0x8e00
    // Interrupt controller: from 32 on, and only the timer.
    0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, 0xb0, 0x04, // mov al,0x11; out 0x20,al; mov al,0x20; out 0x21,al; mov al,0x4
    0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xfe, 0xe6, 0x21, // out 0x21,al; mov al,0x1; out 0x21,al; mov al,0xfe; out 0x21,al
    // Timer: each millisecond.
    0xb0, 0x34, 0xe6, 0x43, 0xb0, 0xa9, 0xe6, 0x40, 0xb0, 0x04, // mov al,0x34; out 0x43,al; mov al,0xa9; out 0x40,al; mov al,0x4
    0xe6, 0x40, // out 0x40,al
    // Into 64 bits.
    0x66, 0xb8, 0xa0, 0x00, 0x00, 0x00, 0x0f, 0x22, 0xe0, // mov eax,0xa0; mov cr4,eax
    0x66, 0xb8, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x22, 0xd8, // mov eax,0x1000; mov cr3,eax
    0x66, 0xb9, 0x80, 0x00, 0x00, 0xc0, 0x0f, 0x32, // mov ecx,0xc0000080; rdmsr
    0x0d, 0x00, 0x01, 0x0f, 0x30, 0x0f, 0x20, 0xc0, // or ax,0x100; wrmsr; mov eax,cr0
    0x66, 0x0d, 0x01, 0x00, 0x00, 0x80, 0x0f, 0x22, 0xc0, // or eax,0x80000001; mov cr0,eax
    0x0f, 0x01, 0x16, 0xe0, 0x7c, 0x0f, 0x01, 0x1e, 0xe6, 0x7c, // lgdtw 0x7ce0; lidtw 0x7ce6
    0xea, 0x95, 0x7c, 0x08, 0x00, // jmp 0x8:0x7c95
    // 64 bits. Wait for 20 ticks of the timer.
    0x31, 0xdb, 0xfb, 0xf4, 0x83, 0xfb, 0x14, 0x72, 0xfa, // xor ebx,ebx; sti; hlt; cmp ebx,0x14; jb 0x7c98
    // A hundred million turns of a loop that touches memory.
    0xb9, 0x00, 0xe1, 0xf5, 0x05, // mov ecx,0x5f5e100
    0x8d, 0x34, 0xcd, 0x00, 0x50, 0x00, 0x00, // lea esi,[rcx*8+0x5000]
    0x81, 0xe6, 0xf8, 0xff, 0x1f, 0x00, // and esi,0x1ffff8
    0x81, 0xce, 0x00, 0x00, 0x10, 0x00, 0x48, 0x01, 0x0e, // or esi,0x100000; add [rsi],rcx
    0xff, 0xc9, 0x75, 0xe6, 0xfa, 0xb0, 0x2a, // dec ecx; loop; cli; mov al,0x2a
    0x66, 0xba, 0xf4, 0x00, 0xee, // mov dx,0xf4; out dx,al
    0xf4, 0xeb, 0xfd, // hlt; jmp 0x7cc5
    // Each tick: count it and go on.
    0xff, 0xc3, 0xb0, 0x20, 0xe6, 0x20, 0x48, 0xcf, // inc ebx; mov al,0x20; out 0x20,al; iretq
    // Descriptors: none, and 64-bit code; then the two tables' sizes and places.
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x9a, 0x20, 0x00,
    0x0f, 0x00, 0xd0, 0x7c, 0x00, 0x00,
    0x0f, 0x02, 0x00, 0x40, 0x00, 0x00,
];

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "qemu-system-x86_64";

    #[test]
    fn the_probe_passes_where_guests_run_and_is_ended_where_they_do_not() {
        if Command::new(QEMU).arg("--version").output().is_err() {
            eprintln!("skipped: {QEMU} is not installed (tests/setup/install.sh installs it)");
            return;
        }
        run(Path::new(QEMU), Accelerator::Tcg, Duration::from_secs(60)).expect("emulation always works");
        let error = run(Path::new(QEMU), Accelerator::Tcg, Duration::from_millis(30)).expect_err("too short");
        assert_eq!(error, "the probe guest did not finish within 0.03 s");
    }

    #[test]
    fn a_hypervisor_that_cannot_run_is_named_and_one_that_fails_is_quoted() {
        let error =
            run(Path::new("no-such-qemu"), Accelerator::Kvm, Duration::from_secs(5)).expect_err("is missing");
        assert!(error.starts_with("no-such-qemu cannot be run"), "{error}");
        let error = run(Path::new("false"), Accelerator::Kvm, Duration::from_secs(5)).expect_err("fails");
        assert_eq!(error, "the probe guest ended early: it said nothing");
    }
}
