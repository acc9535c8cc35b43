//! The agent on a bench: what it leaves on the bus and on disk, and that it goes on after the power was cut.

use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::disk::Disk;
use holdfast_persist::layout::PersistLayout;
use holdfast_persist::mem_disk::MemDisk;
use holdfast_types::*;

use super::testing::*;
use super::{Env, Zedmanager};
use crate::runtime::ManualClock;
use crate::runtime::bench::Bench;

pub(super) struct Node {
    pub(super) bench: Bench<Zedmanager>,
    pub(super) disk: MemDisk,
}

pub(super) fn layout() -> PersistLayout {
    PersistLayout::new("/persist")
}

fn agent(disk: &MemDisk) -> (Zedmanager, Env) {
    (Zedmanager::new(layout()), Env { disk: Arc::new(disk.clone()), layout: layout() })
}

impl Node {
    /// Version 1 installed on created volumes; domainmgr and volumemgr have nothing else to tell.
    pub(super) fn installed() -> Node {
        let mut node = Node::unstarted();
        node.begin(&config("1"));
        node
    }

    /// Version 2 in force and running, with snapshot 1 of version 1.
    pub(super) fn upgraded() -> Node {
        let mut node = Node::installed();
        node.domain_obeys();
        node.bench.publish(version_2());
        node.preflight_passes();
        node.domain_obeys();
        node.storage_does_as_asked();
        node.domain_obeys();
        node
    }

    pub(super) fn unstarted() -> Node {
        let disk = MemDisk::new();
        layout().prepare(&disk).expect("an empty disk");
        let (zedmanager, env) = agent(&disk);
        Node { bench: Bench::on(disk.clone(), ManualClock::new(time(0)), zedmanager, env), disk }
    }

    pub(super) fn begin(&mut self, config: &AppInstanceConfig) {
        self.begin_until_domains(config);
        self.bench.signal_restarted::<DomainStatus>();
        self.bench.settle();
    }

    /// All but domainmgr have told what they know.
    pub(super) fn begin_until_domains(&mut self, config: &AppInstanceConfig) {
        self.bench.start();
        self.bench.settle();
        self.bench.run_jobs();
        self.bench.publish(config.clone());
        self.bench.signal_restarted::<AppInstanceConfig>();
        self.volumes_are_there();
        // volumemgr tells of every snapshot it has a record of before it says that this is all.
        self.storage_does_as_asked();
        self.bench.signal_restarted::<VolumesSnapshotStatus>();
    }

    pub(super) fn volumes_are_there(&mut self) {
        for reference in self.bench.rows::<VolumeRefConfig>() {
            self.bench.publish(VolumeRefStatus {
                key: reference.key,
                state: SwState::CreatedVolume,
                progress: 100,
                file_location: format!("/volumes/{}", reference.key.volume),
                format: Some(Format::Qcow2),
                read_only: false,
                error: None,
            });
        }
        self.bench.settle();
    }

    /// domainmgr does as told.
    pub(super) fn domain_obeys(&mut self) {
        self.domain_of(app_id());
    }

    pub(super) fn domain_of(&mut self, app: AppId) {
        let order = self.bench.row::<DomainConfig>(&app).expect("a domain is wanted");
        let state = if order.activate { DomainState::Running } else { DomainState::Halted };
        self.bench.publish(domain_status(app, order.number, state));
        self.bench.settle();
    }

    pub(super) fn wants_guest(&self) -> bool {
        self.bench.row::<DomainConfig>(&app_id()).is_some_and(|order| order.activate)
    }

    pub(super) fn has_directory(&self, n: u8) -> bool {
        self.disk.metadata(&layout().snapshot_dir(&snapshot_id(n))).expect("looked").is_some()
    }

    pub(super) fn preflight_passes(&mut self) {
        for question in self.bench.rows::<SnapshotPreflightConfig>() {
            self.bench.publish(SnapshotPreflightStatus {
                snapshot: question.snapshot,
                app: question.app,
                operation: question.operation,
                refusal: None,
                blockers: Blockers::new(),
                space: Default::default(),
                cloned: Default::default(),
            });
        }
        self.bench.settle();
    }

