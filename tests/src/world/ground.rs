//! The ground a node stands on, without the disk: the controller, the guests, and the reference model. It is a value:
//! a copy of it and a fork of the disk are a moment that can be gone back to.
//!
//! The model knows what each volume holds, because guests write one new mark to all their volumes whenever they start,
//! and what each snapshot holds, because it looks when one is first called available. A rollback that is called done
//! puts the snapshot's marks into the model, and must have been ordered, once ([003] A4, I6). Whatever a guest finds when
//! it starts must then be what the model says, on all its volumes and under the right version (I1, I2).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use holdfast_agents::domainmgr::vmm::{Domain, DomainExit, VmSpec};
use holdfast_persist::PersistLayout;
use holdfast_types::{
    AppInstanceState, OperationNumber, Phase, RollbackTarget, SnapshotAction, SnapshotId, SnapshotState,
    VolumeKey, VolumesSnapshotStatus,
};
use uuid::Uuid;

use super::controller::{Orders, Sent};
use super::faults::Faults;
use super::locals::Locals;
use super::storage::{Storage, identity};
use super::strangers::Strangers;

/// What a guest wrote when it started; 0 is a volume nobody has written to.
pub type Mark = u64;

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub app: Uuid,
    pub version: u64,
    /// The operation that cut it.
    pub operation: OperationNumber,
    pub marks: BTreeMap<PathBuf, Mark>,
}

/// A domain as it stands in the hypervisor's table.
#[derive(Debug, Clone)]
pub struct Machine {
    pub spec: VmSpec,
    pub domain: Domain,
    pub ended: Option<DomainExit>,
}

/// What is known of one application's past.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// The version its guest was started with last.
    pub version: u64,
    /// The rollback counter acted on last.
    pub acted_counter: u32,
    pub starts: u64,
    /// The version that the last rollback restored.
    pub restored: u64,
    rolling: Option<Rolling>,
    last_operation: OperationNumber,
}

/// The rollback that runs.
#[derive(Debug, Clone)]
struct Rolling {
    number: OperationNumber,
    phase: Phase,
    target: RollbackTarget,
    /// It was ordered on the node.
    is_local: bool,
    /// The only volumes that it reverts, and then it changes no configuration ([004] M).
    only: Option<BTreeSet<PathBuf>>,
}

#[derive(Debug, Clone, Default)]
pub struct Ground {
    pub orders: Orders,
    pub storage: Storage,
    pub strangers: Strangers,
    pub locals: Locals,
    /// Rollbacks that have come to the volumes, by application.
    pub reverting: BTreeMap<Uuid, OperationNumber>,
    pub faults: Faults,
    /// Size of the node's ballast; 0 for none.
    pub reserve_size_bytes: u64,
    /// Commits are made beside the agents' steps, as a real node does, and not within them.
    pub commits_beside: bool,
    /// Safety snapshots of images are snapshots inside them, and not copies of tables.
    pub keeps_no_tables: bool,
    /// Events that were handled while an earlier step of some agent was not durable yet.
    pub handled_early: u64,
    /// Rollbacks that came to the volumes while it was known which guard they were decided by.
    pub guards_judged: u64,
    pub machines: BTreeMap<Uuid, Machine>,
    pub last_pid: u32,
    /// Where volumes were that have gone: one that is made again is made where volumes are made now.
    pub left: BTreeSet<PathBuf>,
    /// What stands on each volume, by file.
    pub live: BTreeMap<PathBuf, Mark>,
    pub last_mark: Mark,
    /// Every snapshot that was ever called available; those still promised are in `promised`.
    pub cuts: BTreeMap<SnapshotId, Cut>,
    pub promised: BTreeSet<SnapshotId>,
    /// Snapshots that an older configuration, delivered late, ordered otherwise than the newest.
    pub reordered: BTreeSet<SnapshotId>,
    /// Versions that such a configuration brought back.
    pub brought_back: BTreeSet<(Uuid, u64)>,
    pub past: BTreeMap<Uuid, Past>,
    pub violations: Vec<String>,
    pub is_traced: bool,
    pub trace: Vec<String>,
    pub trace_hash: u64,
}

