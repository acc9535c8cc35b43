//! Jobs and commits in the simulation's and the tests' hand: started when the runtime says, run when told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use super::commit::{CommitExecutor, CommitRun};
use super::jobs::{JobExecutor, JobInfo, JobRun};

/// Keeps started jobs until it is told to run one: for the simulation and for tests.
#[derive(Debug, Default)]
pub struct StepExecutor {
    started: Mutex<VecDeque<JobRun>>,
}

impl StepExecutor {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Started jobs that wait to be run, oldest first.
    pub fn started(&self) -> Vec<JobInfo> {
        self.lock().iter().map(|run| run.info().clone()).collect()
    }

    /// How many started jobs wait to be run.
    pub fn started_count(&self) -> usize {
        self.lock().len()
    }

    /// Takes a started job out, to run it or to end it with an event of one's own.
    pub fn take(&self, number: usize) -> Option<JobRun> {
        self.lock().remove(number)
    }

    pub fn take_where(&self, wanted: impl Fn(&JobRun) -> bool) -> Option<JobRun> {
        let mut started = self.lock();
        let number = started.iter().position(wanted)?;
        started.remove(number)
    }

    /// Calls `look` with each started job, oldest first.
    pub fn look(&self, mut look: impl FnMut(&JobRun)) {
        self.lock().iter().for_each(&mut look);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<JobRun>> {
        self.started.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl JobExecutor for StepExecutor {
    fn execute(&self, run: JobRun) {
        self.lock().push_back(run);
    }
}

/// Keeps commits until it is told to make one step durable: for the simulation and for tests.
#[derive(Debug, Default)]
pub struct StepCommits {
    under_way: Mutex<VecDeque<CommitRun>>,
}

impl StepCommits {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// How many agents' commits are under way.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// One more step of this run becomes durable; false if there is no such run.
    pub fn step(&self, number: usize) -> bool {
        let Some(mut run) = self.lock().remove(number) else { return false };
        // Unlocked: the disk's faults and cuts are met in there.
        if run.step() {
            let mut under_way = self.lock();
            let place = number.min(under_way.len());
            under_way.insert(place, run);
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<CommitRun>> {
        self.under_way.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl CommitExecutor for StepCommits {
    fn execute(&self, run: CommitRun) {
        self.lock().push_back(run);
    }
}
