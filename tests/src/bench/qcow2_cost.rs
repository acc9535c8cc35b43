//! What qemu-img's snapshots cost by themselves, against the image's size and the snapshots that are in it already.
//!
//! ```text
//!   sizes × snapshots ─▶ one image each, every cluster mapped, holding no data
//!     round: for each image  -c ─▶ -a ─▶ -d   (the image is as before; the next round finds the same)
//!   ─▶ Costs ─▶ figures, and the points of plot.rs
//! ```
//!
//! Taken through the product's own [`QemuImg`], starting the process included: what that costs without any image is a
//! figure of its own. Images are made with preallocated metadata: their tables and reference counts are those of a full
//! disk, while the file stays sparse. Nothing is written between snapshots, so all of them share every cluster.
//!
//! Deliberately absent: what a guest's writes after a snapshot cost (it copies the clusters it touches), and the node.

#![allow(clippy::disallowed_methods, reason = "it measures real time, on real files")]

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use holdfast_volumehandlers::qcow2::QemuImg;
use holdfast_volumehandlers::{HandlerCx, ImageTool, ToolError};
use serde::Deserialize;

use super::figures::Figure;

/// What is cut, applied and deleted in each round. The snapshots that stay are named otherwise.
const NAME: &str = "measured";
/// Tables and reference counts: 8 and 2 bytes for each cluster of 64 KiB.
const METADATA_BYTES_PER_GIB: u64 = 160 << 10;
/// A copy of the first table, rounded to clusters (for these sizes one), and its share of the list of snapshots.
const SNAPSHOT_BYTES: u64 = 128 << 10;
const SPARE_BYTES: u64 = 64 << 20;
const ONE_CALL_AT_MOST: Duration = Duration::from_secs(120);
const LEAST_ROUNDS: usize = 3;

/// What is measured, and how often.
#[derive(Debug, Clone)]
pub struct Plan {
    pub sizes_gib: Vec<u64>,
    /// How many snapshots are in an image before each step.
    pub snapshots: Vec<usize>,
    pub rounds: usize,
    /// No round is begun after this, once there are three.
    pub budget: Duration,
}

impl Plan {
    /// As in docs/performance.md: three sizes, and four numbers of snapshots. None is among them because the first
    /// snapshot is another case than those after it.
    pub fn full() -> Self {
        Plan {
            sizes_gib: vec![1, 16, 128],
            snapshots: vec![0, 1, 16, 64],
            rounds: 9,
            budget: Duration::from_secs(80),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Create,
    Apply,
    Delete,
}

impl Operation {
    /// In the order in which they leave the image as it was.
    pub const ALL: [Operation; 3] = [Operation::Create, Operation::Apply, Operation::Delete];

    fn run(self, tool: &QemuImg, image: &Path) -> Result<(), ToolError> {
        let cx = HandlerCx::unattended();
        match self {
            Operation::Create => tool.snapshot_create(image, NAME, &cx),
            Operation::Apply => tool.snapshot_apply(image, NAME, &cx),
            Operation::Delete => tool.snapshot_delete(image, NAME, &cx),
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Operation::Create => "snapshot create",
            Operation::Apply => "snapshot apply",
            Operation::Delete => "snapshot delete",
        })
    }
}

/// One operation on one image.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub operation: Operation,
    pub size_gib: u64,
    pub snapshots: usize,
    pub median_ms: f64,
    pub least_ms: f64,
    pub most_ms: f64,
}

impl Point {
    pub fn name(&self) -> String {
        let plural = if self.snapshots == 1 { "" } else { "s" };
        format!("qcow2: {}, {} GiB, {} snapshot{plural}", self.operation, self.size_gib, self.snapshots)
    }
}

/// What a run found.
#[derive(Debug)]
pub struct Costs {
    /// The first line of `qemu-img --version`.
    pub tool: String,
    pub rounds: usize,
    /// qemu-img started and ended without any image: no operation can cost less.
    pub floor: Figure,
    pub points: Vec<Point>,
}

