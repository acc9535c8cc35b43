//! Walks a JSON value beside its [`Shape`] and collects what is missing ([003] H1).
//!
//! Input: a shape and a value. Output: every mandatory field that is missing or null, and every place where the
//! shape wants an object or an array and something else stands. Both as paths: a field after a dot, an element
//! as `[2]`, a map's value as `{key}`; an embedded struct's fields stand in their parent and add nothing.

use holdfast_types::{Field, Shape};
use serde_json::{Map, Value};

/// What the walk found, in the order of the shape.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub missing: Vec<String>,
    /// Sentences: `Volumes is a string, not an array`.
    pub misshapen: Vec<String>,
}

pub(crate) fn check(shape: &Shape, value: &Value) -> Findings {
    let mut findings = Findings::default();
    walk(shape, value, "", &mut findings);
    findings
}

/// The value without the null fields of objects whose shape is known, so that they take their defaults.
pub(crate) fn without_nulls(shape: &Shape, value: Value) -> Value {
    match (shape, value) {
        (Shape::Struct(fields), Value::Object(object)) => Value::Object(strip_object(fields, object)),
        (Shape::List(element), Value::Array(values)) => {
            values.into_iter().map(|value| without_nulls(element, value)).collect()
        }
        (Shape::Map(element), Value::Object(values)) => {
            values.into_iter().map(|(key, value)| (key, without_nulls(element, value))).collect()
        }
        (_, value) => value,
    }
}

/// True when the shape, or a struct embedded in it, has a field of this name.
pub(crate) fn names_field(shape: &Shape, name: &str) -> bool {
    let Shape::Struct(fields) = shape else { return false };
    fields
        .iter()
        .any(|field| if field.flattened { names_field(field.shape, name) } else { field.name == name })
}

/// The JSON type as a person says it.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn walk(shape: &Shape, value: &Value, path: &str, findings: &mut Findings) {
    match (shape, value) {
        (Shape::Any, _) => {}
        (Shape::Struct(fields), Value::Object(object)) => walk_fields(fields, object, path, findings),
        (Shape::List(element), Value::Array(values)) => {
            for (index, value) in values.iter().enumerate() {
                walk_element(element, value, format!("{path}[{index}]"), findings);
            }
        }
        (Shape::Map(element), Value::Object(values)) => {
            for (key, value) in values {
                walk_element(element, value, format!("{path}{{{key}}}"), findings);
            }
        }
        (Shape::Struct(_) | Shape::Map(_), _) => findings.misshapen(path, value, "an object"),
        (Shape::List(_), _) => findings.misshapen(path, value, "an array"),
    }
}

fn walk_fields(fields: &[Field], object: &Map<String, Value>, path: &str, findings: &mut Findings) {
    for field in fields {
        match (field.shape, object.get(field.name)) {
            (Shape::Struct(embedded), _) if field.flattened => walk_fields(embedded, object, path, findings),
            _ if field.flattened => {}
            (_, None | Some(Value::Null)) if field.mandatory => findings.missing.push(join(path, field.name)),
            (_, None | Some(Value::Null)) => {}
            (shape, Some(value)) => walk(shape, value, &join(path, field.name), findings),
        }
    }
}

/// An element has no say whether it is mandatory: where a shape is known below it, null is a hole.
fn walk_element(shape: &Shape, value: &Value, path: String, findings: &mut Findings) {
    match (shape, value) {
        (Shape::Any, _) => {}
        (_, Value::Null) => findings.missing.push(path),
        _ => walk(shape, value, &path, findings),
    }
}

fn strip_object(fields: &[Field], object: Map<String, Value>) -> Map<String, Value> {
    object
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let value = match shape_of(fields, &name) {
                Some(shape) => without_nulls(shape, value),
                None => value,
            };
            (name, value)
        })
        .collect()
}

fn shape_of(fields: &[Field], name: &str) -> Option<&'static Shape> {
    fields.iter().find_map(|field| match field.shape {
        Shape::Struct(embedded) if field.flattened => shape_of(embedded, name),
        shape => (!field.flattened && field.name == name).then_some(shape),
    })
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_string() } else { format!("{path}.{name}") }
}

impl Findings {
    fn misshapen(&mut self, path: &str, value: &Value, wanted: &str) {
        let place = if path.is_empty() { "the whole" } else { path };
        self.misshapen.push(format!("{place} is {}, not {wanted}", type_name(value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const INNER: Shape = Shape::Struct(&[Field::mandatory("m"), Field::optional("o")]);
    const MAP: Shape = Shape::Map(&Shape::Any);
    const OUTER: Shape = Shape::Struct(&[
        Field::mandatory("name"),
        Field::optional("inner").of(&INNER),
        Field::optional("anything").of(&Shape::List(&Shape::Any)),
        Field::flattened(&INNER),
        Field::flattened(&MAP),
    ]);

    fn missing(value: &Value) -> Vec<String> {
        let findings = check(&OUTER, value);
        assert_eq!(findings.misshapen, Vec::<String>::new());
        findings.missing
    }

    #[test]
    fn where_no_shape_is_known_a_null_is_a_value() {
        assert_eq!(missing(&json!({"name": 1, "m": 1, "anything": [null, 1]})), Vec::<String>::new());
    }

    #[test]
    fn an_embedded_map_has_no_name_that_could_be_missing() {
        assert_eq!(missing(&json!({})), ["name", "m"]);
    }

    #[test]
    fn a_name_is_looked_for_in_embedded_structs_and_not_in_those_that_have_a_name() {
        let known = ["name", "inner", "anything", "m", "o"];
        assert!(known.iter().all(|name| names_field(&OUTER, name)));
        assert!(!names_field(&OUTER, "other") && !names_field(&MAP, "name"));
        const NAMED: Shape = Shape::Struct(&[Field::optional("inner").of(&INNER)]);
        assert!(!names_field(&NAMED, "m"));
    }

    /// A null goes at every depth, whether the struct around it has a name or is embedded; elements stay.
    #[test]
    fn nulls_go_wherever_a_shape_is_known() {
        let value = json!({"name": "n", "inner": {"m": 1, "o": null}, "o": null, "anything": [null]});
        let expected = json!({"name": "n", "inner": {"m": 1}, "anything": [null]});
        assert_eq!(without_nulls(&OUTER, value), expected);
        // Of two fields of one name, the one embedded in the struct is not the one below a name.
        const DEEP: Shape = Shape::Struct(&[Field::mandatory("m").of(&INNER)]);
        const AROUND: Shape = Shape::Struct(&[Field::flattened(&DEEP)]);
        let value = json!({"m": {"m": 1, "o": null}});
        assert_eq!(without_nulls(&AROUND, value), json!({"m": {"m": 1}}));
        const BESIDE: Shape =
            Shape::Struct(&[Field::optional("inner").of(&INNER), Field::optional("o").of(&DEEP)]);
        let value = json!({"o": {"m": {"m": 1, "o": null}}});
        assert_eq!(without_nulls(&BESIDE, value), json!({"o": {"m": {"m": 1}}}));
    }
}
