//! A line that one may leave from the middle: oldest first, every operation in constant time.
//!
//! ```text
//!   head ─▶ slot ⇄ slot ⇄ slot ◀─ tail          free ─▶ slot ─▶ slot
//! ```
//!
//! Slots live in one vector and are used again, so that a subscriber that keeps up causes no allocation, and one
//! that lags holds as many slots as the line was ever long.

use std::num::NonZeroU32;

/// A place in the line, valid until what stands there leaves. Small, and smaller still in an `Option`: a new subscriber
/// to many rows holds some of these for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place(NonZeroU32);

impl Place {
    fn of_slot(at: usize) -> Self {
        let number = u32::try_from(at + 1).ok().and_then(NonZeroU32::new);
        Place(number.expect("a line has room for four billion"))
    }

    fn slot(self) -> usize {
        self.0.get() as usize - 1
    }
}

#[derive(Debug)]
pub(crate) struct Line<T> {
    slots: Vec<Slot<T>>,
    head: Option<Place>,
    tail: Option<Place>,
    free: Option<Place>,
    len: usize,
}

#[derive(Debug)]
enum Slot<T> {
    Taken { value: T, before: Option<Place>, after: Option<Place> },
    Free { next: Option<Place> },
}

impl<T> Line<T> {
    pub(crate) fn new() -> Self {
        Line { slots: Vec::new(), head: None, tail: None, free: None, len: 0 }
    }

    /// Makes room for this many more at once.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push_back(&mut self, value: T) -> Place {
        let slot = Slot::Taken { value, before: self.tail, after: None };
        let at = self.put_into_free_slot(slot);
        match self.tail {
            Some(tail) => *self.after_mut(tail) = Some(at),
            None => self.head = Some(at),
        }
        self.tail = Some(at);
        self.len += 1;
        at
    }

    pub(crate) fn pop_front(&mut self) -> Option<T> {
        self.head.map(|head| self.remove(head))
    }

    /// Oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut next = self.head;
        std::iter::from_fn(move || match &self.slots[next?.slot()] {
            Slot::Taken { value, after, .. } => {
                next = *after;
                Some(value)
            }
            Slot::Free { .. } => unreachable!("those in the line are taken"),
        })
    }

    pub(crate) fn get_mut(&mut self, place: Place) -> &mut T {
        match &mut self.slots[place.slot()] {
            Slot::Taken { value, .. } => value,
            Slot::Free { .. } => unreachable!("a place is used only while it is taken"),
        }
    }

    pub(crate) fn remove(&mut self, at: Place) -> T {
        let slot = std::mem::replace(&mut self.slots[at.slot()], Slot::Free { next: self.free });
        let Slot::Taken { value, before, after } = slot else {
            unreachable!("a place is used only while it is taken");
        };
        self.free = Some(at);
        self.len -= 1;
        match before {
            Some(before) => *self.after_mut(before) = after,
            None => self.head = after,
        }
        match after {
            Some(next) => *self.before_mut(next) = before,
            None => self.tail = before,
        }
        value
    }

    fn put_into_free_slot(&mut self, slot: Slot<T>) -> Place {
        match self.free {
            Some(at) => {
                if let Slot::Free { next } = std::mem::replace(&mut self.slots[at.slot()], slot) {
                    self.free = next;
                }
                at
            }
            None => {
                self.slots.push(slot);
                Place::of_slot(self.slots.len() - 1)
            }
        }
    }

    fn after_mut(&mut self, at: Place) -> &mut Option<Place> {
        match &mut self.slots[at.slot()] {
            Slot::Taken { after, .. } => after,
            Slot::Free { .. } => unreachable!("neighbours in the line are taken"),
        }
    }

    fn before_mut(&mut self, at: Place) -> &mut Option<Place> {
        match &mut self.slots[at.slot()] {
            Slot::Taken { before, .. } => before,
            Slot::Free { .. } => unreachable!("neighbours in the line are taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_may_leave_from_anywhere_and_the_slot_is_used_again() {
        let mut line = Line::new();
        let places: Vec<Place> = (0..5).map(|n| line.push_back(n)).collect();
        assert_eq!((line.remove(places[0]), line.remove(places[2]), line.remove(places[4])), (0, 2, 4));
        line.push_back(5);
        *line.get_mut(places[3]) = 33;
        assert_eq!(line.len(), 3);
        assert_eq!(line.iter().collect::<Vec<_>>(), [&1, &33, &5]);
        assert_eq!(std::iter::from_fn(|| line.pop_front()).collect::<Vec<_>>(), [1, 33, 5]);
        assert_eq!(line.pop_front(), None);
        line.push_back(6);
        assert_eq!((line.pop_front(), line.slots.len()), (Some(6), 5));
    }
}