impl Costs {
    /// One figure a point, each beside the same operation on the smallest image with the fewest snapshots but none.
    pub fn figures(&self) -> Vec<Figure> {
        let mut figures = vec![self.floor.clone()];
        figures.extend(self.points.iter().map(|point| {
            let figure =
                Figure::with_spread(&point.name(), "ms", point.median_ms, [point.least_ms, point.most_ms]);
            match self.base(point.operation) {
                Some(base) if base != point => {
                    let to = base.name().rsplit_once("snapshot ").map(|(_, which)| which.to_owned());
                    figure.compared_to(&to.unwrap_or_default(), base.median_ms)
                }
                _ => figure,
            }
        }));
        figures
    }

    fn base(&self, operation: Operation) -> Option<&Point> {
        let with_some =
            self.points.iter().filter(|point| point.operation == operation && point.snapshots > 0);
        with_some.min_by_key(|point| (point.size_gib, point.snapshots))
    }
}

/// One image, and what was measured on it.
struct Image {
    path: PathBuf,
    size_gib: u64,
    snapshots: usize,
    /// Milliseconds, for each of [`Operation::ALL`].
    samples: [Vec<f64>; 3],
}

/// Measures in a folder of its own within `folder`, which is gone afterwards. Refuses, with the reason, without qemu-img,
/// on a file system that is too full or keeps no sparse files, and if an image is not what it has to be.
pub fn measure(folder: &Path, plan: &Plan) -> anyhow::Result<Costs> {
    let tool = QemuImg::new();
    let version = tool.version().context("qemu-img cannot be used")?;
    need_space(folder, plan)?;
    let folder = tempfile::Builder::new().prefix("holdfast-qcow2-").tempdir_in(folder)?;
    let began = Instant::now();
    let mut images = Vec::new();
    for &size_gib in &plan.sizes_gib {
        for &snapshots in &plan.snapshots {
            images.push(Image::make(folder.path(), &tool, size_gib, snapshots)?);
        }
    }
    let (mut rounds, mut floor_ms) = (0, Vec::new());
    // One round more than is kept: the first reads everything into memory.
    while rounds <= plan.rounds && (rounds <= LEAST_ROUNDS || began.elapsed() < plan.budget) {
        let took_ms = timed_ms(|| tool.version())?;
        if rounds > 0 {
            floor_ms.push(took_ms);
        }
        for image in &mut images {
            image.round(&tool, rounds > 0)?;
        }
        rounds += 1;
    }
    images.iter().try_for_each(|image| image.is_as_before(&tool))?;
    Ok(Costs {
        tool: version,
        rounds: rounds - 1,
        floor: Figure::new("qcow2: qemu-img without an image", "ms", &floor_ms),
        points: points(&images),
    })
}

/// By operation, then number of snapshots, then size: lines of a plot stand together.
fn points(images: &[Image]) -> Vec<Point> {
    let mut points: Vec<Point> = Vec::new();
    for image in images {
        for (operation, samples) in Operation::ALL.into_iter().zip(&image.samples) {
            let told = Figure::new("", "ms", samples);
            points.push(Point {
                operation,
                size_gib: image.size_gib,
                snapshots: image.snapshots,
                median_ms: told.value,
                least_ms: told.spread[0],
                most_ms: told.spread[1],
            });
        }
    }
    points.sort_by_key(|point| (point.operation, point.snapshots, point.size_gib));
    points
}

