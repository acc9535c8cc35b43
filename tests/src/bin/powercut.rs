//! `powercut`: runs a real node in a guest, pulls the plug at random moments, and says whether one promise was ever broken.
//!
//! `powercut inside …` is what runs in the guest; see `powercut/mod.rs`.

#![allow(clippy::disallowed_methods, reason = "it measures real time and drives real processes")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use holdfast_tests::controller::{Server, ServerSettings};
use holdfast_tests::powercut::inside;
use holdfast_tests::powercut::rig::{Ground, Rig};
use holdfast_tests::powercut::storage::Storage;
use holdfast_tests::powercut::supervisor::Supervisor;
use holdfast_tests::powercut::tally::Tally;
use holdfast_tests::real_kills::rig::Trouble;
use holdfast_tests::zfs_guest::ZfsGuest;
use holdfast_tests::zfs_guest::machine::Machine;
use holdfast_tests::zfs_guest::programs::Programs;

/// The persist directory, in the guest.
const PERSIST: &str = "/data/persist";
const MEMORY_MIB: u32 = 1024;
/// Then the disk is thrown away, and another with other volumes takes its place.
const ORDERS_PER_DISK: usize = 24;

/// Cuts the power of a guest in which a node creates, rolls back to and deletes snapshots, and checks what becomes of them
#[derive(Debug, Parser)]
#[command(name = "powercut", version)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Stop after this many cuts that hit something
    #[arg(long, default_value_t = 10)]
    cuts: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// What is on the disk
    #[arg(long, value_enum, default_value_t = Storage::Ext4)]
    storage: Storage,
    /// `tcg`, or `kvm` where that is known to work
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// Below it the guest's disks are made
    #[arg(long, default_value = "/var/tmp")]
    directory: PathBuf,
    /// Shows the guest's console
    #[arg(long)]
    verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The node, in the guest
    #[command(hide = true)]
    Inside { storage: Storage, host: SocketAddr, controller: String },
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let done = match arguments.role.take() {
        Some(Role::Inside { storage, host, controller }) => {
            inside::run(host, controller, PERSIST.into(), storage.volumes()).map(|()| ExitCode::SUCCESS)
        }
        None => run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("powercut: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let guest = match ZfsGuest::ensure() {
        Ok(ZfsGuest { zfs: Err(why), .. }) if arguments.storage == Storage::Zfs => return skip(&why),
        Ok(guest) => guest,
        Err(why) => return skip(&why.to_string()),
    };
    let directory = tempfile::Builder::new().prefix("holdfast-powercut-").tempdir_in(&arguments.directory)?;
    let (seed, storage) = (arguments.seed, arguments.storage);
    println!("powercut: seed {seed}, {} below {}", storage.name(), directory.path().display());
    let mut ground = ground(arguments, &guest, directory.path())?;
    let started = Instant::now();
    for number in 0.. {
        if ground.tally.cuts() >= arguments.cuts {
            break;
        }
        let disk = directory.path().join(format!("disk-{number}"));
        storage.make_disk(&disk)?;
        let mut rig = Rig::new(&mut ground, disk.clone(), arguments.seed.wrapping_mul(1_000_003) + number);
        let lived = rig.live(ORDERS_PER_DISK);
        let (story, console) = (std::mem::take(&mut rig.story), std::mem::take(&mut rig.console));
        if arguments.verbose || lived.is_err() {
            console.iter().for_each(|line| eprintln!("  | {line}"));
        }
        match lived {
            Ok(()) => std::fs::remove_file(&disk)?,
            Err(Trouble::Machine(error)) => return Err(error.context(story)),
            Err(Trouble::Violation(what)) => {
                let kept = directory.keep();
                eprintln!(
                    "violation: seed {}, disk {number}: {what}\n  at {story}\n  kept: {}",
                    arguments.seed,
                    kept.display()
                );
                return Ok(ended(&ground, 1, started));
            }
        }
    }
    Ok(ended(&ground, 0, started))
}

fn skip(why: &str) -> anyhow::Result<ExitCode> {
    println!("powercut: skipped: {why}");
    Ok(ExitCode::SUCCESS)
}

fn ended(ground: &Ground, violations: u64, started: Instant) -> ExitCode {
    println!("{}", ground.tally.summary());
    let seconds = started.elapsed().as_secs_f64();
    println!("cuts={} violations={violations} seconds={seconds:.1}", ground.tally.cuts());
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The machine without a disk of its own, and who it talks to.
fn ground(arguments: &Arguments, guest: &ZfsGuest, directory: &Path) -> anyhow::Result<Ground> {
    let supervisor = Supervisor::start()?;
    let controller = Server::start(&ServerSettings::default())?;
    let programs = Programs::new(directory.join("programs"), guest)?;
    programs.add(&std::env::current_exe()?, "powercut")?;
    // To the machine, this one is 10.0.2.2.
    programs.set_main(&format!(
        "set -e\n{}exec /programs/bin/powercut inside {} 10.0.2.2:{} http://10.0.2.2:{}\n",
        arguments.storage.mount_script(),
        arguments.storage.name(),
        supervisor.address().port(),
        controller.address().port(),
    ))?;
    let disk = directory.join("programs.img");
    programs.write_disk(&disk)?;
    let initramfs = directory.join("initramfs");
    guest.write_initramfs(&initramfs, arguments.storage == Storage::Zfs)?;
    let machine = Machine {
        kernel: guest.kernel.clone(),
        initramfs,
        programs: disk,
        disks: Vec::new(),
        memory_mib: MEMORY_MIB,
        // A second one costs more than it helps: the work is one chain of small steps.
        processors: 1,
        has_network: true,
        options: String::new(),
        accelerator: arguments.accelerator.clone(),
    };
    Ok(Ground {
        machine,
        supervisor,
        controller,
        tally: Tally::default(),
        storage: arguments.storage,
        cuts: arguments.cuts,
    })
}
