//! What an agent's steps have left and what has not taken effect yet, in a line.
//!
//! ```text
//!   push ─▶ [ToCommit | Durable] ─▶ … ─▶ first: Durable ── next() ──▶ Next::Out
//!                 │ give_away          ▲
//!                 └──▶ Committing ─────┘ first_is_durable()
//! ```
//!
//! Nothing overtakes anything: what takes effect is always a prefix of what was handled, and a step with nothing to be
//! made durable waits behind those before it, whose outcome it may be about.

use std::collections::VecDeque;

use super::context::{Durable, JobOrder};

pub(super) struct Line<J> {
    places: VecDeque<Place<J>>,
}

struct Place<J> {
    stage: Stage,
    outgoing: Outgoing<J>,
}

enum Stage {
    ToCommit(Vec<Durable>),
    Committing,
    Durable,
}

/// What happens when all before it has.
pub(super) enum Outgoing<J> {
    Step {
        /// Which owned topic shows its next staged change, in order.
        visible: Vec<usize>,
        jobs: Vec<JobOrder<J>>,
    },
    /// Everything is handled that existed when the agent started.
    Synced,
}

/// What to do with the line now.
pub(super) enum Next<J> {
    /// It is empty, or its first place is being committed.
    Nothing,
    Out(Outgoing<J>),
    /// The first place waits to be given away.
    ToCommit,
}

impl<J> Default for Line<J> {
    fn default() -> Self {
        Line { places: VecDeque::new() }
    }
}

impl<J> Line<J> {
    pub fn push(&mut self, durable: Vec<Durable>, outgoing: Outgoing<J>) {
        let stage = if durable.is_empty() { Stage::Durable } else { Stage::ToCommit(durable) };
        self.places.push_back(Place { stage, outgoing });
    }

    pub fn next(&mut self) -> Next<J> {
        match self.places.front().map(|place| &place.stage) {
            None | Some(Stage::Committing) => Next::Nothing,
            Some(Stage::ToCommit(_)) => Next::ToCommit,
            Some(Stage::Durable) => {
                self.places.pop_front().map_or(Next::Nothing, |place| Next::Out(place.outgoing))
            }
        }
    }

    pub fn is_committing(&self) -> bool {
        matches!(self.places.front(), Some(Place { stage: Stage::Committing, .. }))
    }

    /// The changes of the first place, to be made durable.
    pub fn give_away_first(&mut self) -> Vec<Durable> {
        self.places.front_mut().and_then(|place| place.stage.give_away()).unwrap_or_default()
    }

    /// The changes of all places that have any, in order.
    pub fn give_away_all(&mut self) -> VecDeque<Vec<Durable>> {
        self.places.iter_mut().filter_map(|place| place.stage.give_away()).collect()
    }

    /// The oldest of those given away is durable.
    pub fn first_is_durable(&mut self) {
        if let Some(place) = self.places.front_mut() {
            place.stage = Stage::Durable;
        }
    }
}

impl Stage {
    fn give_away(&mut self) -> Option<Vec<Durable>> {
        let Stage::ToCommit(durable) = self else { return None };
        let durable = std::mem::take(durable);
        *self = Stage::Committing;
        Some(durable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn write() -> Vec<Durable> {
        vec![Durable::RemoveFile(PathBuf::from("x"))]
    }

    fn step(number: usize) -> Outgoing<()> {
        Outgoing::Step { visible: vec![number], jobs: Vec::new() }
    }

    /// What comes out now, and whether something then waits to be given away.
    fn out(line: &mut Line<()>) -> (Vec<usize>, bool) {
        let mut shown = Vec::new();
        loop {
            match line.next() {
                Next::Out(Outgoing::Step { visible, .. }) => shown.extend(visible),
                Next::Out(Outgoing::Synced) => shown.push(99),
                Next::Nothing => return (shown, false),
                Next::ToCommit => return (shown, true),
            }
        }
    }

    #[test]
    fn nothing_overtakes_what_is_being_committed() {
        let mut line = Line::default();
        line.push(Vec::new(), step(1));
        line.push(write(), step(2));
        assert_eq!(out(&mut line), (vec![1], true));
        assert_eq!(line.give_away_all().len(), 1);
        line.push(Vec::new(), step(3));
        line.push(write(), step(4));
        line.push(Vec::new(), Outgoing::Synced);
        assert_eq!(out(&mut line), (vec![], false), "2 is being committed");
        line.first_is_durable();
        assert_eq!(out(&mut line), (vec![2, 3], true), "4 came too late for that run");
        assert_eq!(line.give_away_all().len(), 1);
        line.first_is_durable();
        assert_eq!(out(&mut line), (vec![4, 99], false));
    }

    #[test]
    fn steps_given_away_together_come_out_one_by_one() {
        let mut line = Line::default();
        (1..=3).for_each(|number| line.push(write(), step(number)));
        assert_eq!(line.give_away_all().len(), 3);
        assert!(line.is_committing());
        line.first_is_durable();
        assert_eq!(out(&mut line), (vec![1], false));
        assert!(line.is_committing(), "2 and 3 are still on their way");
    }
}
