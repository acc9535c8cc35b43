//! The agent on a bench, over the simulated hypervisor.

use std::sync::Arc;
use std::time::Duration;

use holdfast_persist::{Disk, MemDisk};
use holdfast_types::*;
use uuid::Uuid;

use super::simulated_vmm::{Habits, SimulatedVmm};
use super::vmm::{DomainExit, Vmm};
use super::{Domainmgr, Env, Settings};
use crate::runtime::{Bench, ManualClock};
use holdfast_persist::PersistLayout;

const APP: AppId = AppId(Uuid::from_u128(0xa0));

struct Node {
    bench: Bench<Domainmgr>,
    vmm: SimulatedVmm,
    disk: MemDisk,
}

fn agent(vmm: &SimulatedVmm, disk: &MemDisk) -> (Domainmgr, Env) {
    let layout = PersistLayout::new("/persist");
    let settings = Settings { shutdown_patience: Duration::from_millis(20), ..Settings::default() };
    let env = Env { vmm: Arc::new(vmm.clone()), disk: Arc::new(disk.clone()), layout: layout.clone() };
    (Domainmgr::new(settings, layout), env)
}

fn wanted(number: u64, activate: bool) -> DomainConfig {
    DomainConfig {
        app: APP,
        display_name: "db".to_owned(),
        number,
        activate,
        resources: VmConfig { memory_kib: 65_536, vcpus: 1, ..VmConfig::default() },
        disks: Vec::new(),
    }
}

impl Node {
    fn begin() -> Node {
        let (vmm, disk) = (SimulatedVmm::new(), MemDisk::new());
        let (domainmgr, env) = agent(&vmm, &disk);
        let bench = Bench::on(disk.clone(), ManualClock::default(), domainmgr, env);
        let mut node = Node { bench, vmm, disk };
        node.bench.start();
        node.work();
        node
    }

    /// The service is restarted: another agent over the same hypervisor.
    fn restart(self) -> Node {
        let Node { vmm, disk, bench } = self;
        let (domainmgr, env) = agent(&vmm, &disk);
        let mut node = Node { bench: bench.cut_power(domainmgr, env), vmm, disk };
        node.bench.start();
        node.work();
        node
    }

    fn work(&mut self) {
        for _ in 0..6 {
            self.bench.settle();
            self.bench.run_jobs();
        }
        self.bench.settle();
    }

    fn order(&mut self, config: DomainConfig) {
        self.bench.publish(config);
        self.work();
    }

    fn pass(&mut self, seconds: u64) {
        self.bench.advance(Duration::from_secs(seconds));
        self.work();
    }

    fn status(&self) -> DomainStatus {
        self.bench.row::<DomainStatus>(&APP).expect("reported")
    }

    fn expect(&self, number: u64, state: DomainState) {
        let status = self.status();
        assert_eq!((status.number, status.state), (number, state), "{status:#?}");
    }
}

#[test]
fn a_domain_is_started_stopped_and_forgotten() {
    let mut node = Node::begin();
    node.order(wanted(1, false));
    node.expect(1, DomainState::NeverStarted);
    node.order(wanted(2, true));
    node.expect(2, DomainState::Running);
    assert!(node.status().process_id.is_some());
    node.order(wanted(3, false));
    node.expect(3, DomainState::Halted);
    assert!(node.vmm.running(APP.0).is_none());
    // Withdrawn, so nobody's: also while another application keeps zedmanager from having told all it wants.
    node.bench.unpublish::<DomainConfig>(&APP);
    node.work();
    assert!(node.bench.row::<DomainStatus>(&APP).is_none());
}

/// [003] G8 (!): taken over as it runs.
#[test]
fn a_restart_of_the_service_takes_running_domains_over() {
    let mut node = Node::begin();
    node.order(wanted(5, true));
    let pid = node.status().process_id;
    let mut node = node.restart();
    node.expect(0, DomainState::Running);
    node.order(wanted(1, true));
    node.expect(1, DomainState::Running);
    assert_eq!(node.status().process_id, pid);
    assert_eq!(node.vmm.starts(APP.0), 1);
}

/// Nobody's: stopped only once zedmanager has said all it wants.
#[test]
fn a_running_domain_without_a_config_is_stopped_when_the_wishes_are_known() {
    let mut node = Node::begin();
    node.order(wanted(1, true));
    let mut node = node.restart();
    node.bench.unpublish::<DomainConfig>(&APP);
    node.work();
    assert!(node.vmm.running(APP.0).is_some());
    node.bench.signal_restarted::<DomainConfig>();
    node.work();
    assert!(node.vmm.running(APP.0).is_none());
}

/// [003] B2: by force after a deadline, and said so.
#[test]
fn a_guest_that_ignores_the_power_button_is_killed() {
    let mut node = Node::begin();
    node.vmm.set_habits(APP.0, Habits { ignores_power_button: true, ..Habits::default() });
    node.order(wanted(1, true));
    node.order(wanted(2, false));
    node.expect(2, DomainState::Halted);
    let notice = node.status().error.expect("said so");
    assert!(notice.summary.contains("did not shut down"), "{notice}");
}

#[test]
fn a_crash_is_noticed_and_the_guest_started_again_with_growing_delay() {
    let mut node = Node::begin();
    node.order(wanted(1, true));
    for delay in [1, 2, 4] {
        node.vmm.end(APP.0, DomainExit::Killed);
        node.work();
        node.expect(1, DomainState::Crashed);
        let starts = node.vmm.starts(APP.0);
        node.bench.advance(Duration::from_millis(delay * 1000 - 100));
        node.work();
        assert_eq!(node.vmm.starts(APP.0), starts, "not before {delay} s");
        node.pass(1);
        node.expect(1, DomainState::Running);
    }
    assert_eq!(node.status().crash_count, 3);
}

