//! What guards an application against a rollback: its high-availability state and its tags ([000] L1, L2, L6, L9).
//!
//! ```text
//!   controller's text ──read──▶ AppGuard ──┐
//!                                          ├─ effective ─▶ EffectiveGuard ── refusal ─▶ None: a rollback may begin
//!   holdfast app set ─────────▶ LocalAppSettings ─┘                               └──▶ Some(text): why not, and what to do
//! ```
//!
//! What is set locally wins over the controller's, item by item (the state; each tag), until it is taken back locally or
//! the application is deleted. A state that cannot be read is one of its own: it guards, and is never "not managed".
//!
//! Pure values: who asks, and when, is zedmanager's.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::AppId;
use crate::topic::{Durability, Topic};

/// The tag that consents to the destruction of newer snapshots nobody here knows ([000] L6).
pub const FORCE_ROLLBACK: &str = "force_rollback";

/// How long a tag may be; enough for any word, and little enough to be shown.
pub const TAG_LENGTH_MAX: usize = 64;

/// What a high-availability manager does with an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HaState {
    /// It is kept running.
    Started,
    /// It is kept stopped.
    Stopped,
    /// It is known to it, and off.
    Disabled,
    /// It is left alone: under manual control.
    Ignored,
}

impl HaState {
    pub const ALL: [HaState; 4] = [HaState::Started, HaState::Stopped, HaState::Disabled, HaState::Ignored];

    pub fn name(self) -> &'static str {
        match self {
            HaState::Started => "started",
            HaState::Stopped => "stopped",
            HaState::Disabled => "disabled",
            HaState::Ignored => "ignored",
        }
    }
}

impl fmt::Display for HaState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A text that is no high-availability state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no high-availability state: it is started, stopped, disabled or ignored")]
pub struct UnknownHaState {
    pub text: String,
}

impl FromStr for HaState {
    type Err = UnknownHaState;

    fn from_str(text: &str) -> Result<Self, UnknownHaState> {
        let known = HaState::ALL.into_iter().find(|state| state.name() == text);
        known.ok_or_else(|| UnknownHaState { text: text.to_owned() })
    }
}

/// Whether a high-availability manager has a hand on the application.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Guard {
    /// Nothing is set.
    #[default]
    NotManaged,
    Managed(HaState),
    /// Something is set that this node cannot read; holds what it is.
    Unreadable(String),
}

impl Guard {
    /// As the controller writes it; empty where nothing is set.
    pub fn read(text: &str) -> Self {
        match text {
            "" => Guard::NotManaged,
            text => text.parse().map_or_else(|_| Guard::Unreadable(text.to_owned()), Guard::Managed),
        }
    }

    /// [000] L1.
    pub fn allows_rollback(&self) -> bool {
        matches!(self, Guard::NotManaged | Guard::Managed(HaState::Ignored))
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guard::NotManaged => formatter.write_str("not set"),
            Guard::Managed(state) => state.fmt(formatter),
            Guard::Unreadable(text) => write!(formatter, "unreadable (\"{text}\")"),
        }
    }
}

/// A text that is no tag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{text}\" is no tag: a tag has up to {TAG_LENGTH_MAX} letters, digits and _ . + -, and begins with a letter, \
     a digit or _"
)]
pub struct BadTag {
    pub text: String,
}

/// One tag, trimmed; exact in case and spelling.
pub fn read_tag(text: &str) -> Result<String, BadTag> {
    let tag = text.trim();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let starts_well = tag.bytes().next().is_some_and(is_plain);
    let goes_on_well = tag.bytes().all(|byte| is_plain(byte) || b".+-".contains(&byte));
    if starts_well && goes_on_well && tag.len() <= TAG_LENGTH_MAX {
        return Ok(tag.to_owned());
    }
    Err(BadTag { text: tag.to_owned() })
}

/// The tags of one text, separated by commas or semicolons; nothing between two separators is no tag and no mistake.
pub fn read_tags(text: &str) -> impl Iterator<Item = Result<String, BadTag>> + '_ {
    text.split([',', ';']).filter(|part| !part.trim().is_empty()).map(read_tag)
}

/// The guard as the controller set it; part of the application's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AppGuard {
    pub ha_state: Guard,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// What the controller sent as tags and is none, as it can be shown. They are left out, and told.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub refused_tags: BTreeSet<String>,
}