    pub(super) fn storage_does_as_asked(&mut self) {
        for order in self.bench.rows::<VolumesSnapshotConfig>() {
            if order.action == SnapshotAction::Delete {
                self.bench.unpublish::<VolumesSnapshotStatus>(&order.snapshot);
                continue;
            }
            self.bench.publish(VolumesSnapshotStatus {
                snapshot: order.snapshot,
                meta: Default::default(),
                time_created: Some(time(7)),
                app: order.app,
                ref_count: 0,
                result_of: order.action,
                operation: order.operation,
                error: None,
            });
        }
        self.bench.settle();
    }

    pub(super) fn status(&self) -> AppInstanceStatus {
        self.bench.row::<AppInstanceStatus>(&app_id()).expect("reported")
    }

    pub(super) fn cut_power(self, config: &AppInstanceConfig) -> Node {
        let mut node = self.cut_power_and_not_begun();
        node.begin(config);
        node
    }

    pub(super) fn cut_power_and_not_begun(self) -> Node {
        let Node { bench, disk } = self;
        let (zedmanager, env) = agent(&disk);
        Node { bench: bench.cut_power(zedmanager, env), disk }
    }
}

fn domain_status(app: AppId, number: u64, state: DomainState) -> DomainStatus {
    DomainStatus {
        app,
        number,
        state,
        process_id: (state == DomainState::Running).then_some(4711),
        boot_time: None,
        accelerator: "tcg".to_owned(),
        console_log: String::new(),
        crash_count: 0,
        error: None,
    }
}

fn version_2() -> AppInstanceConfig {
    let mut next = config("2");
    next.resources.vcpus = 2;
    next.snapshot.max_snapshots = 1;
    next.snapshot.snapshots = vec![desc(1, SnapshotType::AppUpdate)];
    next
}

#[test]
fn an_installed_application_is_started_on_its_volumes_in_order() {
    let node = Node::installed();
    let domain = node.bench.row::<DomainConfig>(&app_id()).expect("wanted");
    assert!(domain.activate);
    let disks: Vec<VolumeKey> = domain.disks.iter().map(|disk| disk.volume).collect();
    assert_eq!(disks, config("1").volume_keys());
    assert_eq!(node.status().id_and_version.version, "1");
}

#[test]
fn an_update_with_a_snapshot_leaves_its_records_and_then_the_new_version() {
    let mut node = Node::installed();
    node.domain_obeys();
    node.bench.publish(version_2());
    node.bench.settle();
    assert!(
        node.bench.row::<DomainConfig>(&app_id()).expect("wanted").activate,
        "no downtime for a question"
    );
    node.preflight_passes();
    let saved =
        node.bench.file(&layout().app_config_file(&snapshot_id(1))).expect("B1: before the guest stops");
    assert!(saved.contains("\"Version\": \"1\""), "{saved}");
    assert!(node.bench.rows::<VolumesSnapshotConfig>().is_empty(), "storage waits for the guest");
    node.domain_obeys();
    let order = node.bench.rows::<VolumesSnapshotConfig>().pop().expect("asked for");
    assert_eq!((order.action, order.operation), (SnapshotAction::Create, OperationNumber(2)));
    assert_eq!(node.status().id_and_version.version, "1");
    node.storage_does_as_asked();
    let status = node.status();
    assert_eq!(status.id_and_version.version, "2");
    assert_eq!(status.snapshots.available_snapshots.len(), 1);
    assert!(node.bench.file(&layout().snapshot_instance_status_file(&snapshot_id(1))).is_some());
    assert!(node.bench.row::<DomainConfig>(&app_id()).expect("wanted").activate);
}

/// [003] G2–G5: cut at each stage of the update, the snapshot is taken and the update goes on.
#[test]
fn the_update_goes_on_after_a_power_cut_at_any_stage() {
    for stage in 0..5 {
        let mut node = Node::installed();
        node.domain_obeys();
        node.bench.publish(version_2());
        node.bench.settle();
        let steps: [fn(&mut Node); 4] =
            [Node::preflight_passes, Node::domain_obeys, Node::storage_does_as_asked, Node::domain_obeys];
        steps[..stage].iter().for_each(|step| step(&mut node));
        let mut node = node.cut_power(&version_2());
        for _ in 0..3 {
            node.volumes_are_there();
            node.preflight_passes();
            if node.bench.row::<DomainConfig>(&app_id()).is_some() {
                node.domain_obeys();
            }
            node.storage_does_as_asked();
        }
        let status = node.status();
        assert_eq!(status.id_and_version.version, "2", "stage {stage}");
        assert_eq!(status.snapshots.available_snapshots.len(), 1, "stage {stage}: {status:#?}");
        assert_eq!(status.snapshots.available_snapshots[0].config_version.version, "1", "stage {stage}");
        assert_eq!(status.state, SwState::Running, "stage {stage}");
    }
}

