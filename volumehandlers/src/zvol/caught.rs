//! A panic in a library becomes an error: a bug in it must not end the node.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::zfs::{AgreedOf, Bookmark, Dataset, NewZvol, Room, SnapshotOf, Zfs, ZfsError, ZfsSnapshot, Zvol};
use crate::context::HandlerCx;

/// Does `call`; its panic is [`ZfsError::Panicked`]. What it was doing may have happened or not.
pub fn caught<T>(what: &str, call: impl FnOnce() -> Result<T, ZfsError>) -> Result<T, ZfsError> {
    // Nothing of ours is changed by `call` before its end, so nothing of ours can be half-changed.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let said = words_of(&*panic);
        tracing::error!(what, said, "a library panicked");
        Err(ZfsError::Panicked { what: what.to_owned(), said })
    })
}

/// Any [`Zfs`], with a panic in it kept from whoever asks.
#[derive(Debug, Clone)]
pub struct Guarded(Arc<dyn Zfs>);

impl Guarded {
    pub fn new(zfs: Arc<dyn Zfs>) -> Self {
        Guarded(zfs)
    }
}

impl Zfs for Guarded {
    fn room(&self, dataset: &Dataset) -> Result<Room, ZfsError> {
        caught("looking at the pool", || self.0.room(dataset))
    }

    fn volumes(&self, parent: &Dataset) -> Result<Vec<Zvol>, ZfsError> {
        caught("listing volumes", || self.0.volumes(parent))
    }

    fn volume(&self, dataset: &Dataset) -> Result<Zvol, ZfsError> {
        caught("looking at a volume", || self.0.volume(dataset))
    }

    fn create_volume(&self, dataset: &Dataset, new: &NewZvol, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        caught("making a volume", || self.0.create_volume(dataset, new, cx))
    }

    fn set_property(&self, dataset: &Dataset, property: &str, value: &str) -> Result<(), ZfsError> {
        caught("setting a property", || self.0.set_property(dataset, property, value))
    }

    fn destroy_volume(&self, dataset: &Dataset, cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        caught("destroying a volume", || self.0.destroy_volume(dataset, cx))
    }

    fn flush(&self, dataset: &Dataset) -> Result<(), ZfsError> {
        caught("flushing a volume", || self.0.flush(dataset))
    }

    fn user_of(&self, dataset: &Dataset) -> Result<Option<String>, ZfsError> {
        caught("looking for a user", || self.0.user_of(dataset))
    }

    fn snapshots(&self, dataset: &Dataset) -> Result<Vec<ZfsSnapshot>, ZfsError> {
        caught("listing snapshots", || self.0.snapshots(dataset))
    }

    fn bookmarks(&self, dataset: &Dataset) -> Result<Vec<Bookmark>, ZfsError> {
        caught("listing bookmarks", || self.0.bookmarks(dataset))
    }

    fn snapshot(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        caught("cutting snapshots", || self.0.snapshot(group, cx))
    }

    fn rollback(
        &self,
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        token: &str,
        cx: &HandlerCx<'_>,
    ) -> Result<(), ZfsError> {
        caught("rolling back", || self.0.rollback(group, agreed, token, cx))
    }

    fn destroy_snapshots(&self, group: &[SnapshotOf], cx: &HandlerCx<'_>) -> Result<(), ZfsError> {
        caught("destroying snapshots", || self.0.destroy_snapshots(group, cx))
    }
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_words() {
        let panicked = caught("listing", || -> Result<(), ZfsError> { panic!("at {}", 7) });
        let (what, said) = ("listing".to_owned(), "at 7".to_owned());
        assert_eq!(panicked, Err(ZfsError::Panicked { what, said }));
        assert_eq!(caught("listing", || Ok(5)), Ok(5));
    }
}
