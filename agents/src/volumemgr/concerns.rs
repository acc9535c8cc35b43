//! What an event may move, so that not all is looked at whenever something happens: a node may have a thousand volumes, and
//! each step of each snapshot is an event.
//!
//! ```text
//!   event ─▶ its snapshot ─▶ that one's volumes ─▶ what is at work on those ─▶ the volumes of that ─▶ …
//!        └─▶ its volume ────────────┘                and all volumes that wait for content
//! ```
//!
//! Too much costs time; with too little, something would wait for nothing. So builds with debug assertions look at all
//! after each event, and nothing may be left to do ([`Volumemgr::assert_settled`]): every run of the World is a test of this.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use holdfast_pubsub::Change;
use holdfast_types::{
    SnapshotId, SnapshotIntent, VolumeId, VolumeKey, VolumeRecord, VolumeStage, VolumesSnapshotConfig,
};
use uuid::Uuid;

use super::{Again, Event, Volumemgr, plan};
use crate::runtime::Ctx;

/// What is to be looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Concerns {
    #[default]
    All,
    /// A volume counts in all its generations: one that is used makes another superfluous ([003] F2).
    These { snapshots: BTreeSet<SnapshotId>, volumes: BTreeSet<VolumeId> },
}

impl Concerns {
    /// By the event alone; what is connected with it comes later ([`Volumemgr::follow`]).
    pub(super) fn of(event: &Event) -> Self {
        match event {
            Event::Volume(change) => of_row(change, |config| Self::volume(config.key.volume)),
            Event::Reference(change) => of_row(change, |config| Self::volume(config.key.volume.volume)),
            Event::Request(change) => of_row(change, |_| of_request(change)),
            Event::Question(_) | Event::Preflighted { .. } => Self::nothing(),
            // They move volumes that wait for content, and those are looked at every time.
            Event::FetchProgress { .. } | Event::Fetched { .. } | Event::DownloadRemoved { .. } => {
                Self::nothing()
            }
            Event::Checked { key, .. }
            | Event::MakeProgress { key, .. }
            | Event::Made { key, .. }
            | Event::Destroyed { key, .. }
            | Event::TryAgain(Again::Volume(key)) => Self::volume(key.volume),
            Event::Stepped { snapshot, .. } | Event::TryAgain(Again::Step(snapshot, _)) => {
                Self::these([*snapshot], [])
            }
            Event::ContentTree(_)
            | Event::Datastore(_)
            | Event::ModeChanged
            | Event::InventoryTaken(_)
            | Event::TryAgain(Again::Inventory | Again::Content(_)) => Concerns::All,
        }
    }

    fn these(
        snapshots: impl IntoIterator<Item = SnapshotId>,
        volumes: impl IntoIterator<Item = VolumeId>,
    ) -> Self {
        let (snapshots, volumes) = (snapshots.into_iter().collect(), volumes.into_iter().collect());
        Concerns::These { snapshots, volumes }
    }

    fn nothing() -> Self {
        Self::these([], [])
    }

    fn volume(volume: VolumeId) -> Self {
        Self::these([], [volume])
    }

    /// Adds the volumes of its snapshots, and the snapshots that are at work on its volumes, until nothing is left to add.
    fn connect(
        &mut self,
        at_work: &[Arc<SnapshotIntent>],
        volumes_of: impl Fn(&SnapshotId) -> BTreeSet<VolumeId>,
    ) {
        let Concerns::These { snapshots, volumes } = self else { return };
        let mut fresh: Vec<SnapshotId> = snapshots.iter().copied().collect();
        loop {
            volumes.extend(fresh.iter().flat_map(&volumes_of));
            snapshots.extend(fresh);
            let touched = |intent: &&Arc<SnapshotIntent>| {
                !snapshots.contains(&intent.snapshot)
                    && intent.volumes.keys().any(|volume| volumes.contains(volume))
            };
            fresh = at_work.iter().filter(touched).map(|intent| intent.snapshot).collect();
            if fresh.is_empty() {
                return;
            }
        }
    }

    /// The keys of its volumes, in all generations.
    pub fn ranges(&self) -> Vec<RangeInclusive<VolumeKey>> {
        let (least, most) = (VolumeId(Uuid::nil()), VolumeId(Uuid::max()));
        match self {
            Concerns::All => vec![VolumeKey::new(least, i64::MIN)..=VolumeKey::new(most, i64::MAX)],
            Concerns::These { volumes, .. } => volumes.iter().copied().map(VolumeKey::all_of).collect(),
        }
    }

    pub fn includes(&self, volume: &VolumeId) -> bool {
        match self {
            Concerns::All => true,
            Concerns::These { volumes, .. } => volumes.contains(volume),
        }
    }
}

/// That a set is complete, or has begun anew, may move anything.
fn of_row<T>(change: &Change<T>, of: impl Fn(&T) -> Concerns) -> Concerns {
    change.value().map_or(Concerns::All, |value| of(value))
}

