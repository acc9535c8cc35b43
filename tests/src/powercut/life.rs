//! What an application's guests may find, and what its volumes and snapshots must hold: the host's model of one life.
//!
//! ```text
//!   settled ──order──▶ Before ──a guest starts as after the order──▶ After ──look──▶ settled
//!                       └─ starts as before it ─┘                     └─ starts again ─┘
//! ```
//!
//! Each start of a guest says its version and what stands on its disks, before it writes one new mark to each. A start is
//! as *before* the order (the old version on what stood there), or as *after* it (the version and content that the order
//! leaves), and never goes back from after to before: that is I1, I2 and I6 as a guest sees them. Marks differ, so that no
//! two states of an application are alike.
//!
//! If the power goes while marks are written, each volume has its mark or not; the next start settles which. A snapshot
//! holds what stood there when it was cut; guests write while an order is still to be acted on, so that is known only from what the
//! first guest after it finds.
//!
//! In: orders, starts, cuts. Out: marks, verdicts, and the [`Model`] to look with. No clock, no files.

use std::collections::BTreeSet;

use holdfast_agents::runtime::Entropy;

use super::lines::Found;
use crate::real_kills::content::{BLOCK_BYTES, Content, Write};
use crate::real_kills::model::Model;
use crate::real_kills::orders::Order;
use crate::real_kills::volume;

/// Marks go to the first block of one of so many places, far apart.
const PLACES: u64 = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Before,
    After,
}

#[derive(Debug, Clone)]
pub struct Life {
    /// What was there when the order was given, with what guests have written since.
    before: Model,
    /// What must be there once it is carried out, likewise.
    after: Model,
    order: Option<Order>,
    stage: Stage,
    /// What is on the disks if the marks that are being written got there.
    marked: Option<Vec<Content>>,
    is_writing: bool,
    /// A guest has written its marks since the power came.
    is_up: bool,
    /// Per volume, what was ever written where.
    used: Vec<BTreeSet<(u64, u8)>>,
}

impl Life {
    /// Deployed, or about to be: the first guest finds blank volumes.
    pub fn new(model: Model) -> Life {
        let used = vec![BTreeSet::new(); model.volume_bytes.len()];
        let (before, after) = (model.clone(), model);
        Life {
            before,
            after,
            order: None,
            stage: Stage::After,
            marked: None,
            is_writing: false,
            is_up: false,
            used,
        }
    }

    /// What must be there once the order is carried out. Certain when [`Life::is_done`].
    pub fn model(&self) -> &Model {
        &self.after
    }

    /// Settled; now this is ordered.
    pub fn give(&mut self, order: Order) {
        self.before = self.after.clone();
        self.after.give(order);
        self.order = Some(order);
        // A restart looks the same before and after.
        let shows = matches!(order, Order::SnapshotByUpdate(_) | Order::RollBack(_) | Order::DeleteApp);
        self.stage = if shows { Stage::Before } else { Stage::After };
    }

    /// The power went. True if it went in the middle of a guest's write.
    pub fn cut(&mut self) -> bool {
        self.is_up = false;
        std::mem::take(&mut self.is_writing)
    }

    /// The marks are durable.
    pub fn written(&mut self) {
        if let Some(marked) = self.marked.take() {
            self.current().live = marked;
        }
        (self.is_writing, self.is_up) = (false, true);
    }

    /// As far as guests tell, the order is carried out.
    pub fn is_done(&self) -> bool {
        self.after.is_deleted || self.stage == Stage::After && self.is_up && self.marked.is_none()
    }

    /// A guest of this version starts on these disks: what it is to write, or what is wrong.
    pub fn starts(
        &mut self,
        version: u32,
        found: &[Found],
        chance: &dyn Entropy,
    ) -> Result<Vec<Write>, String> {
        self.is_up = false;
        self.expect_disks(found)?;
        let as_before = if self.stage == Stage::Before && version == self.before.in_force {
            self.here(found)
        } else {
            None
        };
        match as_before {
            Some(live) => self.before.live = live,
            None => self.after.live = self.as_after(version, found)?,
        }
        self.marked = None;
        let (sizes, used) = (&self.before.volume_bytes, &mut self.used);
        let writes =
            sizes.iter().zip(used).map(|(size_bytes, used)| draw(*size_bytes, used, chance)).collect();
        self.marked = Some(marked(&self.current().live, &writes));
        self.is_writing = true;
        Ok(writes)
    }

