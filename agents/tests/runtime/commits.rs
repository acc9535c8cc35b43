//! Commits that are made beside the agent's steps, in the test's hand: what is handled, what is shown, what a cut leaves.

use std::sync::Arc;
use std::time::Duration;

use holdfast_agents::runtime::*;
use holdfast_persist::MemDisk;

use crate::toy::*;

struct Rig {
    bench: Bench<Toy>,
    commits: Arc<StepCommits>,
    heard: Heard,
}

impl Rig {
    fn on(disk: MemDisk) -> Self {
        let (commits, heard) = (StepCommits::new(), Heard::default());
        let mut bench = Bench::committing(disk, &commits, Toy::heard_by(&heard), just_end());
        bench.start();
        Rig { bench, commits, heard }
    }

    fn order(&mut self, actions: Vec<Action>) {
        let number = self.bench.bus().rows::<Order>().len() as u32;
        self.bench.publish_only(Order { number, actions });
    }

    /// One more step becomes durable, and the agent hears of it.
    fn commit_one(&mut self) -> Result<(), Fatal> {
        assert!(self.commits.step(0), "something is being committed");
        self.bench.try_settle()
    }

    /// The notes that others see.
    fn shown(&self) -> Vec<(String, u32)> {
        self.bench.bus().rows::<Note>().iter().map(|note| (note.name.clone(), note.value)).collect()
    }

    /// What a node knows that starts on what a cut now leaves.
    fn after_a_cut(&self) -> Vec<String> {
        let disk = self.bench.disk.fork();
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
    rig.bench.settle();
    assert_eq!((rig.shown(), rig.bench.bus().rows::<Light>().len()), (vec![], 0));
    assert_eq!(rig.bench.executor.started_count(), 0, "no job before its step is durable");
    rig.bench.clock.advance(Duration::from_millis(5));
    rig.bench.settle();
    assert_eq!(rig.heard.take(), ["ring at 5 ms"], "time passes for it all the same");

    rig.commit_one().unwrap();
    assert_eq!(rig.shown(), [("a".to_owned(), 1)]);
    assert_eq!(rig.bench.bus().rows::<Light>().len(), 1, "what waited behind it is shown with it");
    assert_eq!(rig.bench.executor.started_count(), 1);
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
    rig.bench.settle();
    assert_eq!(rig.after_a_cut(), [""; 0]);
    for value in 1..=3 {
        rig.commit_one().unwrap();
        assert_eq!(rig.after_a_cut(), [format!("knew a = {value}")]);
        assert_eq!(rig.shown(), [("a".to_owned(), value)]);
        assert_eq!(rig.bench.cell.pulse().has_committed(), value == 3);
    }
}

#[test]
fn a_commit_that_takes_long_counts_as_no_answer() {
    let mut rig = Rig::on(MemDisk::new());
    let pulse = rig.bench.cell.pulse();
    rig.order(vec![note("a", 1)]);
    rig.bench.settle();
    assert!(pulse.has_answered() && !pulse.has_committed());
    rig.bench.clock.advance(Duration::from_secs(30));
    assert_eq!(pulse.waiting_for_answer(rig.bench.clock.elapsed()), Duration::from_secs(30));
    rig.bench.settle();
    assert!(pulse.has_answered(), "the agent itself answers");
    rig.order(vec![note("a", 2)]);
    rig.bench.settle();
    rig.commit_one().unwrap();
    assert!(!pulse.has_committed(), "the second one is on its way");
    assert_eq!(pulse.waiting_for_answer(rig.bench.clock.elapsed()), Duration::ZERO, "and has just begun");
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
    rig.bench.settle();
    rig.bench.disk.cut_power_at(1);
    let fatal = rig.commit_one().unwrap_err();
    assert_eq!(fatal.to_string(), "toy cannot make the row a of Note durable");
    assert_eq!((rig.shown(), rig.bench.bus().rows::<Light>().len()), (vec![], 0));
    assert_eq!(rig.commits.count(), 0, "what came after it is not tried");
}