/// What was asked of before is let go of.
fn of_request(change: &Change<VolumesSnapshotConfig>) -> Concerns {
    let before = match change {
        Change::Modified { old, .. } => Some(old),
        _ => None,
    };
    let both = || before.into_iter().chain(change.value());
    let volumes = both().flat_map(|request| request.volumes.iter().map(|key| key.volume));
    Concerns::these(both().map(|request| request.snapshot), volumes)
}

impl Volumemgr {
    /// Adds what is connected with it.
    pub(super) fn follow(&self, concerns: &mut Concerns, cx: &Ctx<Self>) {
        concerns.connect(&cx.rows::<SnapshotIntent>(), |snapshot| self.volumes_of(snapshot, cx));
        if let Concerns::These { volumes, .. } = concerns {
            volumes.extend(waiting_for_content(cx));
        }
    }

    /// The volumes that the snapshot holds, or that are asked for, or at work in its intent.
    fn volumes_of(&self, snapshot: &SnapshotId, cx: &Ctx<Self>) -> BTreeSet<VolumeId> {
        let mut volumes = self.named_by(snapshot);
        let intent = cx.get::<SnapshotIntent>(snapshot);
        volumes.extend(intent.iter().flat_map(|intent| intent.volumes.keys()));
        volumes
    }

    /// Looks at all there is once more, and finds nothing to do.
    ///
    /// # Panics
    /// If it does: an event has moved what it was not known to concern.
    #[cfg(debug_assertions)]
    pub(super) fn assert_settled(&mut self, concerns: &Concerns, cx: &mut Ctx<Self>) {
        let staged = cx.staged();
        self.settle(&Concerns::All, cx);
        assert_eq!(cx.staged(), staged, "more was to be done than {concerns:?}: {cx:?}");
    }
}

/// One download serves several, and who is moved by it hears of it from nobody else.
fn waiting_for_content(cx: &Ctx<Volumemgr>) -> impl Iterator<Item = VolumeId> {
    let waits = |row: &&VolumeRecord| {
        row.stage == VolumeStage::Creating && plan::content_tree_of(&row.config).is_some()
    };
    cx.iter().filter(waits).map(|row| row.config.key.volume)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volumemgr::testing::{app, intent, key, snapshot, volume};
    use holdfast_types::{Consent, IntentStage, OperationNumber, SnapshotAction};

    fn at_work(n: u8, volumes: &[u8]) -> Arc<SnapshotIntent> {
        let stage = IntentStage::Preparing;
        Arc::new(SnapshotIntent { snapshot: snapshot(n), ..intent(SnapshotAction::Create, stage, volumes) })
    }

    fn request(volumes: &[u8]) -> Arc<VolumesSnapshotConfig> {
        Arc::new(VolumesSnapshotConfig {
            snapshot: snapshot(1),
            action: SnapshotAction::Create,
            volumes: volumes.iter().map(|n| key(*n, 0)).collect(),
            app: app(1),
            operation: OperationNumber(1),
            made: false,
            consent: Consent::default(),
            revert: None,
        })
    }

    #[test]
    fn what_is_connected_is_found_however_long_the_chain() {
        // In an order that one pass would not do in.
        let intents = [at_work(3, &[3, 4]), at_work(2, &[2, 3]), at_work(1, &[1, 2]), at_work(9, &[9])];
        let of_intent = |asked: &SnapshotId| {
            let found = intents.iter().find(|intent| intent.snapshot == *asked);
            found.into_iter().flat_map(|intent| intent.volumes.keys().copied()).collect()
        };
        let expected = Concerns::these([1, 2, 3].map(snapshot), [1, 2, 3, 4].map(volume));
        for mut concerns in [Concerns::volume(volume(1)), Concerns::these([snapshot(3)], [])] {
            concerns.connect(&intents, of_intent);
            assert_eq!(concerns, expected);
        }
        let mut alone = Concerns::volume(volume(5));
        alone.connect(&intents, of_intent);
        assert_eq!(alone, Concerns::volume(volume(5)));
    }

    #[test]
    fn a_request_concerns_what_was_asked_of_before_too() {
        let (old, new) = (request(&[1, 2]), request(&[2, 3]));
        let concerns = Concerns::of(&Event::Request(Change::Modified { old, new }));
        assert_eq!(concerns, Concerns::these([snapshot(1)], [1, 2, 3].map(volume)));
        let gone = Concerns::of(&Event::Request(Change::Deleted(request(&[4]))));
        assert_eq!(gone, Concerns::these([snapshot(1)], [volume(4)]));
    }

    #[test]
    fn a_set_that_is_complete_may_move_anything_and_a_volume_only_itself() {
        assert_eq!(Concerns::of(&Event::Volume(Change::Restarted(1))), Concerns::All);
        assert_eq!(Concerns::of(&Event::ModeChanged), Concerns::All);
        let due = Concerns::of(&Event::TryAgain(Again::Volume(key(1, 7))));
        assert!(due.includes(&volume(1)) && !due.includes(&volume(2)));
    }
}