    fn current(&mut self) -> &mut Model {
        match self.stage {
            Stage::Before => &mut self.before,
            Stage::After => &mut self.after,
        }
    }

    fn expect_disks(&self, found: &[Found]) -> Result<(), String> {
        let volumes = self.before.volume_bytes.len();
        let is_at = |(at, disk): (usize, &Found)| disk.path.contains(&volume(at + 1).to_string());
        if found.len() == volumes && found.iter().enumerate().all(is_at) {
            return Ok(());
        }
        Err(format!("I11: a guest of {volumes} volumes starts on {found:?}"))
    }

    /// As after the order, for the first time or again: what stands there then.
    fn as_after(&mut self, version: u32, found: &[Found]) -> Result<Vec<Content>, String> {
        let wrong = |what: &str| {
            Err(format!(
                "{what}: a guest of version {version}, order {:?} being {:?}; versions {} and {}; it finds {}",
                self.order,
                self.stage,
                self.before.in_force,
                self.after.in_force,
                self.told(found)
            ))
        };
        if self.after.is_deleted || version != self.after.in_force {
            return wrong("I2");
        }
        let live = match (self.stage, self.order) {
            // The rollback takes away what guests wrote before it was acted on.
            (Stage::Before, Some(Order::RollBack(_))) => all(found, &self.after.live, None),
            _ => self.here(found),
        };
        let Some(live) = live else { return wrong("I1") };
        if let (Stage::Before, Some(Order::SnapshotByUpdate(n))) = (self.stage, self.order)
            && let Some(cut) = self.after.cuts.get_mut(&n)
        {
            cut.contents = live.clone();
        }
        self.stage = Stage::After;
        Ok(live)
    }

    /// What was here when a guest last was, with or without marks that were being written when the power went.
    fn here(&self, found: &[Found]) -> Option<Vec<Content>> {
        let model = if self.stage == Stage::Before { &self.before } else { &self.after };
        all(found, &model.live, self.marked.as_deref())
    }

