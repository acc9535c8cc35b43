//! Which fields of a record are mandatory, as data.
//!
//! EVE tags the fields of its stored structs with `mandatory:"true"` and checks them by reflection when a
//! record is loaded ([003] H1). Rust has no reflection, so each record type says the same thing as a constant
//! [`Shape`]; `holdfast-persist` walks the JSON beside it. Names are the names in the JSON.
//!
//! Nothing here reads or writes anything.

/// The shape of one JSON value, as far as mandatory fields are concerned.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    /// Nothing below this value is checked.
    Any,
    /// An object with these fields; fields not named are not checked.
    Struct(&'static [Field]),
    /// An array whose every element has this shape.
    List(&'static Shape),
    /// An object used as a map, whose every value has this shape.
    Map(&'static Shape),
}

/// One named field of a [`Shape::Struct`].
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    /// True when a missing or null value is an error.
    pub mandatory: bool,
    /// Checked when the value is there.
    pub shape: &'static Shape,
    /// True when the field's own fields stand directly in the parent (Go's embedded struct, serde's `flatten`).
    pub flattened: bool,
}

impl Field {
    /// A field that must be there and not null.
    pub const fn mandatory(name: &'static str) -> Self {
        Field { name, mandatory: true, shape: &Shape::Any, flattened: false }
    }

    /// A field that may be missing; its shape is checked when it is there.
    pub const fn optional(name: &'static str) -> Self {
        Field { name, mandatory: false, shape: &Shape::Any, flattened: false }
    }

    /// Fields of an embedded struct, found in the parent object itself.
    pub const fn flattened(shape: &'static Shape) -> Self {
        Field { name: "", mandatory: false, shape, flattened: true }
    }

    /// The same field with a shape of its own.
    pub const fn of(self, shape: &'static Shape) -> Self {
        Field { name: self.name, mandatory: self.mandatory, shape, flattened: self.flattened }
    }
}

/// A value that is kept in a file and read back by later releases.
///
/// `FORMAT` is the number written as `FormatVersion`; a file without that field is format 1, which is also what
/// EVE writes. A file with a larger number than `FORMAT` was written by a newer release: it is refused and left
/// in place ([003] H2).
pub trait Record: serde::Serialize + serde::de::DeserializeOwned {
    /// What the record is called in messages.
    const NAME: &'static str;
    const FORMAT: u32 = 1;
    const SHAPE: Shape;
}