pub fn locked(ground: &Mutex<Ground>) -> MutexGuard<'_, Ground> {
    ground.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Ground {
    pub fn violated(&mut self, invariant: &str, what: impl std::fmt::Display) {
        self.note(format_args!("VIOLATION {invariant}: {what}"));
        self.violations.push(format!("{invariant}: {what}"));
    }

    /// One line of the trace. It always counts for the hash, and is kept only when somebody wants to read it.
    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        let mut hash = Hashed(rustc_hash::FxHasher::default());
        hash.0.write_u64(self.trace_hash);
        hash.write_fmt(line).expect("hashing does not fail");
        self.trace_hash = hash.0.finish();
        if self.is_traced {
            self.trace.push(line.to_string());
        }
    }

    /// Lines for the reader of a trace; they do not count for the hash.
    pub fn tell(&mut self, lines: impl IntoIterator<Item = String>) {
        if self.is_traced {
            self.trace.extend(lines.into_iter().map(|line| format!("    {line}")));
        }
    }

    /// The power is gone: every guest is. Faults have stopped, unless they are lasting ones.
    pub fn power_cycle(&mut self) {
        self.faults.at_recovery();
        for machine in self.machines.values_mut() {
            machine.ended.get_or_insert(DomainExit::Killed);
        }
    }

    pub fn running(&self, app: Uuid) -> Option<&Machine> {
        self.machines.get(&app).filter(|machine| machine.ended.is_none())
    }

    /// Where a volume is, or is made when it is wanted.
    pub fn place(&self, layout: &PersistLayout, key: &VolumeKey) -> PathBuf {
        let first = self.storage.first_place(layout, key);
        if self.left.contains(&first) { self.storage.place_now(layout, key) } else { first }
    }

    pub fn mark_of(&self, path: &Path) -> Mark {
        self.live.get(path).copied().unwrap_or(0)
    }

    /// A guest looks at what it finds. `None` as a mark is content that nobody ever wrote: torn.
    pub fn guest_starts(&mut self, app: Uuid, version: u64, found: &BTreeMap<PathBuf, Option<Mark>>) {
        self.note(format_args!("guest {app} starts, version {version}, finds {:?}", found.values()));
        if let Some((path, _)) = found.iter().find(|(_, mark)| mark.is_none()) {
            return self.violated("I1", format_args!("{} holds what nobody wrote", path.display()));
        }
        let found: BTreeMap<PathBuf, Mark> =
            found.iter().map(|(path, mark)| (path.clone(), mark.unwrap_or_default())).collect();
        let before = self.past.get(&app).map_or(0, |past| past.version);
        if let Some((path, mark)) = found.iter().find(|(path, mark)| self.mark_of(path) != **mark) {
            let left = self.mark_of(path);
            self.violated("I1", format_args!("{} holds {mark}, and {left} was left there", path.display()));
        }
        if version < before && !self.brought_back.contains(&(app, version)) {
            self.violated("I2", format_args!("version {version} runs after {before} without a rollback"));
        }
        self.live.extend(found);
        let past = self.past.entry(app).or_default();
        past.version = version;
        past.starts += 1;
    }

    /// A guest writes its mark to all its volumes; nothing comes between.
    pub fn guest_writes(&mut self, paths: impl IntoIterator<Item = PathBuf>) -> Mark {
        self.last_mark += 1;
        let mark = self.last_mark;
        self.live.extend(paths.into_iter().map(|path| (path, mark)));
        mark
    }

    /// I3, I12: what a promised snapshot holds does not go.
    pub fn file_removed(&mut self, path: &Path) {
        self.volume_goes(path);
        if self.live.remove(path).is_none() {
            return;
        }
        self.note(format_args!("volume {} goes", path.display()));
        self.left.insert(path.to_path_buf());
        let holder = self.promised.iter().find(|id| self.cuts[id].marks.contains_key(path)).copied();
        if let Some(id) = holder
            && (self.orders.names(id) || self.is_kept_locally(self.cuts[&id].app, id))
            && !self.reordered.contains(&id)
        {
            self.violated("I12", format_args!("{} goes, which snapshot {id} holds", path.display()));
        }
        let user = self.machines.values().find(|machine| {
            machine.ended.is_none() && machine.spec.disks.iter().any(|disk| identity(&disk.path) == *path)
        });
        if let Some(app) = user.map(|machine| machine.spec.app) {
            self.violated("I7", format_args!("{} goes under the guest of {app}", path.display()));
        }
    }

    /// An incarnation of a volume goes, and another is there: which of them is in force shows in what the next guest finds (I1).
    pub fn incarnation_removed(&mut self, path: &Path) {
        self.note(format_args!("incarnation {} goes", path.display()));
        let uses = |machine: &&Machine| {
            machine.ended.is_none() && machine.spec.disks.iter().any(|disk| disk.path == *path)
        };
        if let Some(app) = self.machines.values().find(uses).map(|machine| machine.spec.app) {
            self.violated("I7", format_args!("{} goes under the guest of {app}", path.display()));
        }
    }

    /// zedmanager's row of an application, whenever it is another one. `answers` is
    /// what storage says of its snapshots.
    pub fn row_changed(
        &mut self,
        row: &AppInstanceState,
        layout: &PersistLayout,
        answers: &dyn Fn() -> Vec<Arc<VolumesSnapshotStatus>>,
    ) {
        let app = row.app.0;
        let past = self.past.entry(app).or_default();
        let before = std::mem::replace(&mut past.last_operation, row.last_operation);
        if row.applied.is_none() && row.last_operation < before {
            self.application_ends(app);
        }
        self.rollback_moves(app, row, layout, answers);
        for (id, entry) in &row.snapshots {
            let available = matches!(entry.state, SnapshotState::Available(_));
            if available && !self.promised.contains(id) {
                self.cut_is_made(app, *id, row, layout);
            }
        }
        let promised: Vec<SnapshotId> =
            self.promised.iter().filter(|id| self.cuts[id].app == app).copied().collect();
        for id in promised {
            self.still_promised(row, id);
        }
    }

    /// One of the same id that comes later, by an older configuration, is another: its operations and its rollbacks are counted
    /// anew, and what it cuts under an id that was used is no snapshot of this one's.
    pub fn application_ends(&mut self, app: Uuid) {
        if let Some(past) = self.past.get_mut(&app) {
            (past.acted_counter, past.rolling) = (0, None);
        }
        self.cuts.retain(|_, cut| cut.app != app);
        let cuts = &self.cuts;
        self.promised.retain(|id| cuts.contains_key(id));
    }

    /// A rollback is done when its operation, having come to the volumes, is gone from the row: from then on the volumes
    /// hold what the snapshot holds. I6: it was ordered, and no counter acts twice. One that failed leaves everything as it
    /// was (I1, C6), says so, and needs a fault for an excuse.
    fn rollback_moves(
        &mut self,
        app: Uuid,
        row: &AppInstanceState,
        layout: &PersistLayout,
        answers: &dyn Fn() -> Vec<Arc<VolumesSnapshotStatus>>,
    ) {
        let running = row.operation.as_ref().and_then(|operation| {
            let only = || operation.volumes.iter().map(|key| self.place(layout, key)).collect();
            Some(Rolling {
                number: operation.number,
                phase: operation.phase,
                target: operation.rollback.clone()?,
                is_local: operation.local.is_some(),
                only: operation.revert.as_ref().map(|_| only()),
            })
        });
        let past = self.past.entry(app).or_default();
        let Some(rolling) = std::mem::replace(&mut past.rolling, running) else { return };
        let Rolling { number, phase, target, is_local, only } = rolling;
        let is_running = row.operation.as_ref().is_some_and(|operation| operation.number == number);
        if is_running || phase != Phase::RevertingVolumes {
            return;
        }
        let Some(cut) = self.cuts.get(&target.snapshot).cloned() else {
            return self.violated("C1", format_args!("rolled back to {}, which never was", target.snapshot));
        };
        let ordered = self.orders.rollbacks.iter().any(|order| {
            order.app == app && order.counter == target.counter && order.snapshot == target.snapshot
        });
        let failure =
            match row.last_local.as_ref().filter(|outcome| is_local && outcome.operation == Some(number)) {
                // It has an outcome of its own.
                Some(outcome) => outcome.error.as_ref().map(|error| error.summary.clone()),
                None => failure_of(row, number, &target, &answers()),
            };
        let past = self.past.entry(app).or_default();
        let acted = past.acted_counter;
        if !is_local {
            past.acted_counter = target.counter;
        }
        match failure {
            None => {
                if only.is_none() {
                    (past.version, past.restored) = (cut.version, cut.version);
                }
                let is_reverted = |path: &PathBuf| only.as_ref().is_none_or(|only| only.contains(path));
                self.live.extend(cut.marks.into_iter().filter(|(path, _)| is_reverted(path)));
                let consent = row.last_rollback.as_ref().filter(|done| done.number == number);
                if let Some(done) = consent {
                    let keys = row.applied.iter().flat_map(|applied| applied.volume_keys());
                    let places: Vec<_> = keys.map(|key| (key.volume, self.place(layout, &key))).collect();
                    let paths = |volume: &holdfast_types::VolumeId| {
                        let of_volume = places.iter().filter(|(of, _)| of == volume);
                        of_volume.map(|(_, path)| path.clone()).collect()
                    };
                    self.consented(&done.consent, &paths);
                }
                self.note(format_args!("rolled back to {}, counter {}", target.snapshot, target.counter));
            }
            Some(text) => {
                self.note(format_args!("not rolled back to {}: {text}", target.snapshot));
                if !self.faults.has_impaired {
                    self.violated(
                        "I17",
                        format_args!("rollback to {} failed for nothing: {text}", target.snapshot),
                    );
                }
            }
        }
        if is_local {
            // By whom, and that it was once: `locals.rs`. The controller's counter is not used up by it.
            return;
        }
        if !ordered || target.counter <= acted {
            self.violated(
                "I6",
                format_args!("counter {} acts after {acted}; ordered: {ordered}", target.counter),
            );
        }
    }

    /// A4 and A1 of a configuration that comes late: what it lists and what it leaves out counts as ordered.
    pub fn stale_arrives(&mut self, stale: &Sent) {
        let newest = self.orders.sent.last();
        let differing =
            |newest: &Sent| stale.snapshots.symmetric_difference(&newest.snapshots).copied().collect();
        let differing: BTreeSet<SnapshotId> = newest.map(|newest| differing(newest)).unwrap_or_default();
        self.reordered.extend(differing);
        self.brought_back.extend(stale.versions.iter().copied());
        self.note(format_args!("an older configuration arrives: {:?}", stale.versions));
    }

    fn cut_is_made(&mut self, app: Uuid, id: SnapshotId, row: &AppInstanceState, layout: &PersistLayout) {
        let SnapshotState::Available(instance) = &row.snapshots[&id].state else { return };
        if let Some(cut) = self.cuts.get(&id) {
            if !self.reordered.contains(&id) {
                return self
                    .violated("I14", format_args!("snapshot {id} was given up and is available again"));
            }
            if cut.operation == instance.operation {
                // Listed again before its data went.
                self.promised.insert(id);
                return;
            }
        }
        if self.running(app).is_some() {
            self.violated("I8", format_args!("snapshot {id} was cut under a running guest"));
        }
        // What was applied at the cut: the row that calls it available still has the old configuration, unless the
        // update was completed in the same write; then the record has the version.
        let version = instance.config_version.version.parse().unwrap_or(0);
        let keys = self.orders.volumes_of(app, version);
        let paths = keys.iter().map(|key| self.place(layout, key));
        let marks = paths.map(|path| (path.clone(), self.mark_of(&path))).collect();
        self.note(format_args!("snapshot {id} available, version {version}, {marks:?}"));
        self.cuts.insert(id, Cut { app, version, operation: instance.operation, marks });
        self.promised.insert(id);
    }

    /// I3: available stays available until the controller, the maximum or the application's deletion says otherwise.
    fn still_promised(&mut self, row: &AppInstanceState, id: SnapshotId) {
        let entry = row.snapshots.get(&id);
        if entry.is_some_and(|entry| matches!(entry.state, SnapshotState::Available(_))) {
            return;
        }
        // Shown as failed where its record could not be read, and whole again after the next start: it is not lost.
        if self.faults.has_read_error
            && entry.is_some_and(|entry| matches!(&entry.state, SnapshotState::Failed(instance) if instance.time_created.is_some()))
        {
            return;
        }
        let is_excused = self.reordered.contains(&id) || entry.is_some_and(|entry| entry.trimmed);
        let is_kept = self.is_kept_locally(row.app.0, id);
        if (self.orders.names(id) && !self.locals.given_up.contains(&id) || is_kept) && !is_excused {
            let state = entry.map(|entry| &entry.state);
            self.violated("I3", format_args!("snapshot {id} was available and is {state:?}"));
        }
        self.promised.remove(&id);
    }
}

