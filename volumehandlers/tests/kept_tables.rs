//! The copy of tables that undoes a rollback, against real qemu-img and on every kind of qcow2 image that there is: what an apply
//! writes to is in the copy, and whatever mixture of old and new a power cut leaves there, the image comes back to the byte.

#![allow(clippy::disallowed_methods, reason = "it looks at real images, and breaks them")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use holdfast_persist::RealDisk;
use holdfast_types::Format;
use holdfast_volumehandlers::qcow2::{Qcow2Handler, QemuImg};
use holdfast_volumehandlers::testing::tool_is_missing;
use holdfast_volumehandlers::tool::{Access, Mend};
use holdfast_volumehandlers::{HandlerCx, ImageTool, SnapshotName, ToolError, VolumeHandler};

const CX: fn() -> HandlerCx<'static> = HandlerCx::unattended;
const NO_LIMIT: u64 = u64::MAX;
const SECTOR_BYTES: usize = 512;

/// What `qemu-img create -o` makes.
const KINDS: [&str; 10] = [
    "compat=1.1",
    "compat=0.10",
    "cluster_size=512",
    "cluster_size=2M",
    "extended_l2=on",
    "lazy_refcounts=on",
    "preallocation=metadata",
    "refcount_bits=8",
    "refcount_bits=64",
    "compression_type=zstd",
];

struct Image {
    _folder: tempfile::TempDir,
    path: PathBuf,
    copy: PathBuf,
}

impl Image {
    /// A file for the copy lies beside it, empty.
    fn new(options: &str, size: &str) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder on a disk");
        let (path, copy) = (folder.path().join("volume, with a comma.qcow2"), folder.path().join("copy"));
        let image = Image { _folder: folder, path, copy };
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options], &image.path, &[size]);
        image.forget_copy();
        image
    }

    fn forget_copy(&self) {
        fs::write(&self.copy, b"").expect("written");
    }

    /// As a guest.
    fn write(&self, orders: &[&str]) {
        let mut arguments = vec!["-f", "qcow2"];
        orders.iter().for_each(|order| arguments.extend(["-c", order]));
        run("qemu-io", &arguments, &self.path, &[]);
    }

    fn snapshot(&self, flag: &str, name: &str) {
        run("qemu-img", &["snapshot", flag, name], &self.path, &[]);
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("read")
    }

    /// What a guest reads.
    fn content(&self) -> Vec<u8> {
        let raw = self.copy.with_extension("raw");
        run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw"], &self.path, &[&raw.to_string_lossy()]);
        fs::read(raw).expect("read")
    }

    fn id_of(&self, name: &str) -> String {
        let info = QemuImg::new().info(&self.path, Format::Qcow2, Access::Exclusive).expect("looked");
        let found = info.snapshots.into_iter().find(|one| one.name == name);
        found.expect("the snapshot").id
    }

    fn keep(&self, name: &str, most_bytes: u64) -> bool {
        self.forget_copy();
        QemuImg::new()
            .keep_tables(&self.path, &self.id_of(name), &self.copy, most_bytes, &CX())
            .expect("no trouble")
    }

    fn apply(&self, name: &str) {
        QemuImg::new().snapshot_apply(&self.path, &self.id_of(name), &CX()).expect("applied");
    }

    fn put_back(&self) -> Result<(), ToolError> {
        QemuImg::new().put_back_tables(&self.path, &self.copy, &CX())
    }

    fn discard_freed(&self) {
        QemuImg::new().discard_freed(&self.path, &self.copy, &CX()).expect("discarded");
    }

    fn assert_sound(&self, when: &str) {
        let report = QemuImg::new().check(&self.path, Mend::Nothing, &CX()).expect("checked");
        assert!(report.is_clean(), "{when}: {report:?}");
    }

    fn allocated_bytes(&self) -> u64 {
        fs::metadata(&self.path).expect("looked").blocks() * 512
    }
}

fn run(program: &str, arguments: &[&str], image: &Path, last: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).arg(image).args(last).stdout(Stdio::null());
    assert!(command.status().expect("it runs").success(), "{program} {arguments:?}");
}

