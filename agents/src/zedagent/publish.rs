//! What is in force goes on the bus: the difference to what is there already.

use holdfast_types::{AppInstanceConfig, ContentTreeConfig, DatastoreConfig, Topic, VolumeConfig};

use super::Zedagent;
use super::parse::InForce;
use crate::runtime::Ctx;

/// A row that is equal already is silent. In the order of need: what an object stands on is there before it, and goes after it.
pub(super) fn publish(next: &InForce, cx: &mut Ctx<Zedagent>) {
    next.datastores.values().for_each(|passed| cx.publish(passed.config.clone()));
    next.content_trees.values().for_each(|passed| cx.publish(passed.config.clone()));
    next.volumes.values().for_each(|passed| cx.publish(passed.config.clone()));
    next.apps.values().for_each(|passed| cx.publish(passed.config.clone()));
    unpublish_others::<AppInstanceConfig>(cx, |app| next.apps.contains_key(app));
    unpublish_others::<VolumeConfig>(cx, |volume| next.volumes.contains_key(volume));
    unpublish_others::<ContentTreeConfig>(cx, |tree| next.content_trees.contains_key(tree));
    unpublish_others::<DatastoreConfig>(cx, |datastore| next.datastores.contains_key(datastore));
}

fn unpublish_others<T: Topic>(cx: &mut Ctx<Zedagent>, stays: impl Fn(&T::Key) -> bool) {
    for row in cx.rows::<T>() {
        let key = row.key();
        if !stays(&key) {
            cx.unpublish::<T>(&key);
        }
    }
}