impl AppGuard {
    pub fn is_default(&self) -> bool {
        *self == AppGuard::default()
    }
}

/// What was set on the node itself; the key is the application's id. Persistent, and gone with the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct LocalAppSettings {
    pub app: AppId,
    #[serde(default)]
    pub ha_state: Option<HaState>,
    #[serde(default)]
    pub tags_added: BTreeSet<String>,
    #[serde(default)]
    pub tags_removed: BTreeSet<String>,
    /// Why what was set before is not known: its row was damaged. It may have been anything, so it guards until a state
    /// is set or taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

impl Topic for LocalAppSettings {
    const NAME: &'static str = "LocalAppSettings";
    const DURABILITY: Durability = Durability::Persistent;
    type Key = AppId;

    fn key(&self) -> AppId {
        self.app
    }
}

impl LocalAppSettings {
    pub fn none(app: AppId) -> Self {
        LocalAppSettings {
            app,
            ha_state: None,
            tags_added: BTreeSet::new(),
            tags_removed: BTreeSet::new(),
            lost: None,
        }
    }

    /// In the place of a row that cannot be read ([000] L1).
    pub fn lost(app: AppId, reason: impl Into<String>) -> Self {
        LocalAppSettings { lost: Some(reason.into()), ..LocalAppSettings::none(app) }
    }

    pub fn is_empty(&self) -> bool {
        *self == LocalAppSettings::none(self.app)
    }

    /// Takes a change in. Afterwards the effective guard is as the change says; doing the same again changes nothing. A tag
    /// is kept here only where it differs from the controller's: to set what the controller says is to take it back.
    pub fn apply(&mut self, change: &LocalChange, controller: &AppGuard) {
        if change.ha_state.is_some() {
            self.lost = None;
        }
        match change.ha_state {
            None => {}
            Some(HaChoice::Controller) => self.ha_state = None,
            Some(HaChoice::State(state)) => self.ha_state = Some(state),
        }
        for tag in &change.tags {
            self.tags_removed.remove(tag);
            if !controller.tags.contains(tag) {
                self.tags_added.insert(tag.clone());
            }
        }
        for tag in &change.untags {
            self.tags_added.remove(tag);
            if controller.tags.contains(tag) {
                self.tags_removed.insert(tag.clone());
            }
        }
    }
}

/// What `holdfast app set` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalChange {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ha_state: Option<HaChoice>,
    #[serde(default)]
    pub tags: BTreeSet<String>,
    #[serde(default)]
    pub untags: BTreeSet<String>,
}

/// A state, or the controller's again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HaChoice {
    State(HaState),
    Controller,
}

impl FromStr for HaChoice {
    type Err = UnknownHaState;

    fn from_str(text: &str) -> Result<Self, UnknownHaState> {
        if text == "controller" { Ok(HaChoice::Controller) } else { text.parse().map(HaChoice::State) }
    }
}

impl TryFrom<String> for HaChoice {
    type Error = UnknownHaState;

    fn try_from(text: String) -> Result<Self, UnknownHaState> {
        text.parse()
    }
}

impl From<HaChoice> for String {
    fn from(choice: HaChoice) -> String {
        match choice {
            HaChoice::State(state) => state.to_string(),
            HaChoice::Controller => "controller".to_owned(),
        }
    }
}

/// Why a [`LocalChange`] is refused as a whole; nothing of it is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChange {
    #[error(transparent)]
    Tag(#[from] BadTag),
    #[error("the tag \"{tag}\" is to be set and taken away at once")]
    Both { tag: String },
    #[error("nothing is to be changed: name a state, a tag to set, or a tag to take away")]
    Nothing,
}

impl LocalChange {
    /// The change with its tags in the form they are compared in, or why it is none.
    pub fn checked(self) -> Result<Self, BadChange> {
        let read = |tags: BTreeSet<String>| tags.iter().map(|tag| read_tag(tag)).collect::<Result<_, _>>();
        let checked =
            LocalChange { ha_state: self.ha_state, tags: read(self.tags)?, untags: read(self.untags)? };
        if let Some(tag) = checked.tags.intersection(&checked.untags).next() {
            return Err(BadChange::Both { tag: tag.clone() });
        }
        if checked == LocalChange::default() { Err(BadChange::Nothing) } else { Ok(checked) }
    }
}