/// Three snapshots, of which the middle one shares tables with both others and with what is in force; content that was written over,
/// zeroed and discarded.
fn lived_in(options: &str) -> Image {
    let image = Image::new(options, "40M");
    // What is allocated already cannot be compressed.
    let compress = if options.starts_with("preallocation") { "" } else { "-c" };
    let packed = |at: &str| image.write(&[&format!("write {compress} -P 3 {at} 2M")]);
    image.write(&["write -P 1 0 9M", "write -P 2 20M 3M"]);
    packed("36M");
    packed("24M");
    image.snapshot("-c", "first");
    image.write(&["write -P 3 1M 1M", "write -P 4 21M 64k", "write -P 5 30M 777k"]);
    image.snapshot("-c", "middle");
    image.write(&["write -P 6 2M 3M", "write -z 5M 1M", "discard 20M 1M", "write -P 7 39M 1M"]);
    image.snapshot("-c", "last");
    image.write(&[
        "write -P 8 1M 5000k",
        "write -P 9 33M 2M",
        "write -z 0 256k",
        "discard 39M 512k",
        "write -P 9 36M 1M",
    ]);
    packed("26M");
    image
}

/// A mixture of two states as a power cut may leave it: sectors of either, as the number has it.
fn mixed(before: &[u8], after: &[u8], number: u64) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut mixture = before[..before.len().min(after.len())].to_vec();
    for (at, sector) in mixture.chunks_mut(SECTOR_BYTES).enumerate() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if state >> 63 == 1 {
            let at = at * SECTOR_BYTES;
            sector.copy_from_slice(&after[at..at + sector.len()]);
        }
    }
    mixture
}

#[test]
fn whatever_a_cut_leaves_of_an_apply_is_put_back_to_the_byte() {
    if tool_is_missing() {
        return;
    }
    for kind in KINDS {
        let image = lived_in(kind);
        let (before, content) = (image.bytes(), image.content());
        for target in ["first", "middle", "last"] {
            assert!(image.keep(target, NO_LIMIT), "{kind}");
            assert!(image.bytes() == before, "{kind}: to keep tables changes nothing");
            image.apply(target);
            let after = image.bytes();
            assert!(after != before, "{kind}, {target}: the apply did something");
            image.put_back().expect("put back");
            assert!(image.bytes() == before, "{kind}, {target}: after the whole apply");
            for number in 0..5 {
                fs::write(&image.path, mixed(&before, &after, number)).expect("written");
                image.put_back().expect("put back");
                assert!(image.bytes() == before, "{kind}, {target}: after mixture {number}");
            }
        }
        assert!(image.content() == content, "{kind}");
        image.assert_sound(kind);
    }
}

/// A write of the tool's, as QEMU's driver `blklogwrites` logs it.
struct Logged {
    at: u64,
    bytes: Vec<u8>,
}

/// Applies the snapshot as [`QemuImg`] does, and tells all that is written to the file, in order. `None` where this QEMU has no such
/// driver.
fn apply_logged(image: &Image, name: &str) -> Option<Vec<Logged>> {
    let log = image.copy.with_extension("log");
    fs::write(&log, b"").expect("written");
    let path = image.path.to_string_lossy().replace(',', ",,");
    let opened = format!(
        "driver=qcow2,pass-discard-snapshot=off,file.driver=blklogwrites,file.file.driver=file,\
         file.file.filename={path},file.log.driver=file,file.log.filename={}",
        log.display()
    );
    let mut command = Command::new("qemu-img");
    command.args(["snapshot", "-a", &image.id_of(name), "--image-opts", &opened]);
    let ended = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&ended.stderr);
    if said.contains("Unknown driver") {
        return None;
    }
    assert!(ended.status.success(), "{said}");

    let log = fs::read(log).expect("read");
    let number = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("eight bytes"));
    let (entries, mut at) = (number(16), SECTOR_BYTES);
    const DISCARD: u64 = 4;
    let mut writes = Vec::new();
    for _ in 0..entries {
        let (sector, sectors, flags) = (number(at), number(at + 8) as usize, number(at + 16));
        assert!(flags & DISCARD == 0, "nothing is discarded");
        at += SECTOR_BYTES;
        let bytes = log[at..at + sectors * SECTOR_BYTES].to_vec();
        at += bytes.len();
        writes.push(Logged { at: sector * SECTOR_BYTES as u64, bytes });
    }
    writes.retain(|write| !write.bytes.is_empty());
    Some(writes)
}

