//! Downloads: fetched while a volume is to be made from them, removed when none is.
//!
//! ```text
//!              wanted            verified                    not wanted
//!   (nothing) ───────▶ Fetching ─────────▶ Ready ──────────────────────▶ Removing ─▶ (nothing)
//!                       ▲   │ failed                                        ▲
//!                       └─ Failed ── growing delay, or at once when its     │
//!   after a restart: Leftover   configuration changes ──────────────────────┘
//! ```
//!
//! One download serves all volumes of its content tree. A verified one whose configuration now names another digest
//! counts as a leftover: it is fetched anew before the next volume is made from it.

use std::collections::BTreeSet;

use holdfast_types::{ContentTreeId, EntityKind, VolumeRecord, VolumeStage};

use crate::runtime::Ctx;

use super::download::{self, Fetched};
use super::jobs::{VolumeJob, fetch_id};
use super::plan;
use super::retry::{Failure, Trouble};
use super::volumes::VolumeState;
use super::{Again, Volumemgr, again_after, may_change, no_more_tries};

/// One content tree's file.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ContentState {
    /// Something lies there, and it is not known what.
    Leftover,
    Fetching {
        progress: download::Progress,
        tries: u32,
        cancelled: bool,
    },
    Ready(Fetched),
    Failed(Trouble),
    /// Due again, after so many failures.
    Due {
        tries: u32,
    },
    Removing,
}

impl Volumemgr {
    pub(super) fn settle_contents(&mut self, cx: &mut Ctx<Self>) {
        if !may_change(cx) {
            return;
        }
        let wanted = self.wanted_contents(cx);
        for tree in &wanted {
            if self.is_other_content(tree) && !self.is_being_used(tree, cx) {
                self.contents.insert(*tree, ContentState::Leftover);
            }
            match self.contents.get(tree) {
                None | Some(ContentState::Leftover) => self.fetch(*tree, 0, cx),
                Some(ContentState::Due { tries }) => self.fetch(*tree, *tries, cx),
                _ => {}
            }
        }
        let unwanted: Vec<ContentTreeId> =
            self.contents.keys().filter(|tree| !wanted.contains(tree)).copied().collect();
        for tree in unwanted {
            self.let_go(tree, cx);
        }
    }

    /// What was fetched is not what its configuration says now.
    pub(super) fn is_other_content(&self, tree: &ContentTreeId) -> bool {
        match (self.contents.get(tree), self.inputs.content_trees.get(tree)) {
            (Some(ContentState::Ready(fetched)), Some(config)) => {
                !config.sha256.is_empty() && !config.sha256.eq_ignore_ascii_case(&fetched.sha256)
            }
            _ => false,
        }
    }

    /// A volume is being made from it at the moment: the file must not change under that.
    fn is_being_used(&self, tree: &ContentTreeId, cx: &Ctx<Self>) -> bool {
        cx.iter::<VolumeRecord>().any(|row| {
            plan::content_tree_of(&row.config) == Some(*tree)
                && self.volumes.get(&row.config.key).is_some_and(VolumeState::is_being_made)
        })
    }

    /// Content trees that a volume waits for or is being made from.
    fn wanted_contents(&self, cx: &Ctx<Self>) -> BTreeSet<ContentTreeId> {
        cx.iter::<VolumeRecord>()
            .filter(|row| row.stage == VolumeStage::Creating)
            .filter_map(|row| plan::content_tree_of(&row.config))
            .collect()
    }

    fn fetch(&mut self, tree: ContentTreeId, tries: u32, cx: &mut Ctx<Self>) {
        let Some(config) = self.inputs.content_trees.get(&tree) else { return };
        match plan::content_to_fetch(config, &self.inputs.datastores) {
            Ok(content) => {
                let progress = download::Progress::Fetching { percent: 0 };
                self.contents.insert(tree, ContentState::Fetching { progress, tries, cancelled: false });
                cx.job(VolumeJob::Fetch(content));
            }
            // At the start a datastore may just not have been told yet.
            Err(_) if !self.inputs.contents_complete => {}
            Err(failure) => self.content_failed(tree, tries, &failure, cx),
        }
    }

    fn let_go(&mut self, tree: ContentTreeId, cx: &mut Ctx<Self>) {
        let everybody_has_spoken = self.everybody_has_spoken();
        let Some(state) = self.contents.get_mut(&tree) else { return };
        match state {
            ContentState::Removing | ContentState::Fetching { cancelled: true, .. } => return,
            ContentState::Fetching { cancelled, .. } => {
                *cancelled = true;
                cx.cancel_job(&fetch_id(&tree));
                return;
            }
            // It may yet be wanted by a volume that nobody has named so far.
            ContentState::Leftover if !everybody_has_spoken => return,
            _ => {}
        }
        no_more_tries(cx, Again::Content(tree));
        self.contents.insert(tree, ContentState::Removing);
        cx.job(VolumeJob::RemoveDownload(tree));
    }

    pub(super) fn fetch_progressed(&mut self, tree: ContentTreeId, now: download::Progress) {
        if let Some(ContentState::Fetching { progress, .. }) = self.contents.get_mut(&tree) {
            *progress = now;
        }
    }

    pub(super) fn fetched(
        &mut self,
        tree: ContentTreeId,
        result: Result<Fetched, Failure>,
        cx: &mut Ctx<Self>,
    ) {
        let Some(ContentState::Fetching { tries, cancelled, .. }) = self.contents.get(&tree) else { return };
        let (tries, cancelled) = (*tries, *cancelled);
        match result {
            Ok(fetched) => drop(self.contents.insert(tree, ContentState::Ready(fetched))),
            Err(_) if cancelled => drop(self.contents.insert(tree, ContentState::Due { tries: 0 })),
            Err(failure) => self.content_failed(tree, tries, &failure, cx),
        }
    }

    fn content_failed(&mut self, tree: ContentTreeId, before: u32, failure: &Failure, cx: &mut Ctx<Self>) {
        let error = failure.report(cx.now()).about(EntityKind::ContentTree, tree);
        tracing::warn!(content_tree = %tree, error = error.summary, "content cannot be had");
        let trouble = Trouble::after(before, failure, error);
        if !trouble.permanent {
            again_after(cx, Again::Content(tree), trouble.tries);
        }
        self.contents.insert(tree, ContentState::Failed(trouble));
    }

    pub(super) fn content_due(&mut self, tree: ContentTreeId) {
        if let Some(ContentState::Failed(trouble)) = self.contents.get(&tree) {
            let tries = trouble.tries;
            self.contents.insert(tree, ContentState::Due { tries });
        }
    }

    /// What is left of it is found again at the next start.
    pub(super) fn download_removed(&mut self, tree: ContentTreeId, result: Result<(), Failure>) {
        if let Err(failure) = result {
            tracing::warn!(content_tree = %tree, error = failure.summary, "a download cannot be removed");
        }
        self.contents.remove(&tree);
    }

    /// Content or where it comes from is configured anew: what failed is due at once.
    pub(super) fn forgive_contents(&mut self, cx: &mut Ctx<Self>) {
        for (tree, state) in &mut self.contents {
            if matches!(state, ContentState::Failed(_)) {
                no_more_tries(cx, Again::Content(*tree));
                *state = ContentState::Due { tries: 0 };
            }
        }
        self.forgive_unmade(cx);
    }
}
