//! A durable publish beside what programs do for the like, and beside the least that does, on the same file system.
//!
//! ```text
//!   publish        Publication ─▶ DiskRows ─▶ RowStore ─▶ crashsafe ─▶ RealDisk ─▶ shown on the bus
//!   bare sequence  create temporary, write, fsync, rename over the file, fsync directory
//!   bare exchange  write over the spare, fdatasync, exchange it for the file, fsync directory: what a publish comes to
//!   64 at once     64 threads at a barrier, each makes a row of its own durable
//!   unsynced       64 times create, write, rename over the file, one after the other: nothing is durable
//! ```
//!
//! They take turns. The bare ones write the very bytes of the row's file, into a directory beside the rows'.
//!
//! A topic has one publisher, and one publication is published by one thread: nothing in a node makes 64 rows of one topic
//! durable at once by `publish`. What can be concurrent is what stands below it, as 64 agents with a thread each would
//! use it: [`RowBacking::apply`] of one backing, to which every publication comes with its sealed row. So the 64 are calls
//! of that, of one owner and one topic: all of them in one directory, which is the hardest case. Left out of them is what a
//! publish does in memory (compare, write as JSON, seal, show), some microseconds each.
//!
//! Deliberately absent: an agent's step around it, and a disk at work for others.

#![allow(clippy::disallowed_methods, reason = "it measures real time, and the bare calls beside the seam's")]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use holdfast_persist::rows::RowChange;
use holdfast_persist::{PersistLayout, RealDisk};
use holdfast_pubsub::{Bus, DiskRows, Durability, Publication, Published, RowBacking, Topic};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};

use super::figures::{Figure, median};

const ROUNDS: usize = 200;
const WARM_UP_ROUNDS: usize = 10;
const CONCURRENT: usize = 64;
/// How many rounds lie between two times that all 64 go at once.
const ROUNDS_PER_CROWD: usize = 10;
const OWNER: &str = "bench";
const CROWD_TOPIC: &str = "CrowdRow";
const MILLIS_PER_SECOND: f64 = 1e3;
/// A row of the size of an application's status.
const TEXT_BYTES: usize = 1_500;

/// Below `root`, an empty directory on the file system to be measured. 200 rounds: some seconds on a disk that syncs in
/// milliseconds. A file system in memory is an error: nothing is durable there.
pub fn measure(root: &Path) -> anyhow::Result<Vec<Figure>> {
    ensure_on_a_disk(root)?;
    let layout = PersistLayout::new(root.join("persist"));
    layout.prepare(&RealDisk)?;
    let rows: Arc<dyn RowBacking> = Arc::new(DiskRows::new(Arc::new(RealDisk), &layout, None));
    let bus = Bus::new(Some(Arc::clone(&rows)));
    let mut publisher = Publisher { publication: bus.publication(OWNER)?, number: 0 };
    let row_file = layout.row_file(OWNER, LedgerRow::NAME, &KEY);
    let bare = Bare::new(&root.join("bare"))?;
    let mut measured = Measured::default();
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let published = publisher.publish()?;
        let bytes = fs::read(&row_file).with_context(|| format!("no row at {}", row_file.display()))?;
        let sequence = bare.replace(&bytes)?;
        let exchange = bare.exchange(&bytes)?;
        let is_for_crowd = round % ROUNDS_PER_CROWD == 0;
        let crowd = is_for_crowd.then(|| apply_at_once(&rows, &bytes)).transpose()?;
        let unsynced = is_for_crowd.then(|| bare.replace_unsynced(CONCURRENT, &bytes)).transpose()?;
        if round >= WARM_UP_ROUNDS {
            measured.published.push(millis(published));
            measured.bare.push(millis(sequence));
            measured.exchanged.push(millis(exchange));
            measured.crowds.extend(crowd.map(millis));
            measured.unsynced.extend(unsynced.map(millis));
        }
    }
    Ok(measured.figures())
}

/// Everything in ms.
#[derive(Default)]
struct Measured {
    /// What the 64 cost before anything waits for the disk.
    unsynced: Vec<f64>,
    published: Vec<f64>,
    bare: Vec<f64>,
    exchanged: Vec<f64>,
    /// From the first to the last of the 64.
    crowds: Vec<f64>,
}

