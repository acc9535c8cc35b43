//! The border: a device configuration as the controller sent it becomes checked types, or is refused ([003] A8).
//!
//! ```text
//!   EdgeDevConfig ──per object──▶ id? ─▶ listed once? ─▶ content?  ──▶ in force
//!                                  │           │            │
//!                                  └───────────┴────────────┴──▶ refused; what was in force of it stays
//! ```
//!
//! In: the message, and what is in force now. Out: what is to be in force, and what was refused. A refused object
//! harms no other one; behind this file every id is a UUID, every number in its range, every snapshot one
//! application's. Whether a volume that is referred to exists is not judged here: volumemgr says so, on the volume.
//!
//! Each object is kept with the message it came from, because the last good message of a refused object has to
//! outlive a restart (`checkpoint.rs`).
//!
//! Nothing here reads the clock or the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::str::FromStr;

use holdfast_types::{
    AppId, AppInstanceConfig, ContentTreeConfig, ContentTreeId, DatastoreConfig, DatastoreId, InvalidId,
    VolumeConfig, VolumeKey,
};

use super::check;
use super::claims;
use super::refusal::{ObjectKind, Reason, Refusal, shown};
use crate::wire::config as wire;

/// A message of the configuration that stands for one object.
pub trait Object: Clone + Debug + PartialEq {
    const KIND: ObjectKind;
    type Key: Ord + Copy + Debug;
    type Checked: Clone + Debug + PartialEq;

    /// The id as written.
    fn id(&self) -> &str;
    /// What people call it; may be empty.
    fn name(&self) -> &str;
    /// The generation as written.
    fn generation(&self) -> i64 {
        0
    }
    /// Who it is; without that it is nobody.
    fn key(&self) -> Result<Self::Key, Reason>;
    fn check(&self, key: Self::Key) -> Result<Self::Checked, Reason>;
    /// True when this written id means that key, in whatever generation.
    fn is_meant(id: &str, key: &Self::Key) -> bool;
}

/// An object that passed, with the message it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Passed<O: Object> {
    pub config: O::Checked,
    pub wire: O,
}

pub type Objects<O> = BTreeMap<<O as Object>::Key, Passed<O>>;

/// The checked configuration of a device.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct InForce {
    pub apps: Objects<wire::AppInstanceConfig>,
    pub volumes: Objects<wire::Volume>,
    pub content_trees: Objects<wire::ContentTree>,
    pub datastores: Objects<wire::DatastoreConfig>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// What is to be in force, the last good configuration of refused objects included.
    pub in_force: InForce,
    /// Sorted by kind and id; an object is refused once, whatever is wrong with it.
    pub refused: Vec<Refusal>,
}

impl InForce {
    /// The messages all this came from: parsed again, they give the same.
    pub fn to_message(&self) -> wire::EdgeDevConfig {
        wire::EdgeDevConfig {
            apps: messages(&self.apps),
            volumes: messages(&self.volumes),
            content_info: messages(&self.content_trees),
            datastores: messages(&self.datastores),
            ..Default::default()
        }
    }
}

fn messages<O: Object>(objects: &Objects<O>) -> Vec<O> {
    objects.values().map(|passed| passed.wire.clone()).collect()
}

/// Checks the configuration against itself and against what is in force. The same configuration again, with its own
/// result in force, gives the same result.
pub fn parse(config: &wire::EdgeDevConfig, previous: &InForce) -> Parsed {
    let datastores = judge(&config.datastores, &previous.datastores);
    let content_trees = judge(&config.content_info, &previous.content_trees);
    let volumes = judge(&config.volumes, &previous.volumes);
    let apps = claims::settle(judge(&config.apps, &previous.apps), &previous.apps);

    let mut refused = [apps.refused, volumes.refused, content_trees.refused, datastores.refused].concat();
    refused.sort_by(|a, b| a.object().cmp(&b.object()));
    refused.dedup_by(|a, b| a.object() == b.object());
    let in_force = InForce {
        apps: apps.in_force,
        volumes: volumes.in_force,
        content_trees: content_trees.in_force,
        datastores: datastores.in_force,
    };
    Parsed { in_force, refused }
}

/// The verdict on all objects of one kind.
#[derive(Debug)]
pub(super) struct Judged<O: Object> {
    pub in_force: Objects<O>,
    /// Those in force only because what replaces them was refused.
    pub kept_keys: BTreeSet<O::Key>,
    pub refused: Vec<Refusal>,
}