    /// What was found, in the model's words.
    fn told(&self, found: &[Found]) -> String {
        let one = |(at, found): (usize, &Found)| {
            let holds = |contents: &[Content]| contents.get(at).is_some_and(|it| it.digest() == found.digest);
            let cut = self.after.cuts.iter().find(|(_, cut)| holds(&cut.contents));
            match cut {
                Some((n, _)) => format!("what snapshot {n} holds"),
                None if holds(&self.before.live) => "what was there before".to_owned(),
                None if self.marked.as_deref().is_some_and(holds) => "the newest mark".to_owned(),
                None => "what never was".to_owned(),
            }
        };
        found.iter().enumerate().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// What was found on all volumes, if on each it is one of the two.
fn all(found: &[Found], one: &[Content], other: Option<&[Content]>) -> Option<Vec<Content>> {
    let which = |(at, found): (usize, &Found)| {
        let may = one.get(at).into_iter().chain(other.and_then(|other| other.get(at)));
        may.into_iter().find(|content| content.digest() == found.digest).cloned()
    };
    found.iter().enumerate().map(which).collect()
}

fn marked(live: &[Content], writes: &Vec<Write>) -> Vec<Content> {
    let one = |(content, write): (&Content, &Write)| {
        let mut content = content.clone();
        content.write(*write);
        content
    };
    live.iter().zip(writes).map(one).collect()
}

/// A mark that this volume never had.
fn draw(size_bytes: u64, used: &mut BTreeSet<(u64, u8)>, chance: &dyn Entropy) -> Write {
    let distance = size_bytes / BLOCK_BYTES / PLACES;
    loop {
        let first = chance.next_u64() % PLACES * distance;
        let fill = 1 + (chance.next_u64() % 255) as u8;
        if used.insert((first, fill)) {
            return Write { first, blocks: 1, fill };
        }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_agents::runtime::SeededEntropy;

    use super::*;

    /// An application of two volumes, what its disks hold, and its life.
    struct Story {
        life: Life,
        disks: Vec<Content>,
        chance: SeededEntropy,
    }

    impl Story {
        /// Deployed, settled, with a first mark.
        fn new() -> Story {
            let chance = SeededEntropy::new(7);
            let mut model = Model::draw(&chance);
            model.volume_bytes = vec![1 << 20, 3 << 20];
            model.live = vec![Content::default(); 2];
            let disks = model.live.clone();
            let mut story = Story { life: Life::new(model), disks, chance };
            story.start(1).unwrap();
            story
        }

        fn found(&self) -> Vec<Found> {
            let one = |(at, content): (usize, &Content)| Found {
                path: format!("/volumes/{}#1.qcow2", volume(at + 1)),
                digest: content.digest().to_owned(),
            };
            self.disks.iter().enumerate().map(one).collect()
        }

        /// A guest starts and writes everything.
        fn start(&mut self, version: u32) -> Result<(), String> {
            let writes = self.life.starts(version, &self.found(), &self.chance)?;
            self.disks = marked(&self.disks, &writes);
            self.life.written();
            Ok(())
        }

        /// A guest starts, and the power goes when it has written to the first volume only.
        fn start_and_cut(&mut self, version: u32) {
            let writes = self.life.starts(version, &self.found(), &self.chance).unwrap();
            self.disks[0].write(writes[0]);
            self.life.cut();
        }

        /// With a snapshot of version 1 and version 2 in force; what the snapshot holds.
        fn with_snapshot() -> (Story, Vec<Content>) {
            let mut story = Story::new();
            story.life.give(Order::SnapshotByUpdate(1));
            let cut = story.disks.clone();
            story.start(2).unwrap();
            assert!(story.life.is_done());
            (story, cut)
        }
    }

    #[test]
    fn a_snapshot_holds_what_the_first_guest_after_it_finds() {
        let mut story = Story::new();
        story.life.give(Order::SnapshotByUpdate(1));
        story.start_and_cut(1);
        assert!(!story.life.is_done(), "the order is not acted on yet");
        let cut = story.disks.clone();
        story.start(2).unwrap();
        assert!(story.life.is_done());
        let model = story.life.model();
        let digests =
            |contents: &[Content]| contents.iter().map(|it| it.digest().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            digests(&model.cuts[&1].contents),
            digests(&cut),
            "the half-written mark is in the snapshot"
        );
        assert_eq!(digests(&model.live), digests(&story.disks));
    }

    #[test]
    fn the_old_version_does_not_come_back_after_the_new_one() {
        let (mut story, _) = Story::with_snapshot();
        story.life.cut();
        assert!(story.start(1).unwrap_err().starts_with("I2"));
    }

    #[test]
    fn a_rollback_acts_once_and_on_all_volumes() {
        let (mut story, cut) = Story::with_snapshot();
        story.life.give(Order::RollBack(1));
        story.start(2).unwrap();
        assert!(!story.life.is_done(), "a restart before it is acted on");

        let mut half = Story { life: story.life.clone(), disks: story.disks.clone(), ..Story::new() };
        half.disks[1] = cut[1].clone();
        assert!(half.start(1).unwrap_err().starts_with("I1"), "only one volume was reverted");

        let mut early = Story { life: story.life.clone(), disks: story.disks.clone(), ..Story::new() };
        assert!(early.start(1).unwrap_err().starts_with("I1"), "version 1 on what version 2 wrote");

        story.disks = cut.clone();
        story.start(1).unwrap();
        assert!(story.life.is_done());
        story.life.cut();
        story.disks = cut;
        assert!(story.start(1).unwrap_err().starts_with("I1"), "reverted a second time");
    }

    #[test]
    fn a_written_mark_is_not_lost() {
        let mut story = Story::new();
        let earlier = story.disks.clone();
        story.start(1).unwrap();
        story.life.cut();
        story.disks = earlier;
        assert!(story.start(1).unwrap_err().starts_with("I1"));
    }

    #[test]
    fn nothing_starts_on_what_was_deleted() {
        let mut story = Story::new();
        story.life.give(Order::DeleteApp);
        story.start(1).unwrap();
        story.disks[0] = Content::default();
        assert!(story.start(1).is_err());
        assert!(story.life.is_done(), "what is left is for the look to find");
    }
}
