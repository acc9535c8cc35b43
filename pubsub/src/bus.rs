//! Which topics there are, and who may publish each.
//!
//! A topic begins with the first one who names its type, publisher or subscriber; it never ends. It has one
//! publication, taken once: there is no other start than the start of the process.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};

use holdfast_types::Topic;

use crate::backing::RowBacking;
use crate::publication::Publication;
use crate::topic::TopicCell;

/// A handle on the bus; clones are the same bus.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    backing: Option<Arc<dyn RowBacking>>,
    /// `TopicCell<T>` by `T`.
    topics: Mutex<BTreeMap<TypeId, Named>>,
}

struct Named {
    name: &'static str,
    cell: Arc<dyn Any + Send + Sync>,
}

/// Why a topic cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error("{wanted_by} cannot publish {topic}: it belongs to {owner}")]
    Owned { topic: &'static str, owner: &'static str, wanted_by: &'static str },
    #[error("the rows of {topic} cannot be loaded for {owner}")]
    Load { topic: &'static str, owner: &'static str, source: io::Error },
    #[error("the damaged row {key} of {topic} cannot be moved to quarantine for {owner}")]
    Quarantine { topic: &'static str, owner: &'static str, key: String, source: io::Error },
}

impl Bus {
    /// Persistent topics keep their rows in `backing`. Without one they live as long as the bus, which is for
    /// tests of what is not about durability.
    pub fn new(backing: Option<Arc<dyn RowBacking>>) -> Self {
        Bus { inner: Arc::new(Inner { backing, topics: Mutex::default() }) }
    }

    /// The right to publish a topic; the second who asks is told who has it. A persistent topic's rows are read
    /// back here and told to those who subscribed already; a row that cannot be understood is moved to
    /// quarantine and listed in [`Publication::damaged`], and the others live ([003] G9).
    pub fn publication<T: Topic>(&self, owner: &'static str) -> Result<Publication<T>, BusError> {
        let topic = self.topic::<T>();
        topic.take_ownership(owner).map_err(|current| BusError::Owned {
            topic: T::NAME,
            owner: current,
            wanted_by: owner,
        })?;
        Publication::open(topic, self.inner.backing.clone(), owner)
    }

    /// The row as subscribers see it, if it exists.
    pub fn get<T: Topic>(&self, key: &T::Key) -> Option<Arc<T>> {
        self.topic::<T>().get(key)
    }

    /// All rows as subscribers see them, in the order of keys.
    pub fn rows<T: Topic>(&self) -> Vec<Arc<T>> {
        self.topic::<T>().rows()
    }

    /// How many mailboxes listen to the topic now.
    pub fn subscriber_count<T: Topic>(&self) -> usize {
        self.topic::<T>().subscriber_count()
    }

    pub fn backing(&self) -> Option<&Arc<dyn RowBacking>> {
        self.inner.backing.as_ref()
    }

    pub(crate) fn topic<T: Topic>(&self) -> Arc<TopicCell<T>> {
        let mut topics = self.inner.topics.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = topics.get(&TypeId::of::<T>()) {
            return Arc::clone(&known.cell).downcast().expect("a cell is kept under its own type");
        }
        let is_taken = topics.values().any(|known| known.name == T::NAME);
        assert!(!is_taken, "two types are named {} as topics", T::NAME);
        let cell = Arc::new(TopicCell::<T>::new());
        topics.insert(TypeId::of::<T>(), Named { name: T::NAME, cell: cell.clone() });
        cell
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Bus").field("backing", &self.inner.backing).finish_non_exhaustive()
    }
}
