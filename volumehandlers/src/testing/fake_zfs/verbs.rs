//! The seam's calls on the fake pool: what each checks, and the one transaction group it makes.

use std::collections::BTreeSet;

use super::pool::{FakeDataset, FakeZvol, ancestors_of, missing};
use super::store::Loaded;
use super::{FakeZfs, Order, ZfsVerb};
use crate::context::HandlerCx;
use crate::zvol::zfs::{
    AgreedOf, Bookmark, LONGEST_NAME_BYTES, NewZvol, REVERTED_PROPERTY, Room, SnapshotOf, ZfsSnapshot, Zvol,
};
use crate::zvol::{Dataset, Zfs, ZfsError};

/// What a dataset or a snapshot takes at least.
const A_LITTLE_BYTES: u64 = 1;
const LARGEST_BLOCK_BYTES: u64 = 128 << 10;
/// What real ZFS takes for these, as far as anybody here sets them.
const NATIVE_PROPERTIES: &[(&str, &[&str])] =
    &[("compression", &["off", "on", "lz4", "zstd"]), ("volmode", &["default", "full", "dev", "none"])];

impl FakeZfs {
    fn begin_look(&self, verb: ZfsVerb, dataset: &Dataset) -> Result<Loaded, ZfsError> {
        if dataset.pool() != self.root().pool() {
            return Err(ZfsError::NoPool { pool: dataset.pool().to_owned() });
        }
        let (order, trouble) = {
            let mut state = self.lock_state();
            let order = state.orders.get_mut(&verb).and_then(|orders| orders.pop_front());
            (order, state.trouble.clone())
        };
        match order {
            Some(Order::Fail(error)) => return Err(error),
            Some(Order::Panic(said)) => panic!("{said}"),
            None => {}
        }
        match trouble {
            Some(trouble) if !matches!(trouble, ZfsError::ReadOnly { .. }) => Err(trouble),
            _ => self.store.load(),
        }
    }

    fn begin_change(&self, verb: ZfsVerb, dataset: &Dataset) -> Result<Loaded, ZfsError> {
        let loaded = self.begin_look(verb, dataset)?;
        match self.lock_state().trouble.clone() {
            Some(read_only) => Err(read_only),
            None => Ok(loaded),
        }
    }

    fn refuse_open(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        match self.lock_state().open.get(dataset) {
            Some(users) => Err(ZfsError::Busy { object: dataset.to_string(), user: users.join(", ") }),
            None => Ok(()),
        }
    }
}

impl Zfs for FakeZfs {
    fn room(&self, dataset: &Dataset) -> Result<Room, ZfsError> {
        let loaded = self.begin_look(ZfsVerb::Room, dataset)?;
        if let Some(read_only) = self.lock_state().trouble.clone() {
            return Err(read_only);
        }
        let left_bytes = loaded.pool.left_by_quotas(dataset.as_str());
        Ok(Room { available_bytes: left_bytes.min(self.store.free_bytes()?) })
    }

    fn volumes(&self, parent: &Dataset) -> Result<Vec<Zvol>, ZfsError> {
        let pool = self.begin_look(ZfsVerb::Volumes, parent)?.pool;
        let below = format!("{parent}/");
        let is_child = |name: &str| name.strip_prefix(&below).is_some_and(|rest| !rest.contains('/'));
        let volumes = pool.datasets.iter().filter(|(name, found)| is_child(name) && found.volume.is_some());
        volumes.map(|(name, _)| pool.listed_volume(&parse(name)?)).collect()
    }

    fn volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError> {
        self.begin_look(ZfsVerb::Volume, dataset)?.pool.listed_volume(dataset)
    }

    fn create_volume(&self, dataset: &Dataset, new: &NewZvol, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let mut loaded = self.begin_change(ZfsVerb::CreateVolume, dataset)?;
        refuse_cancelled(cx)?;
        if loaded.pool.datasets.contains_key(dataset.as_str()) {
            return Err(ZfsError::Exists { object: dataset.to_string() });
        }
        refuse_wrong_sizes(dataset, new)?;
        for (property, value) in &new.properties {
            refuse_wrong_property(dataset, property, value)?;
        }
        self.need_room(&loaded, dataset, A_LITTLE_BYTES)?;
        for ancestor in ancestors_of(dataset.as_str()) {
            let above = loaded.pool.datasets.entry(ancestor.to_owned()).or_default();
            if above.volume.is_some() {
                return Err(failed(dataset, "its parent is a volume"));
            }
        }
        let volume = FakeZvol {
            size_bytes: new.size_bytes,
            blocks: Default::default(),
            snapshots: Vec::new(),
            bookmarks: Default::default(),
            origin: None,
        };
        let made = FakeDataset {
            properties: new.properties.iter().cloned().collect(),
            volume: Some(volume),
            ..FakeDataset::default()
        };
        loaded.pool.datasets.insert(dataset.to_string(), made);
        self.store.commit(loaded)
    }

