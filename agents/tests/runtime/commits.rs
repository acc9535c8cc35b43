//! Commits that are made beside the agent's steps, in the test's hand: what is handled, what is shown, what a cut leaves.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agents::runtime::*;
use holdfast_persist::{MemDisk, PersistLayout};
use holdfast_pubsub::Publication;

use crate::toy::*;

struct Rig {
    services: Services,
    disk: MemDisk,
    clock: ManualClock,
    executor: Arc<StepExecutor>,
    commits: Arc<StepCommits>,
    driver: Box<dyn Driver>,
    orders: Publication<Order>,
    heard: Heard,
    given: u32,
}

impl Rig {
    fn on(disk: MemDisk) -> Self {
        let layout = PersistLayout::new("/persist");
        layout.prepare(&disk).unwrap();
        let (clock, executor, commits) = (ManualClock::default(), StepExecutor::new(), StepCommits::new());
        let services = Services::open(Outside {
            disk: Arc::new(disk.clone()),
            layout,
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SeededEntropy::new(1)),
            executor: executor.clone(),
            limits: JobLimits::default(),
            commits: Commits::Beside(commits.clone()),
            reserve_size_bytes: 0,
            read_only: None,
        })
        .unwrap();
        let heard = Heard::default();
        let builder = NodeBuilder::new(&services).agent(Toy::heard_by(&heard), just_end());
        let mut driver = builder.drivers().unwrap().remove(0);
        let orders = services.bus.publication::<Order>("test").unwrap();
        driver.start().unwrap();
        let mut rig = Rig { services, disk, clock, executor, commits, driver, orders, heard, given: 0 };
        rig.handle_all().unwrap();
        rig
    }

    fn order(&mut self, actions: Vec<Action>) {
        self.given += 1;
        self.orders.publish(Order { number: self.given, actions }).unwrap();
    }

    fn handle_all(&mut self) -> Result<(), Fatal> {
        while self.driver.step()? == Step::Handled {}
        Ok(())
    }

    /// One more step becomes durable, and the agent hears of it.
    fn commit_one(&mut self) -> Result<(), Fatal> {
        assert!(self.commits.step(0), "something is being committed");
        self.handle_all()
    }

    /// The notes that others see.
    fn shown(&self) -> Vec<(String, u32)> {
        self.services.bus.rows::<Note>().iter().map(|note| (note.name.clone(), note.value)).collect()
    }

    /// What a node knows that starts on what a cut now leaves.
    fn after_a_cut(&self) -> Vec<String> {
        let disk = self.disk.fork();
        disk.crash();
        Rig::on(disk).heard.take()
    }
}

#[test]
fn events_are_handled_while_a_step_is_being_committed_and_nothing_overtakes_it() {
    let mut rig = Rig::on(MemDisk::new());
    rig.order(vec![note("a", 1), Action::Job(work("copy", "db"))]);
    let timer = Action::Timer { key: "t".into(), after_ms: 5, says: "ring".into() };
    rig.order(vec![Action::Light(true), timer]);
    rig.order(vec![note("a", 2), note("b", 1)]);
    rig.handle_all().unwrap();
    assert_eq!((rig.shown(), rig.services.bus.rows::<Light>().len()), (vec![], 0));
    assert_eq!(rig.executor.started_count(), 0, "no job before its step is durable");
    rig.clock.advance(Duration::from_millis(5));
    rig.handle_all().unwrap();
    assert_eq!(rig.heard.take(), ["ring at 5 ms"], "time passes for it all the same");

    rig.commit_one().unwrap();
    assert_eq!(rig.shown(), [("a".to_owned(), 1)]);
    assert_eq!(rig.services.bus.rows::<Light>().len(), 1, "what waited behind it is shown with it");
    assert_eq!(rig.executor.started_count(), 1);
    rig.commit_one().unwrap();
    assert_eq!(rig.shown(), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
    assert_eq!(rig.commits.count(), 0);
}

#[test]
fn a_cut_leaves_the_steps_up_to_some_step() {
    let mut rig = Rig::on(MemDisk::new());
    for value in 1..=3 {
        rig.order(vec![note("a", value)]);
    }
    rig.handle_all().unwrap();
    assert_eq!(rig.after_a_cut(), [""; 0]);
    for value in 1..=3 {
        rig.commit_one().unwrap();
        assert_eq!(rig.after_a_cut(), [format!("knew a = {value}")]);
        assert_eq!(rig.shown(), [("a".to_owned(), value)]);
        assert_eq!(rig.driver.pulse().has_committed(), value == 3);
    }
}

#[test]
fn a_commit_that_takes_long_counts_as_no_answer() {
    let mut rig = Rig::on(MemDisk::new());
    let pulse = rig.driver.pulse();
    rig.order(vec![note("a", 1)]);
    rig.handle_all().unwrap();
    assert!(pulse.has_answered() && !pulse.has_committed());
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(pulse.waiting_for_answer(rig.clock.elapsed()), Duration::from_secs(30));
    rig.handle_all().unwrap();
    assert!(pulse.has_answered(), "the agent itself answers");
    rig.order(vec![note("a", 2)]);
    rig.handle_all().unwrap();
    rig.commit_one().unwrap();
    assert!(!pulse.has_committed(), "the second one is on its way");
    assert_eq!(pulse.waiting_for_answer(rig.clock.elapsed()), Duration::ZERO, "and has just begun");
    rig.commit_one().unwrap();
    assert!(pulse.has_committed());
    assert!(pulse.is_synced());
}

#[test]
fn what_cannot_be_made_durable_is_the_end_and_nothing_after_it_is_shown() {
    let mut rig = Rig::on(MemDisk::new());
    rig.order(vec![note("a", 1)]);
    rig.order(vec![Action::Light(true)]);
    rig.order(vec![note("b", 1)]);
    rig.handle_all().unwrap();
    rig.disk.cut_power_at(1);
    let fatal = rig.commit_one().unwrap_err();
    assert_eq!(fatal.to_string(), "toy cannot make the row a of Note durable");
    assert_eq!((rig.shown(), rig.services.bus.rows::<Light>().len()), (vec![], 0));
    assert_eq!(rig.commits.count(), 0, "what came after it is not tried");
}