impl<O: Object> Judged<O> {
    /// Takes the object out of force and puts what was in force of it back.
    pub fn refuse(&mut self, object: &O, reason: Reason, previous: &Objects<O>) {
        let mut keeps_last_good = false;
        for (key, last_good) in previous.iter().filter(|(key, _)| O::is_meant(object.id(), key)) {
            // Another generation of the same volume, listed and good, is not what was refused.
            let is_free = !self.in_force.contains_key(key);
            if is_free {
                self.in_force.insert(*key, last_good.clone());
                self.kept_keys.insert(*key);
            }
            keeps_last_good |= self.kept_keys.contains(key);
        }
        self.refused.push(Refusal {
            kind: O::KIND,
            id: usual_form(object.id()),
            generation: object.generation(),
            name: shown(object.name()),
            reason,
            keeps_last_good,
        });
    }
}

/// Each object on its own, and whether it is listed once.
fn judge<O: Object>(listed: &[O], previous: &Objects<O>) -> Judged<O> {
    let mut times: BTreeMap<O::Key, u32> = BTreeMap::new();
    for key in listed.iter().filter_map(|object| object.key().ok()) {
        *times.entry(key).or_default() += 1;
    }
    let mut judged = Judged { in_force: BTreeMap::new(), kept_keys: BTreeSet::new(), refused: Vec::new() };
    let mut refused = Vec::new();
    for object in listed {
        match pass(object, &times) {
            Ok((key, config)) => drop(judged.in_force.insert(key, Passed { config, wire: object.clone() })),
            Err(reason) => refused.push((object, reason)),
        }
    }
    // After all that is good is in: the last good of a refused object only fills what is left.
    for (object, reason) in refused {
        judged.refuse(object, reason, previous);
    }
    judged
}

fn pass<O: Object>(object: &O, times: &BTreeMap<O::Key, u32>) -> Result<(O::Key, O::Checked), Reason> {
    let key = object.key()?;
    if times.get(&key).is_some_and(|times| *times > 1) {
        return Err(Reason::ListedTwice);
    }
    Ok((key, object.check(key)?))
}

/// Parses an id; the error's text is short enough to be shown.
pub(super) fn id<T: FromStr<Err = InvalidId>>(text: &str) -> Result<T, Reason> {
    let short = |invalid: InvalidId| InvalidId { what: invalid.what, text: shown(&invalid.text) };
    text.parse().map_err(|invalid| Reason::InvalidId(short(invalid)))
}

fn usual_form(text: &str) -> String {
    text.parse::<AppId>().map_or_else(|_| shown(text), |id| id.to_string())
}

impl Object for wire::AppInstanceConfig {
    const KIND: ObjectKind = ObjectKind::App;
    type Key = AppId;
    type Checked = AppInstanceConfig;

    fn id(&self) -> &str {
        self.uuidandversion.as_ref().map_or("", |pair| &pair.uuid)
    }
    fn name(&self) -> &str {
        &self.displayname
    }
    fn key(&self) -> Result<AppId, Reason> {
        id(self.id())
    }
    fn check(&self, key: AppId) -> Result<AppInstanceConfig, Reason> {
        check::app(self, key)
    }
    fn is_meant(id: &str, key: &AppId) -> bool {
        id.parse() == Ok(*key)
    }
}

impl Object for wire::Volume {
    const KIND: ObjectKind = ObjectKind::Volume;
    type Key = VolumeKey;
    type Checked = VolumeConfig;

    fn id(&self) -> &str {
        &self.uuid
    }
    fn name(&self) -> &str {
        &self.display_name
    }
    fn generation(&self) -> i64 {
        self.generation_count
    }
    fn key(&self) -> Result<VolumeKey, Reason> {
        check::volume_key(&self.uuid, self.generation_count)
    }
    fn check(&self, key: VolumeKey) -> Result<VolumeConfig, Reason> {
        check::volume(self, key)
    }
    fn is_meant(id: &str, key: &VolumeKey) -> bool {
        id.parse() == Ok(key.volume)
    }
}

impl Object for wire::ContentTree {
    const KIND: ObjectKind = ObjectKind::ContentTree;
    type Key = ContentTreeId;
    type Checked = ContentTreeConfig;

    fn id(&self) -> &str {
        &self.uuid
    }
    fn name(&self) -> &str {
        &self.display_name
    }
    fn key(&self) -> Result<ContentTreeId, Reason> {
        id(&self.uuid)
    }
    fn check(&self, key: ContentTreeId) -> Result<ContentTreeConfig, Reason> {
        check::content_tree(self, key)
    }
    fn is_meant(id: &str, key: &ContentTreeId) -> bool {
        id.parse() == Ok(*key)
    }
}

impl Object for wire::DatastoreConfig {
    const KIND: ObjectKind = ObjectKind::Datastore;
    type Key = DatastoreId;
    type Checked = DatastoreConfig;

    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> &str {
        ""
    }
    fn key(&self) -> Result<DatastoreId, Reason> {
        id(&self.id)
    }
    fn check(&self, key: DatastoreId) -> Result<DatastoreConfig, Reason> {
        check::datastore(self, key)
    }
    fn is_meant(id: &str, key: &DatastoreId) -> bool {
        id.parse() == Ok(*key)
    }
}