    fn set_property(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError> {
        let mut loaded = self.begin_change(ZfsVerb::SetProperty, dataset)?;
        refuse_wrong_property(dataset, property, value)?;
        let found = loaded.pool.datasets.get_mut(dataset.as_str()).ok_or_else(|| missing(dataset))?;
        found.properties.insert(property.to_owned(), value.to_owned());
        self.store.commit(loaded)
    }

    fn destroy_volume(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let mut loaded = self.begin_change(ZfsVerb::DestroyVolume, dataset)?;
        refuse_cancelled(cx)?;
        let volume = loaded.pool.volume(dataset)?;
        self.refuse_open(dataset)?;
        if !volume.snapshots.is_empty() {
            return Err(ZfsError::HasSnapshots { object: dataset.to_string() });
        }
        loaded.pool.datasets.remove(dataset.as_str());
        self.store.commit(loaded)
    }

    fn flush(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        self.begin_look(ZfsVerb::Flush, dataset)?.pool.volume(dataset)?;
        self.store.sync()
    }

    fn user_of(&self, dataset: &Dataset) -> Result<Option<String>, ZfsError> {
        self.begin_look(ZfsVerb::UserOf, dataset)?.pool.volume(dataset)?;
        Ok(self.lock_state().open.get(dataset).map(|users| users.join(", ")))
    }

    fn snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError> {
        self.begin_change(ZfsVerb::Snapshots, dataset)?.pool.listed_snapshots(dataset)
    }

    fn bookmarks(&self, dataset: &Dataset) -> Result<Vec<Bookmark>, ZfsError> {
        let loaded = self.begin_look(ZfsVerb::Bookmarks, dataset)?;
        let found = loaded.pool.volume(dataset)?.bookmarks.iter();
        let mut found: Vec<Bookmark> = found
            .map(|(name, created_in)| Bookmark { name: name.clone(), created_in: *created_in })
            .collect();
        found.sort();
        Ok(found)
    }

    fn snapshot(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let Some(first) = group.first() else { return Ok(()) };
        let mut loaded = self.begin_change(ZfsVerb::Snapshot, &first.dataset)?;
        refuse_cancelled(cx)?;
        refuse_wrong_group(group)?;
        let now = self.lock_state().now;
        for SnapshotOf { dataset, name } in group {
            loaded.pool.cut(dataset, name.as_str(), now)?;
            self.need_room(&loaded, dataset, A_LITTLE_BYTES)?;
        }
        self.store.commit(loaded)
    }

    fn rollback(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ZfsError> {
        let Some(first) = group.first() else { return Ok(()) };
        let mut loaded = self.begin_change(ZfsVerb::Rollback, &first.dataset)?;
        refuse_cancelled(cx)?;
        refuse_wrong_group(group)?;
        for snapshot in group {
            self.refuse_open(&snapshot.dataset)?;
            destroy_agreed(&mut loaded, snapshot, agreed)?;
            roll_back(&mut loaded, snapshot)?;
            let found = loaded.pool.datasets.get_mut(snapshot.dataset.as_str());
            let found = found.ok_or_else(|| missing(&snapshot.dataset))?;
            found.properties.insert(REVERTED_PROPERTY.to_owned(), token.to_owned());
        }
        self.store.commit(loaded)
    }

    fn destroy_snapshots(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        let Some(first) = group.first() else { return Ok(()) };
        let mut loaded = self.begin_change(ZfsVerb::DestroySnapshots, &first.dataset)?;
        refuse_cancelled(cx)?;
        let mut found_any = false;
        for snapshot in group {
            found_any |= destroy(&mut loaded, &snapshot.dataset, snapshot.name.as_str())?;
        }
        if found_any { self.store.commit(loaded) } else { Ok(()) }
    }
}

/// Says whether it was there. Refused while something needs it.
fn destroy(loaded: &mut Loaded, dataset: &Dataset, name: &str) -> Result<bool, ZfsError> {
    let Ok(found) = loaded.pool.snapshot_mut(dataset, name) else { return Ok(false) };
    let (object, tags) = (format!("{dataset}@{name}"), found.holds.iter().cloned().collect::<Vec<_>>());
    if !tags.is_empty() {
        return Err(ZfsError::Held { object, tags });
    }
    let clones = loaded.pool.clones_of(dataset, name);
    if !clones.is_empty() {
        return Err(ZfsError::HasClones { object, clones });
    }
    loaded.pool.volume_mut(dataset)?.snapshots.retain(|other| other.name != name);
    Ok(true)
}

/// Of what is newer than the target and agreed to, by name and guid.
fn destroy_agreed(loaded: &mut Loaded, target: &SnapshotOf, agreed: &[AgreedOf]) -> Result<(), ZfsError> {
    let SnapshotOf { dataset, name } = target;
    let made_in = loaded.pool.snapshot_mut(dataset, name.as_str())?.created_in;
    let mut destroyed_any = false;
    for one in agreed.iter().filter(|one| one.dataset == *dataset) {
        let found = loaded.pool.snapshot_mut(dataset, &one.name);
        if found.is_ok_and(|found| found.guid == one.guid && found.created_in > made_in) {
            destroyed_any |= destroy(loaded, dataset, &one.name)?;
        }
    }
    let bookmarks = &loaded.pool.volume(dataset)?.bookmarks;
    let newer = bookmarks.iter().filter(|(_, created_in)| **created_in > made_in);
    let newer: Vec<String> = newer.map(|(name, _)| format!("{dataset}#{name}")).collect();
    match destroyed_any && !newer.is_empty() {
        true => Err(ZfsError::Newer { object: target.to_string(), newer }),
        false => Ok(()),
    }
}

fn roll_back(loaded: &mut Loaded, snapshot: &SnapshotOf) -> Result<(), ZfsError> {
    let target = loaded.pool.snapshot_mut(&snapshot.dataset, snapshot.name.as_str())?.clone();
    let volume = loaded.pool.volume_mut(&snapshot.dataset)?;
    let newer = volume.snapshots.iter().skip_while(|other| other.guid != target.guid).skip(1);
    let newer: Vec<String> = newer.map(|other| other.name.clone()).collect();
    if !newer.is_empty() {
        return Err(ZfsError::Newer { object: snapshot.to_string(), newer });
    }
    if volume.bookmarks.values().any(|created_in| *created_in > target.created_in) {
        return Err(ZfsError::Exists { object: snapshot.dataset.to_string() });
    }
    volume.size_bytes = target.size_bytes;
    volume.blocks = target.blocks;
    Ok(())
}

fn refuse_wrong_group(group: &[SnapshotOf]) -> Result<(), ZfsError> {
    let mut seen = BTreeSet::new();
    for snapshot in group {
        let object = snapshot.to_string();
        if object.len() > LONGEST_NAME_BYTES {
            return Err(ZfsError::NameTooLong { object });
        }
        if snapshot.dataset.pool() != group[0].dataset.pool() || !seen.insert(&snapshot.dataset) {
            return Err(failed(&snapshot.dataset, "a group is of one pool and names each volume once"));
        }
    }
    Ok(())
}

fn refuse_wrong_sizes(dataset: &Dataset, new: &NewZvol) -> Result<(), ZfsError> {
    let block = new.block_size_bytes;
    let wrong = |property: &str, value: u64, reason: &str| ZfsError::BadProperty {
        object: dataset.to_string(),
        property: property.to_owned(),
        value: value.to_string(),
        reason: reason.to_owned(),
    };
    if !block.is_power_of_two() || !(512..=LARGEST_BLOCK_BYTES).contains(&block) {
        return Err(wrong("volblocksize", block, "it must be a power of two from 512 to 131072"));
    }
    if new.size_bytes == 0 || !new.size_bytes.is_multiple_of(block) {
        return Err(wrong("volsize", new.size_bytes, "it must be a multiple of the block size"));
    }
    Ok(())
}

fn refuse_wrong_property(dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError> {
    let native = NATIVE_PROPERTIES.iter().find(|(name, _)| *name == property);
    let reason = match native {
        _ if property.contains(':') => return Ok(()),
        Some((_, values)) if values.contains(&value) => return Ok(()),
        Some(_) => "it is none of the property's values",
        None => "there is no such property",
    };
    Err(ZfsError::BadProperty {
        object: dataset.to_string(),
        property: property.to_owned(),
        value: value.to_owned(),
        reason: reason.to_owned(),
    })
}

fn refuse_cancelled(cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
    if cx.cancelled() { Err(ZfsError::Cancelled) } else { Ok(()) }
}

fn parse(name: &str) -> Result<Dataset, ZfsError> {
    Dataset::parse(name)
        .map_err(|error| ZfsError::Unreadable { what: "the fake pool".to_owned(), reason: error.to_string() })
}

fn failed(dataset: &Dataset, why: &str) -> ZfsError {
    ZfsError::Failed { what: format!("a step on {dataset}"), said: why.to_owned() }
}
