//! The agent on a bench: what it leaves on the bus and on disk, and that it goes on after the power was cut.

use std::sync::Arc;

use holdfast_persist::layout::PersistLayout;
use holdfast_persist::mem_disk::MemDisk;
use holdfast_types::*;

use super::testing::*;
use super::{Env, Zedmanager};
use crate::runtime::ManualClock;
use crate::runtime::bench::Bench;

struct Node {
    bench: Bench<Zedmanager>,
    disk: MemDisk,
}

fn layout() -> PersistLayout {
    PersistLayout::new("/persist")
}

fn agent(disk: &MemDisk) -> (Zedmanager, Env) {
    (Zedmanager::new(layout()), Env { disk: Arc::new(disk.clone()), layout: layout() })
}

impl Node {
    /// Version 1 installed on created volumes; domainmgr and volumemgr have nothing else to tell.
    fn installed() -> Node {
        let disk = MemDisk::new();
        layout().prepare(&disk).expect("an empty disk");
        let (zedmanager, env) = agent(&disk);
        let bench = Bench::on(disk.clone(), ManualClock::new(time(0)), zedmanager, env);
        let mut node = Node { bench, disk };
        node.begin(&config("1"));
        node
    }

    fn begin(&mut self, config: &AppInstanceConfig) {
        self.bench.start();
        self.bench.settle();
        self.bench.run_jobs();
        self.bench.publish(config.clone());
        self.bench.signal_restarted::<AppInstanceConfig>();
        self.volumes_are_there();
        // volumemgr tells of every snapshot it has a record of before it says that this is all.
        self.storage_does_as_asked();
        self.bench.signal_restarted::<VolumesSnapshotStatus>();
        self.bench.signal_restarted::<DomainStatus>();
        self.bench.settle();
    }

    fn volumes_are_there(&mut self) {
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
    fn domain_obeys(&mut self) {
        let order = self.bench.row::<DomainConfig>(&app_id()).expect("a domain is wanted");
        let state = if order.activate { DomainState::Running } else { DomainState::Halted };
        self.bench.publish(DomainStatus {
            app: app_id(),
            number: order.number,
            state,
            process_id: order.activate.then_some(4711),
            boot_time: None,
            accelerator: "tcg".to_owned(),
            console_log: String::new(),
            crash_count: 0,
            error: None,
        });
        self.bench.settle();
    }

    fn preflight_passes(&mut self) {
        for question in self.bench.rows::<SnapshotPreflightConfig>() {
            self.bench.publish(SnapshotPreflightStatus {
                snapshot: question.snapshot,
                app: question.app,
                operation: question.operation,
                refusal: None,
            });
        }
        self.bench.settle();
    }

    fn storage_does_as_asked(&mut self) {
        for order in self.bench.rows::<VolumesSnapshotConfig>() {
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

    fn status(&self) -> AppInstanceStatus {
        self.bench.row::<AppInstanceStatus>(&app_id()).expect("reported")
    }

    fn cut_power(self, config: &AppInstanceConfig) -> Node {
        let Node { bench, disk } = self;
        let (zedmanager, env) = agent(&disk);
        let mut node = Node { bench: bench.cut_power(zedmanager, env), disk };
        node.begin(config);
        node
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