impl Image {
    /// An image with every cluster mapped and so many snapshots, known to be that, and durable.
    fn make(folder: &Path, tool: &QemuImg, size_gib: u64, snapshots: usize) -> anyhow::Result<Image> {
        let path = folder.join(format!("{size_gib}-gib-{snapshots}.qcow2"));
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2", "-o", "preallocation=metadata"]);
        let (status, _) = output(create.arg(&path).arg(format!("{size_gib}G")))?;
        ensure!(status.success(), "qemu-img cannot make an image of {size_gib} GiB ({status})");
        must_be_mapped(&path)?;
        must_be_sparse(&path, size_gib)?;
        for number in 0..snapshots {
            tool.snapshot_create(&path, &format!("s{number}"), &HandlerCx::unattended())
                .with_context(|| format!("snapshot {number} of {}", path.display()))?;
        }
        File::open(&path)?.sync_all()?;
        Ok(Image { path, size_gib, snapshots, samples: Default::default() })
    }

    fn round(&mut self, tool: &QemuImg, is_kept: bool) -> anyhow::Result<()> {
        for (operation, samples) in Operation::ALL.into_iter().zip(&mut self.samples) {
            let took_ms = timed_ms(|| operation.run(tool, &self.path))
                .with_context(|| format!("{operation} on {}", self.path.display()))?;
            if is_kept {
                samples.push(took_ms);
            }
        }
        Ok(())
    }