/// Text that is only hashed.
struct Hashed(rustc_hash::FxHasher);

impl std::fmt::Write for Hashed {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// What the rollback that has just ended failed of. In the same step another order may have been refused, and that failure
/// bears the same number; but what became of a snapshot's own rollback stands on the snapshot ([003] C6, A6). If it was
/// another rollback that was refused, its failure stands on the snapshot as well: then storage's answer tells. So it does where
/// another operation was begun in the same step and failed, too, whose failure bears a number of its own (seed 11022).
fn failure_of(
    row: &AppInstanceState,
    number: OperationNumber,
    target: &RollbackTarget,
    answers: &[Arc<VolumesSnapshotStatus>],
) -> Option<String> {
    if row.last_rollback.as_ref().is_some_and(|done| done.number == number) {
        // Whatever was refused in the same step, also of the same snapshot (seed 4000000131).
        return None;
    }
    let failure = row.last_failure.as_ref().filter(|failure| failure.number == number);
    let is_answer = |answer: &&Arc<VolumesSnapshotStatus>| {
        answer.snapshot == target.snapshot
            && (answer.operation, answer.result_of) == (number, SnapshotAction::Rollback)
    };
    if (row.rollback_counter > target.counter || failure.is_none())
        && let Some(answer) = answers.iter().find(is_answer)
    {
        return answer.error.as_ref().map(|error| error.summary.clone());
    }
    let failure = failure?;
    let error = match row.snapshots.get(&target.snapshot).map(|entry| &entry.state) {
        // It may have been dropped in the same step.
        Some(SnapshotState::Available(instance) | SnapshotState::Deleting { instance, .. }) => {
            instance.error.as_ref()?
        }
        _ => &failure.error,
    };
    Some(error.summary.clone())
}

/// Where a shared ground is kept.
pub type SharedGround = Arc<Mutex<Ground>>;