/// The guard in effect, and what of it was set locally.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EffectiveGuard {
    pub ha_state: Guard,
    pub ha_state_is_local: bool,
    pub tags: BTreeSet<String>,
    /// Of `tags`, those set locally.
    pub local_tags: BTreeSet<String>,
    /// The controller's tags that were taken away locally.
    pub removed_tags: BTreeSet<String>,
}

/// [000] L1, L6: the one rule by which the two meet.
pub fn effective(controller: &AppGuard, local: Option<&LocalAppSettings>) -> EffectiveGuard {
    let Some(local) = local else {
        let AppGuard { ha_state, tags, .. } = controller.clone();
        return EffectiveGuard { ha_state, tags, ..EffectiveGuard::default() };
    };
    let kept = controller.tags.difference(&local.tags_removed);
    let ha_state = match (local.ha_state, &local.lost) {
        (Some(state), _) => Guard::Managed(state),
        (None, Some(reason)) => Guard::Unreadable(reason.clone()),
        (None, None) => controller.ha_state.clone(),
    };
    EffectiveGuard {
        ha_state,
        ha_state_is_local: local.ha_state.is_some(),
        tags: kept.chain(&local.tags_added).cloned().collect(),
        local_tags: local.tags_added.clone(),
        removed_tags: local.tags_removed.intersection(&controller.tags).cloned().collect(),
    }
}