#[test]
fn an_application_that_is_removed_leaves_nothing_on_the_bus_or_on_disk() {
    let mut node = Node::installed();
    node.domain_obeys();
    node.bench.unpublish::<AppInstanceConfig>(&app_id());
    node.bench.settle();
    node.domain_obeys();
    assert!(node.bench.rows::<AppInstanceStatus>().is_empty());
    assert!(node.bench.rows::<AppInstanceState>().is_empty());
    assert!(node.bench.rows::<VolumeRefConfig>().is_empty());
    assert!(node.bench.rows::<DomainConfig>().is_empty());
}

/// I15: what moves one application takes nothing of another's from the bus.
#[test]
fn an_application_that_comes_and_goes_leaves_what_stands_on_the_bus_for_another() {
    let mut node = Node::upgraded();
    let mut version_3 = version_2();
    version_3.id_and_version.version = "3".to_owned();
    version_3.resources.vcpus = 3;
    version_3.snapshot.max_snapshots = 2;
    version_3.snapshot.snapshots.push(desc(2, SnapshotType::AppUpdate));
    node.bench.publish(version_3);
    let on_the_bus = |node: &Node| {
        (
            node.bench.rows::<VolumesSnapshotConfig>(),
            node.bench.rows::<SnapshotPreflightConfig>(),
            node.bench.row::<DomainConfig>(&app_id()),
        )
    };
    let before = on_the_bus(&node);
    assert_eq!((before.0.len(), before.1.len()), (1, 1), "one is kept, one is asked about");

    let mut other = config("1");
    other.id_and_version.id = AppId(uuid::Uuid::from_u128(0xb0));
    other.volumes = vec![volume_ref(3, 0)];
    other.snapshot.rollback.counter = 3;
    node.bench.publish(other.clone());
    let state = node.bench.row::<AppInstanceState>(&other.app()).expect("known");
    assert_eq!((state.rollback_counter, state.last_failure), (3, None), "A4: the first one orders nothing");
    node.volumes_are_there();
    node.domain_of(other.app());
    assert_eq!(on_the_bus(&node), before);
    assert_eq!(node.bench.rows::<VolumeRefConfig>().len(), 3);
    node.bench.unpublish::<AppInstanceConfig>(&other.app());
    node.domain_of(other.app());
    assert!(node.bench.row::<AppInstanceState>(&other.app()).is_none(), "gone");
    assert_eq!(on_the_bus(&node), before);
    assert_eq!(node.bench.rows::<VolumeRefConfig>().len(), 2);
}

/// [003] D3: the files of a snapshot go when storage has let go of it, and not before.
#[test]
fn a_deleted_snapshot_keeps_its_directory_until_storage_says_that_it_is_gone() {
    let mut node = Node::upgraded();
    let mut without = version_2();
    without.snapshot.snapshots.clear();
    without.activate = false;
    node.bench.publish(without);
    node.domain_obeys();
    node.domain_obeys();
    let order = node.bench.rows::<VolumesSnapshotConfig>().pop().expect("asked for");
    assert_eq!(order.action, SnapshotAction::Delete);
    assert!(node.has_directory(1));
    node.bench.unpublish::<VolumesSnapshotStatus>(&snapshot_id(1));
    assert!(!node.has_directory(1));
    node.bench.settle();
    assert!(node.bench.rows::<VolumesSnapshotConfig>().is_empty(), "withdrawn");
}

/// Its records could not be read, so storage did not know whose it was, and nobody heard that it was gone: the deletion ran for
/// ever. The World's seed 10959.
#[test]
fn who_has_a_snapshot_hears_that_it_is_gone_where_storage_does_not_know_whose_it_was() {
    let mut node = Node::upgraded();
    let known = node.bench.row::<VolumesSnapshotStatus>(&snapshot_id(1)).expect("cut");
    let error = Some(ErrorReport::new("its record cannot be read", time(1)));
    let result_of = SnapshotAction::Unspecified;
    let app = AppId(uuid::Uuid::nil());
    node.bench.publish(VolumesSnapshotStatus { app, result_of, error, ..known });
    let mut without = version_2();
    without.snapshot.snapshots.clear();
    without.activate = false;
    node.bench.publish(without);
    node.domain_obeys();
    node.domain_obeys();
    assert!(node.bench.row::<AppInstanceState>(&app_id()).expect("there").operation.is_some());
    node.bench.unpublish::<VolumesSnapshotStatus>(&snapshot_id(1));
    let row = node.bench.row::<AppInstanceState>(&app_id()).expect("there");
    assert!(row.operation.is_none() && row.snapshots.is_empty(), "{row:?}");
    assert!(!node.has_directory(1));
}