    /// Otherwise a round did not measure what its name says.
    fn is_as_before(&self, tool: &QemuImg) -> anyhow::Result<()> {
        let format = holdfast_types::volume::Format::Qcow2;
        let info = tool.info(&self.path, format, holdfast_volumehandlers::tool::Access::Exclusive)?;
        let found = info.snapshots.len();
        ensure!(found == self.snapshots, "{} ends with {found} snapshots", self.path.display());
        must_be_mapped(&self.path)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    total_clusters: u64,
    #[serde(default)]
    allocated_clusters: u64,
}

/// By qemu-img's own count; it fails for an image that is damaged or leaks.
fn must_be_mapped(image: &Path) -> anyhow::Result<()> {
    let (status, text) =
        output(Command::new("qemu-img").args(["check", "-f", "qcow2", "--output=json"]).arg(image))?;
    ensure!(status.success(), "{} is not sound ({status}): {}", image.display(), text.trim());
    let Checked { total_clusters, allocated_clusters } = serde_json::from_str(&text)?;
    ensure!(
        total_clusters > 0 && allocated_clusters == total_clusters,
        "{} is not fully mapped: {allocated_clusters} of {total_clusters} clusters",
        image.display()
    );
    Ok(())
}

fn must_be_sparse(image: &Path, size_gib: u64) -> anyhow::Result<()> {
    // In units of 512 bytes whatever the file system's own are.
    let taken_bytes = fs::metadata(image)?.blocks() * 512;
    let expected_bytes = size_gib * METADATA_BYTES_PER_GIB;
    ensure!(
        taken_bytes <= 2 * expected_bytes + (8 << 20),
        "{} takes {} MiB where its tables are {} MiB: this file system keeps no sparse files",
        image.display(),
        taken_bytes >> 20,
        expected_bytes >> 20
    );
    Ok(())
}

/// Room for the tables of all images, and to spare.
fn need_space(folder: &Path, plan: &Plan) -> anyhow::Result<()> {
    let of_size = |size_gib: &u64| -> u64 {
        let snapshots = plan.snapshots.iter().map(|number| 1 + *number as u64).sum::<u64>();
        plan.snapshots.len() as u64 * size_gib * METADATA_BYTES_PER_GIB + snapshots * SNAPSHOT_BYTES
    };
    let needed_bytes = plan.sizes_gib.iter().map(of_size).sum::<u64>() + SPARE_BYTES;
    let system =
        rustix::fs::statvfs(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
    let free_bytes = system.f_bavail * system.f_frsize;
    ensure!(
        free_bytes >= needed_bytes,
        "{} MiB are needed in {}, {} MiB are free",
        needed_bytes >> 20,
        folder.display(),
        free_bytes >> 20
    );
    Ok(())
}

fn timed_ms<T>(call: impl FnOnce() -> Result<T, ToolError>) -> anyhow::Result<f64> {
    let began = Instant::now();
    call()?;
    Ok(began.elapsed().as_secs_f64() * 1000.0)
}

/// Runs it to its end, at most two minutes. What it prints is short, so it never waits for a reader.
fn output(command: &mut Command) -> anyhow::Result<(ExitStatus, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let status = within(&mut child, ONE_CALL_AT_MOST)?;
    let text = std::io::read_to_string(child.stdout.take().context("it has a standard output")?)?;
    Ok((status, text))
}

fn within(child: &mut Child, limit: Duration) -> anyhow::Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("qemu-img did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(operation: Operation, size_gib: u64, snapshots: usize, median_ms: f64) -> Point {
        Point {
            operation,
            size_gib,
            snapshots,
            median_ms,
            least_ms: median_ms - 1.0,
            most_ms: median_ms + 5.0,
        }
    }

    #[test]
    fn each_point_is_a_figure_beside_the_smallest_image_with_one_snapshot() {
        let costs = Costs {
            tool: "qemu-img".to_owned(),
            rounds: 3,
            floor: Figure::new("floor", "ms", &[5.0]),
            points: vec![
                point(Operation::Create, 1, 0, 9.0),
                point(Operation::Create, 1, 1, 10.0),
                point(Operation::Create, 16, 1, 40.0),
                point(Operation::Delete, 1, 1, 20.0),
            ],
        };
        let figures = costs.figures();
        let told: Vec<(&str, Option<f64>)> =
            figures.iter().map(|figure| (figure.name.as_str(), figure.ratio)).collect();
        assert_eq!(
            told,
            [
                ("floor", None),
                ("qcow2: snapshot create, 1 GiB, 0 snapshots", Some(0.9)),
                ("qcow2: snapshot create, 1 GiB, 1 snapshot", None),
                ("qcow2: snapshot create, 16 GiB, 1 snapshot", Some(4.0)),
                ("qcow2: snapshot delete, 1 GiB, 1 snapshot", None),
            ]
        );
        assert_eq!(figures[3].ratio_to.as_deref(), Some("create, 1 GiB, 1 snapshot"));
        assert_eq!(figures[3].spread, [39.0, 45.0]);
    }

    #[test]
    fn a_file_system_without_room_is_told_with_both_numbers() {
        let plan = Plan { sizes_gib: vec![1 << 40], ..Plan::full() };
        let error = need_space(&std::env::temp_dir(), &plan).expect_err("no disk has that");
        assert!(error.to_string().contains("MiB are needed"), "{error:#}");
    }

    #[test]
    fn small_images_are_measured_and_are_gone_afterwards() {
        if let Err(reason) = QemuImg::new().version() {
            println!("skipped: {reason}");
            return;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        let plan =
            Plan { sizes_gib: vec![1, 2], snapshots: vec![0, 2], rounds: 3, budget: Duration::from_secs(1) };
        let costs = measure(folder.path(), &plan).expect("measured");
        assert_eq!((costs.rounds, costs.points.len()), (3, 12));
        assert!(costs.points.iter().all(|point| point.least_ms > 0.0 && point.most_ms >= point.median_ms));
        assert_eq!(fs::read_dir(folder.path()).expect("it is still there").count(), 0);
    }

    /// What `make bench` does, by itself: `cargo test -p holdfast-tests --lib drawn -- --ignored --nocapture`
    #[test]
    #[ignore = "takes a minute and a half"]
    fn all_of_it_is_measured_and_drawn() {
        let folder = std::env::var_os("HOLDFAST_BENCH_FOLDER").map_or_else(std::env::temp_dir, PathBuf::from);
        let costs = measure(&folder, &Plan::full()).expect("measured");
        let report = super::super::figures::Report { figures: costs.figures(), ..Default::default() };
        println!("{report}");
        let drawing = folder.join("qcow2-cost.svg");
        let caption = format!("{}; {} rounds", costs.tool, costs.rounds);
        super::super::plot::draw(&costs, &caption, &drawing).expect("drawn");
        println!("{}", drawing.display());
    }
}