/// The power goes before each write of an apply, and with any of those before it lost.
#[test]
fn an_apply_that_ends_before_any_of_its_writes_is_put_back_to_the_byte() {
    if tool_is_missing() {
        return;
    }
    for kind in KINDS {
        let image = lived_in(kind);
        let before = image.bytes();
        assert!(image.keep("first", NO_LIMIT), "{kind}");
        let Some(writes) = apply_logged(&image, "first") else {
            return eprintln!("skipped: this QEMU cannot log writes");
        };
        assert!(writes.len() > 4, "{kind}: {} writes", writes.len());
        image.put_back().expect("put back");
        let file = fs::OpenOptions::new().write(true).open(&image.path).expect("opened");
        for end in 1..=writes.len() {
            for lost in [None, Some(2), Some(3)] {
                // The tool may have marked it as not closed, or as damaged.
                file.write_all_at(&[before[79] | (end % 4) as u8], 79).expect("written");
                let survives = |number: &usize| lost.is_none_or(|lost| !(number + end).is_multiple_of(lost));
                for write in (0..end).filter(survives).map(|number| &writes[number]) {
                    file.write_all_at(&write.bytes, write.at).expect("written");
                }
                image.put_back().expect("put back");
                let is_back = image.bytes() == before;
                assert!(is_back, "{kind}: before write {end} of {}, lost {lost:?}", writes.len());
            }
        }
    }
}

/// And to put it back may end anywhere: it is done again; and if it is not, nothing in use is counted too low, so that who goes on from
/// there overwrites nobody else's clusters.
#[test]
fn putting_back_that_was_cut_is_done_again_and_loses_no_count() {
    if tool_is_missing() {
        return;
    }
    for kind in ["compat=1.1", "cluster_size=512", "extended_l2=on"] {
        let image = lived_in(kind);
        let before = image.bytes();
        assert!(image.keep("first", NO_LIMIT), "{kind}");
        image.apply("first");
        let applied = image.bytes();
        let most = 20_000;
        let mut stops = 0;
        for calls in (0..most).step_by(if kind == "cluster_size=512" { 97 } else { 3 }) {
            fs::write(&image.path, &applied).expect("written");
            let asked = AtomicUsize::new(0);
            let stop = || asked.fetch_add(1, Ordering::Relaxed) >= calls;
            let cx = HandlerCx::new(&stop, &|_| ());
            let ended = QemuImg::new().put_back_tables(&image.path, &image.copy, &cx);
            let is_whole = ended.is_ok();
            assert!(is_whole || matches!(ended, Err(ToolError::Cancelled)), "{kind}: {ended:?}");
            let report = QemuImg::new().check(&image.path, Mend::Nothing, &CX()).expect("checked");
            let is_counted_low = report.corruptions > 0 && !only_flags_are_wrong(&image);
            assert!(!is_counted_low, "{kind}, stopped at {calls}: {report:?}");
            image.put_back().expect("put back");
            assert!(image.bytes() == before, "{kind}, stopped at {calls}");
            if is_whole {
                break;
            }
            stops += 1;
        }
        assert!(stops > 3, "{kind}: stopped {stops} times");
    }
}