/// What is left of a snapshot that was never finished goes once volumemgr has told all it has.
#[test]
fn remains_without_a_row_go_when_storage_is_known() {
    let mut node = Node::unstarted();
    let remains = layout().snapshot_dir(&snapshot_id(1));
    node.disk.create_dir(&remains, 0o700).expect("made");
    node.disk.sync_dir(&layout().snapshots_dir()).expect("durable");
    node.bench.start();
    node.bench.run_jobs();
    node.bench.publish(config("1"));
    node.volumes_are_there();
    assert!(node.has_directory(1), "volumemgr may have it");
    node.bench.signal_restarted::<VolumesSnapshotStatus>();
    assert!(!node.has_directory(1));
}

/// Storage could not be looked at when the node started, and meanwhile the application was deleted: when it is known in the
/// end, there is nobody whose event would sweep. The World's seed 15105.
#[test]
fn remains_go_when_storage_is_known_also_where_no_application_is_left() {
    for is_told_first in [false, true] {
        let mut node = Node::unstarted();
        node.disk.create_dir(&layout().snapshot_dir(&snapshot_id(1)), 0o700).expect("made");
        node.disk.sync_dir(&layout().snapshots_dir()).expect("durable");
        node.bench.start();
        if is_told_first {
            node.bench.signal_restarted::<VolumesSnapshotStatus>();
            node.bench.settle();
        }
        assert!(node.has_directory(1), "nobody has looked yet");
        node.bench.run_jobs();
        if !is_told_first {
            assert!(node.has_directory(1), "volumemgr may have it");
            node.bench.signal_restarted::<VolumesSnapshotStatus>();
            node.bench.settle();
        }
        assert!(!node.has_directory(1), "told before the inventory: {is_told_first}");
    }
}

/// [003] G8: a start after a boot waits for the delay; a guest that runs already is left alone.
#[test]
fn the_start_delay_counts_for_a_guest_that_is_down() {
    let mut delayed = config("1");
    delayed.start_delay_seconds = 30;
    let mut node = Node::unstarted();
    node.begin(&delayed);
    assert!(!node.wants_guest());
    assert_eq!(node.status().state, SwState::StartDelayed);
    node.bench.advance(Duration::from_secs(29));
    assert!(!node.wants_guest());
    node.bench.advance(Duration::from_secs(1));
    assert!(node.wants_guest());

    let Node { bench, disk } = node;
    let (zedmanager, env) = agent(&disk);
    let mut node = Node { bench: bench.cut_power(zedmanager, env), disk };
    node.begin_until_domains(&delayed);
    node.bench.publish(domain_status(app_id(), 7, DomainState::Running));
    node.bench.signal_restarted::<DomainStatus>();
    let order = node.bench.row::<DomainConfig>(&app_id()).expect("wanted at once");
    assert!(order.activate);
    assert!(order.number > 7, "an answer from before is none to this order");
}

/// [003] A4, G9: numbers of a lost row never come again, and its rollback counter does not act again.
#[test]
fn an_application_whose_row_was_lost_begins_beyond_all_numbers_it_had() {
    for node in [Node::installed(), Node::upgraded()] {
        let row = layout().row_file("zedmanager", AppInstanceState::NAME, &app_id());
        node.disk.write_at(&row, 0, b"#").expect("damaged");
        node.disk.sync_file(&row).expect("durable");
        let mut received = version_2();
        received.snapshot.rollback.counter = 4;
        let node = node.cut_power(&received);
        let state = node.bench.row::<AppInstanceState>(&app_id()).expect("made anew");
        assert!((1_000_000..1_000_100).contains(&state.last_operation.0), "{}", state.last_operation);
        assert_eq!(state.rollback_counter, 4);
        let errors = node.status().errors;
        assert!(errors.iter().any(|error| error.summary.contains("quarantine")), "{errors:?}");
    }
}