impl EffectiveGuard {
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.contains(tag)
    }

    /// [000] L1, L2: why no rollback of this application may begin or go on, and what to do about it.
    pub fn refusal(&self, app: AppId) -> Option<String> {
        let controlled = match &self.ha_state {
            state if state.allows_rollback() => return None,
            Guard::Unreadable(text) => format!(
                "app:{app} has a High Availability state that cannot be read (state: \"{text}\"), so it may be \
                 controlled by High Availability."
            ),
            state => format!("app:{app} is controlled by High Availability (state: {state})."),
        };
        Some(format!(
            "Rollback blocked: {controlled} It could be restarted or moved while its volumes are being reverted, \
             so a rollback needs it under manual control. Set its state to ignored, roll back, then set the state \
             back. At the controller: ha_state \"ignored\". On the node: holdfast app set {app} --ha-state ignored"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn app() -> AppId {
        AppId(Uuid::from_u128(0xa0))
    }

    fn set(tags: &[&str]) -> BTreeSet<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    fn guard(state: &str, tags: &[&str]) -> AppGuard {
        AppGuard { ha_state: Guard::read(state), tags: set(tags), refused_tags: BTreeSet::new() }
    }

    /// [000] L1: the seed's table, and the two lines that are ours.
    #[test]
    fn only_ignored_and_not_set_let_a_rollback_begin() {
        let table = [
            ("started", false),
            ("stopped", false),
            ("disabled", false),
            ("ignored", true),
            ("", true),
            ("Ignored", false),
            (" ignored", false),
            ("paused", false),
        ];
        for (text, allowed) in table {
            assert_eq!(Guard::read(text).allows_rollback(), allowed, "{text:?}");
            assert_eq!(effective(&guard(text, &[]), None).refusal(app()).is_none(), allowed, "{text:?}");
        }
        assert_eq!(Guard::read("paused"), Guard::Unreadable("paused".to_owned()), "never \"not managed\"");
    }

    /// [000] L2.
    #[test]
    fn the_refusal_names_the_application_the_state_and_the_way_out() {
        let text = effective(&guard("started", &[FORCE_ROLLBACK]), None).refusal(app()).expect("refused");
        let id = app().to_string();
        for part in [
            "Rollback blocked",
            &format!("app:{id}"),
            "is controlled by High Availability",
            "(state: started)",
            "restarted or moved",
            &format!("holdfast app set {id} --ha-state ignored"),
        ] {
            assert!(text.contains(part), "{part} in: {text}");
        }
        assert!(!text.contains(FORCE_ROLLBACK), "the tag does not help: {text}");
    }

    /// [000] L6: comma- or semicolon-separated, trimmed, exact.
    #[test]
    fn tags_are_split_trimmed_and_judged_one_by_one() {
        let read = |text: &str| -> Vec<String> {
            read_tags(text).map(|tag| tag.unwrap_or_else(|bad| format!("!{}", bad.text))).collect()
        };
        let table: &[(&str, &[&str])] = &[
            ("force_rollback", &["force_rollback"]),
            (" a ;force_rollback,, b;", &["a", "force_rollback", "b"]),
            ("", &[]),
            (" ; , ", &[]),
            ("Force_Rollback", &["Force_Rollback"]),
            ("two words,ok", &["!two words", "ok"]),
            ("-x,+y,.z,_w,1.2-3+4", &["!-x", "!+y", "!.z", "_w", "1.2-3+4"]),
            ("grün", &["!grün"]),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), *expected, "{text:?}");
        }
        assert!(read_tag(&"x".repeat(TAG_LENGTH_MAX)).is_ok());
        assert!(read_tag(&"x".repeat(TAG_LENGTH_MAX + 1)).is_err());
    }

    #[test]
    fn what_is_set_locally_wins_item_by_item_until_it_is_taken_back() {
        let controller = guard("started", &["a", "b"]);
        let mut local = LocalAppSettings::none(app());
        let mut change = |change: LocalChange| {
            local.apply(&change, &controller);
            let once = local.clone();
            local.apply(&change, &controller);
            assert_eq!(local, once, "the same again changes nothing");
            (effective(&controller, Some(&local)), local.is_empty())
        };
        let state = |text: &str| LocalChange { ha_state: text.parse().ok(), ..LocalChange::default() };
        let tag = |tag: &str| LocalChange { tags: set(&[tag]), ..LocalChange::default() };
        let untag = |tag: &str| LocalChange { untags: set(&[tag]), ..LocalChange::default() };

        let (guard, _) = change(state("ignored"));
        assert_eq!((&guard.ha_state, guard.ha_state_is_local), (&Guard::Managed(HaState::Ignored), true));
        assert_eq!(guard.tags, set(&["a", "b"]), "the tags are still the controller's");
        let (guard, _) = change(tag("c"));
        assert_eq!((guard.tags, guard.local_tags), (set(&["a", "b", "c"]), set(&["c"])));
        let (guard, _) = change(untag("a"));
        assert_eq!((guard.tags, guard.removed_tags), (set(&["b", "c"]), set(&["a"])));
        let (guard, _) = change(untag("c"));
        assert_eq!(guard.tags, set(&["b"]));
        let (guard, _) = change(tag("a"));
        assert_eq!(guard.tags, set(&["a", "b"]));
        let (guard, nothing_left) = change(state("controller"));
        assert_eq!(guard.ha_state, Guard::Managed(HaState::Started));
        assert!(nothing_left, "all is the controller's again");
    }

    /// [000] L1: what cannot be read is no leave.
    #[test]
    fn lost_local_settings_guard_until_somebody_says_what_holds() {
        let mut local = LocalAppSettings::lost(app(), "the row is cut off");
        let refused = |local: &LocalAppSettings| effective(&guard("", &[]), Some(local)).refusal(app());
        assert!(refused(&local).expect("refused").contains("the row is cut off"));
        local.apply(&LocalChange { tags: set(&["x"]), ..LocalChange::default() }, &AppGuard::default());
        assert!(refused(&local).is_some(), "a tag says nothing about the state");
        let back = LocalChange { ha_state: Some(HaChoice::Controller), ..LocalChange::default() };
        local.apply(&back, &AppGuard::default());
        assert_eq!(refused(&local), None);
    }

    #[test]
    fn a_change_that_is_none_is_refused_as_a_whole() {
        let refused = |change: LocalChange| change.checked().expect_err("refused").to_string();
        assert!(refused(LocalChange::default()).contains("nothing is to be changed"));
        let bad = LocalChange { tags: set(&["two words"]), ..LocalChange::default() };
        assert!(refused(bad).contains("\"two words\" is no tag"));
        let both = LocalChange { tags: set(&["x"]), untags: set(&[" x "]), ..LocalChange::default() };
        assert!(refused(both).contains("set and taken away at once"));
        assert!("on".parse::<HaChoice>().expect_err("unknown").to_string().contains("started, stopped"));
    }
}