impl Measured {
    fn figures(&self) -> Vec<Figure> {
        let bare = Figure::new("disk: the bare sequence", "ms", &self.bare);
        vec![
            Figure::new("bus: durable publish", "ms", &self.published)
                .compared_to("create, write, fsync, rename, fsync directory", bare.value)
                .ratio_at_most(1.3),
            Figure::new("bus: durable publish, again", "ms", &self.published)
                .compared_to("overwrite, fdatasync, exchange, fsync directory", median(&self.exchanged))
                .ratio_at_most(1.3),
            Figure::new("bus: 64 durable rows at once", "ms", &self.crowds)
                .compared_to("one durable publish", median(&self.published))
                .ratio_at_most(8.0),
            Figure::new("disk: 64 files replaced, nothing synced", "ms", &self.unsynced)
                .compared_to("one durable publish", median(&self.published)),
            bare,
            Figure::new("disk: the bare exchange", "ms", &self.exchanged),
        ]
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * MILLIS_PER_SECOND
}

fn ensure_on_a_disk(root: &Path) -> anyhow::Result<()> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    let kind = rustix::fs::statfs(root).with_context(|| format!("cannot look at {}", root.display()))?.f_type;
    let is_memory = [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind);
    ensure!(!is_memory, "{} is in memory: nothing is durable there", root.display());
    Ok(())
}

const KEY: &str = "one";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct LedgerRow {
    number: u64,
    text: String,
}

impl Topic for LedgerRow {
    const NAME: &'static str = "LedgerRow";
    const DURABILITY: Durability = Durability::Persistent;
    type Key = &'static str;
    fn key(&self) -> &'static str {
        KEY
    }
}

struct Publisher {
    publication: Publication<LedgerRow>,
    number: u64,
}

impl Publisher {
    fn publish(&mut self) -> anyhow::Result<Duration> {
        self.number += 1;
        let row = LedgerRow { number: self.number, text: "x".repeat(TEXT_BYTES) };
        let begun = Instant::now();
        let published = self.publication.publish(row)?;
        let time = begun.elapsed();
        ensure!(published == Published::Changed, "the row was not changed");
        Ok(time)
    }
}

const SPARE: &str = ".spare";
const EXCHANGED: &str = "exchanged";

/// The calls, and nothing else.
struct Bare {
    directory: PathBuf,
}

impl Bare {
    fn new(directory: &Path) -> io::Result<Self> {
        fs::create_dir(directory)?;
        for name in [SPARE, EXCHANGED] {
            fs::write(directory.join(name), "")?;
        }
        Ok(Bare { directory: directory.to_path_buf() })
    }

    fn exchange(&self, bytes: &[u8]) -> io::Result<Duration> {
        let (spare, path) = (self.directory.join(SPARE), self.directory.join(EXCHANGED));
        let begun = Instant::now();
        let mut file = OpenOptions::new().write(true).open(&spare)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        drop(file);
        rustix::fs::renameat_with(CWD, &spare, CWD, &path, RenameFlags::EXCHANGE)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(begun.elapsed())
    }

    fn replace(&self, bytes: &[u8]) -> io::Result<Duration> {
        let (temporary, path) = (self.directory.join(".new"), self.directory.join("row"));
        let begun = Instant::now();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &path)?;
        File::open(&self.directory)?.sync_all()?;
        Ok(begun.elapsed())
    }

    /// As many files, over those of the last time. The file system may begin to write them at their renames, and nobody
    /// waits for it; what is left of that is not the next round's.
    fn replace_unsynced(&self, files: usize, bytes: &[u8]) -> io::Result<Duration> {
        let temporary = self.directory.join(".unsynced");
        let begun = Instant::now();
        for number in 0..files {
            fs::write(&temporary, bytes)?;
            fs::rename(&temporary, self.directory.join(format!("unsynced-{number}")))?;
        }
        let time = begun.elapsed();
        rustix::fs::syncfs(File::open(&self.directory)?)?;
        Ok(time)
    }
}

/// Wall time from the barrier until the last of them is durable.
fn apply_at_once(rows: &Arc<dyn RowBacking>, bytes: &[u8]) -> anyhow::Result<Duration> {
    let (ready, go) = (Barrier::new(CONCURRENT + 1), Barrier::new(CONCURRENT + 1));
    thread::scope(|scope| {
        let (ready, go) = (&ready, &go);
        let apply = move |number: usize| {
            let key = number.to_string();
            let change = RowChange::Put { topic: CROWD_TOPIC, key: &key, bytes };
            ready.wait();
            go.wait();
            rows.apply(OWNER, &[change])?;
            io::Result::Ok(Instant::now())
        };
        let threads: Vec<_> = (0..CONCURRENT).map(|number| scope.spawn(move || apply(number))).collect();
        ready.wait();
        let begun = Instant::now();
        go.wait();
        let mut last = begun;
        for thread in threads {
            last = last.max(thread.join().expect("it does not panic")?);
        }
        Ok(last - begun)
    })
}