/// `qemu-img check` also counts "copied" flags that do not go with the counts; those follow from counts that are too high.
fn only_flags_are_wrong(image: &Image) -> bool {
    let ended = Command::new("qemu-img").args(["check", "-f", "qcow2"]).arg(&image.path).output();
    let ended = ended.expect("it runs");
    let said = [ended.stdout, ended.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    said.lines().filter(|line| line.starts_with("ERROR")).all(|line| line.contains("OFLAG_COPIED"))
}

#[test]
fn an_apply_frees_clusters_and_keeps_their_bytes() {
    if tool_is_missing() {
        return;
    }
    for kind in KINDS {
        let image = lived_in(kind);
        let before = image.bytes();
        assert!(image.keep("first", NO_LIMIT), "{kind}");
        image.apply("first");
        let wanted = image.content();
        let allocated = image.allocated_bytes();
        image.discard_freed();
        assert!(image.content() == wanted, "{kind}: discarding changes nothing that is used");
        image.assert_sound(kind);
        assert!(image.allocated_bytes() + (4 << 20) < allocated, "{kind}: room comes back");

        // As much as qemu-img itself gives back.
        let twin = Image::new(kind, "40M");
        fs::write(&twin.path, &before).expect("written");
        run("cp", &["--sparse=always", &twin.path.to_string_lossy()], &twin.copy, &[]);
        fs::rename(&twin.copy, &twin.path).expect("renamed");
        twin.snapshot("-a", "first");
        run("cp", &["--sparse=always", &image.path.to_string_lossy()], &image.copy, &[]);
        run("cp", &["--sparse=always", &twin.path.to_string_lossy()], &twin.copy, &[]);
        let sparse = |path: &Path| fs::metadata(path).expect("looked").blocks() * 512;
        let (ours, theirs) = (sparse(&image.copy), sparse(&twin.copy));
        assert!(ours.abs_diff(theirs) <= 64 << 10, "{kind}: {ours} and {theirs} bytes are left");
    }
}

#[test]
fn an_image_that_is_not_known_so_well_is_not_kept() {
    if tool_is_missing() {
        return;
    }
    let grown = lived_in("compat=1.1");
    run("qemu-img", &["resize", "-q", "-f", "qcow2"], &grown.path, &["48M"]);
    let marked = lived_in("compat=1.1");
    run("qemu-img", &["bitmap", "--add"], &marked.path, &["dirty-since"]);
    let narrow = Image::new("refcount_bits=4", "40M");
    narrow.snapshot("-c", "last");
    let beside = Image::new("compat=1.1", "40M");
    beside.snapshot("-c", "last");
    let dirty = lived_in("compat=1.1");
    let mut bytes = dirty.bytes();
    bytes[79] |= 1;
    fs::write(&dirty.path, bytes).expect("written");
    for (image, why) in [
        (&grown, "its size changes"),
        (&marked, "it has bitmaps"),
        (&narrow, "counts are parts of bytes"),
        (&dirty, "it was not closed"),
    ] {
        assert!(!image.keep("last", NO_LIMIT), "{why}");
        assert_eq!(fs::read(&image.copy).expect("read"), b"", "{why}");
    }
    assert!(!lived_in("compat=1.1").keep("last", 64 << 10), "more than it may take");
    let unknown = QemuImg::new().keep_tables(&beside.path, "77", &beside.copy, NO_LIMIT, &CX());
    assert!(!unknown.expect("no trouble"), "no snapshot has that id");
}

/// Every table that leads somewhere else than into the file is no answer, and no panic.
#[test]
fn tables_that_make_no_sense_are_not_kept() {
    if tool_is_missing() {
        return;
    }
    let image = lived_in("cluster_size=512");
    let sound = image.bytes();
    let number = |at: usize| u64::from_be_bytes(sound[at..at + 8].try_into().expect("eight bytes"));
    let (l1, counts, snapshots) = (number(40) as usize, number(48) as usize, number(64) as usize);
    let (first, last) = (image.id_of("first"), image.id_of("last"));
    for (at, what, id) in [(l1, "L1", &last), (counts, "counts", &last), (snapshots, "its own L1", &first)] {
        for wrong in [u64::MAX, sound.len() as u64, 1 << 40] {
            let mut bytes = sound.clone();
            bytes[at..at + 8].copy_from_slice(&wrong.to_be_bytes());
            fs::write(&image.path, bytes).expect("written");
            image.forget_copy();
            let kept = QemuImg::new().keep_tables(&image.path, id, &image.copy, NO_LIMIT, &CX());
            assert!(!kept.expect("no trouble"), "{what} at {wrong:#x}");
        }
    }
    for length in [0, 50, 104, 4096, sound.len() / 2] {
        fs::write(&image.path, &sound[..length]).expect("written");
        image.forget_copy();
        let kept = QemuImg::new().keep_tables(&image.path, &last, &image.copy, NO_LIMIT, &CX());
        assert!(!kept.unwrap_or(false), "cut to {length} bytes");
    }
}

#[test]
fn a_damaged_copy_is_told_and_nothing_is_written_by_it() {
    if tool_is_missing() {
        return;
    }
    let image = lived_in("compat=1.1");
    assert!(image.keep("first", NO_LIMIT));
    image.apply("first");
    let (applied, copy) = (image.bytes(), fs::read(&image.copy).expect("read"));
    let flips = (0..copy.len()).step_by(copy.len() / 60).chain(copy.len() - 4..copy.len());
    let flipped = flips.map(|at| {
        let mut bytes = copy.clone();
        bytes[at] ^= 0x40;
        bytes
    });
    let cut = (0..copy.len()).step_by(copy.len() / 20).map(|length| copy[..length].to_vec());
    for bytes in flipped.chain(cut) {
        fs::write(&image.copy, bytes).expect("written");
        let refused = image.put_back().expect_err("damaged");
        assert!(matches!(refused, ToolError::NotAnImage { .. }), "{refused}");
        let refused = QemuImg::new().discard_freed(&image.path, &image.copy, &CX()).expect_err("damaged");
        assert!(matches!(refused, ToolError::NotAnImage { .. }), "{refused}");
    }
    assert!(image.bytes() == applied);
}

/// Somebody has cut a snapshot since: the table of snapshots is elsewhere, and where it was is something else.
#[test]
fn a_copy_of_an_image_that_was_changed_otherwise_is_refused() {
    if tool_is_missing() {
        return;
    }
    let image = lived_in("compat=1.1");
    assert!(image.keep("first", NO_LIMIT));
    image.snapshot("-c", "another");
    let now = image.bytes();
    let refused = image.put_back().expect_err("of another state");
    assert!(matches!(refused, ToolError::NotAnImage { .. }), "{refused}");
    assert!(image.bytes() == now);
}

#[test]
fn a_copy_takes_little_more_than_what_is_in_the_tables() {
    if tool_is_missing() {
        return;
    }
    let image = lived_in("compat=1.1");
    assert!(image.keep("first", NO_LIMIT));
    let bytes = fs::metadata(&image.copy).expect("looked").len();
    assert!((4 << 10..160 << 10).contains(&bytes), "{bytes} bytes");
}

/// What a rollback that can be undone takes, by both kinds of safety snapshot taking turns: `cargo test … -- --ignored --nocapture`.
#[test]
#[ignore = "measures, and takes minutes"]
fn measured_beside_a_safety_snapshot_inside() {
    const ROUNDS: usize = 7;
    if tool_is_missing() {
        return;
    }
    let name = |text: &str| SnapshotName::parse(&format!("holdfast-{text}")).expect("a good name");
    let (target, safety) = (name("first"), name("safety-first"));
    let handler = Qcow2Handler::new(Arc::new(RealDisk), Arc::new(QemuImg::new()));
    for size in ["16M", "1G", "16G", "128G"] {
        let image = Image::new("preallocation=metadata", size);
        handler.create_snapshot(&image.path, &target, &CX()).expect("cut");
        let mut taken = [Vec::new(), Vec::new()];
        let mut kept_bytes = 0;
        for _ in 0..ROUNDS {
            for (way, taken) in taken.iter_mut().enumerate() {
                image.write(&["write -q -P 7 1M 1M"]);
                let begun = Instant::now();
                match way {
                    0 => handler.create_safety_snapshot(&image.path, &safety, &target, &CX()).expect("safe"),
                    _ => drop(handler.create_snapshot(&image.path, &safety, &CX()).expect("safe")),
                }
                let safe = begun.elapsed();
                if way == 0 {
                    let copy = format!("{}~{safety}", image.path.display());
                    kept_bytes = fs::metadata(copy).expect("tables are kept").len();
                }
                handler.rollback_to_snapshot(&image.path, &target, &BTreeSet::new(), &CX()).expect("back");
                handler.drop_safety_snapshot(&image.path, &safety, &CX()).expect("gone");
                taken.push((begun.elapsed().as_secs_f64() * 1e3, safe.as_secs_f64() * 1e3));
            }
        }
        for (way, mut taken) in ["tables kept", "snapshot inside"].into_iter().zip(taken) {
            taken.sort_by(|a, b| a.0.total_cmp(&b.0));
            let (median, least, most) = (taken[ROUNDS / 2], taken[0].0, taken[ROUNDS - 1].0);
            println!(
                "measured: {size}, {way}: {:.1} ms ({least:.1} to {most:.1}), of which to make it safe {:.1} ms",
                median.0, median.1
            );
        }
        println!("measured: {size}, the copy takes {} KiB", kept_bytes >> 10);
    }
}