/// A crash while a stop is ordered is no reason to start again, and the order is answered.
#[test]
fn a_domain_that_rests_after_a_crash_is_down_once_it_is_told_to() {
    let mut node = Node::begin();
    node.order(wanted(1, true));
    node.vmm.end(APP.0, DomainExit::Killed);
    node.work();
    node.order(wanted(2, false));
    node.expect(2, DomainState::Crashed);
    assert_eq!(node.status().error, None, "nothing is started again any more, so nothing says so");
    node.pass(600);
    assert_eq!(node.vmm.starts(APP.0), 1);
}

#[test]
fn a_qemu_that_dies_at_start_is_reported_and_tried_again() {
    let mut node = Node::begin();
    let dies = Some("could not open disk image".to_owned());
    node.vmm.set_habits(APP.0, Habits { dies_at_start: dies, ..Habits::default() });
    node.order(wanted(1, true));
    node.expect(1, DomainState::Failed);
    assert!(node.status().error.expect("why").summary.contains("could not open disk image"));
    node.vmm.set_habits(APP.0, Habits::default());
    node.pass(2);
    node.expect(1, DomainState::Running);
    assert_eq!(node.status().error, None);
}

/// A number that changes under a running domain is only answered: zedmanager brings it down before it changes it.
#[test]
fn a_new_number_alone_does_not_touch_the_guest() {
    let mut node = Node::begin();
    node.order(wanted(1, true));
    node.order(wanted(2, true));
    node.expect(2, DomainState::Running);
    assert_eq!(node.vmm.starts(APP.0), 1);
}

/// [003] B2: a failed start is no proof that nothing is left of it; called down, its disks would be touched.
#[test]
fn a_process_left_by_a_failed_start_is_never_called_down() {
    let mut node = Node::begin();
    let dies = Some("it hangs in a device".to_owned());
    let habits = Habits { dies_at_start: dies, outlives_failed_start: true, ..Habits::default() };
    node.vmm.set_habits(APP.0, habits);
    node.order(wanted(1, true));
    assert!(node.vmm.running(APP.0).is_some());
    node.expect(1, DomainState::Running);
    node.order(wanted(2, false));
    node.expect(2, DomainState::Halted);
    assert!(node.vmm.running(APP.0).is_none());
}

/// Unwatched, its end would go unnoticed, and the guest stay down while the status says that it runs.
#[test]
fn a_watch_that_cannot_be_set_is_tried_again() {
    let mut node = Node::begin();
    node.vmm.set_habits(APP.0, Habits { refused_watches: 2, ..Habits::default() });
    node.order(wanted(1, true));
    node.pass(5);
    node.pass(5);
    node.vmm.end(APP.0, DomainExit::Killed);
    node.work();
    node.expect(1, DomainState::Crashed);

    // Also when it ended while nobody watched.
    node.pass(1);
    node.vmm.set_habits(APP.0, Habits { refused_watches: 1, ..Habits::default() });
    node.vmm.end(APP.0, DomainExit::Killed);
    node.work();
    node.pass(2);
    node.expect(1, DomainState::Running);
    node.vmm.end(APP.0, DomainExit::Stopped);
    node.pass(5);
    node.expect(1, DomainState::Halted);
}

/// The power was cut in the middle of forgetting: the directory is found at the next start, and goes.
#[test]
fn a_directory_that_nothing_else_is_left_of_goes_when_the_wishes_are_known() {
    let mut node = Node::begin();
    node.order(wanted(1, true));
    let directory = PersistLayout::new("/persist").domain_dir(&APP);
    assert!(node.disk.metadata(&directory).expect("looks").is_some());
    node.vmm.end(APP.0, DomainExit::Killed);
    node.vmm.forget(APP.0).expect("it ended");
    let mut node = node.restart();
    node.bench.unpublish::<DomainConfig>(&APP);
    node.bench.signal_restarted::<DomainConfig>();
    node.work();
    assert!(node.disk.metadata(&directory).expect("looks").is_none());
    assert!(node.bench.row::<DomainStatus>(&APP).is_none());
}

/// [003] G9: traces that cannot be read hold up their own guest only, and that one is never taken for down.
#[test]
fn traces_that_cannot_be_read_hold_up_their_own_guest_only() {
    let other = AppId(Uuid::from_u128(0xa1));
    let mut node = Node::begin();
    node.order(wanted(1, true));
    node.vmm.set_habits(APP.0, Habits { refused_looks: 3, ..Habits::default() });
    let mut node = node.restart();
    node.order(wanted(1, false));
    node.order(DomainConfig { app: other, ..wanted(1, true) });
    node.expect(1, DomainState::Unknown);
    let error = node.status().error.expect("says why");
    assert!(error.summary.contains("cannot be found out"), "{error}");
    assert_eq!(node.bench.row::<DomainStatus>(&other).map(|it| it.state), Some(DomainState::Running));
    node.pass(5);
    node.expect(1, DomainState::Unknown);
    assert_eq!(node.status().error, Some(error), "the same error keeps its time");
    assert!(node.vmm.running(APP.0).is_some(), "not stopped before it is known");
    node.pass(5);
    node.pass(5);
    node.expect(1, DomainState::Halted);
    assert_eq!(node.status().error, None);
}
