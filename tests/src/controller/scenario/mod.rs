//! A scenario: a story about one device, told in a YAML file and played against a controller.
//!
//! ```yaml
//! title: a snapshot and the way back
//! device: 00000000-0000-4000-8000-00000000000d
//! controller: http://127.0.0.1:8870        # or `start: { listen: ..., files: ... }` for one of its own
//! names:                                   # words that may stand for ids in all the steps
//!   db: 00000000-0000-4000-8000-0000000000db
//! steps:
//!   - say: version 1 goes out
//!   - edit:                                # one or several edits, pushed together: see edit.rs
//!       - add_app: { app: db, name: database, kernel: "${HOLDFAST_KERNEL}" }
//!   - expect: { app: db, state: RUNNING, version: 1, within: 30s }      # see expect.rs
//!   - push: { id: { uuid: "@device" }, apps: [] }    # a whole EdgeDevConfig as JSON; "@name" is an id
//!   - wait: 500ms
//! ```
//!
//! `${NAME}` anywhere is an environment variable. Reading a scenario checks all of it, so that nothing is pushed
//! from one with a mistake in its last step. Nothing here does I/O: the variables are passed in.

mod edit;
mod expect;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_agents::wire::config::EdgeDevConfig;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::json::{self, JsonError};

pub use edit::Edit;
pub use expect::{Expect, Mismatch, Subject};

/// A whole story, checked.
#[derive(Debug)]
pub struct Scenario {
    pub title: String,
    pub device: Uuid,
    pub controller: Where,
    pub names: Names,
    pub steps: Vec<Step>,
}

/// Which controller the story is played against, unless the player is told another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// One that runs already.
    At(String),
    /// One of the story's own.
    Start(Start),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Start {
    /// `host:port`; a free port of the loopback when absent.
    pub listen: Option<String>,
    pub state: Option<PathBuf>,
    pub files: Option<PathBuf>,
}

// A story has a few dozen of these.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Step {
    /// A line for the reader.
    Say(String),
    /// A whole new configuration.
    Push(EdgeDevConfig),
    /// Changes to the configuration in force at the controller.
    Edit(Vec<Edit>),
    Expect(Expect),
    Wait(Duration),
}

#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error("the scenario is not YAML")]
    Yaml(#[from] serde_yaml_ng::Error),
    #[error("the scenario mentions ${{{0}}}, which is not set")]
    Variable(String),
    #[error("in the scenario's head")]
    Head(#[source] serde_json::Error),
    #[error("the scenario names both a controller to use and one to start")]
    TwoControllers,
    // Counted as in the file, captions included.
    #[error("in entry {number} of the steps ({kind})")]
    Step {
        number: usize,
        kind: String,
        #[source]
        source: StepError,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("a step is one word with what belongs to it: say, push, edit, expect or wait")]
    Kind,
    #[error("it does not read")]
    Words(#[from] serde_json::Error),
    #[error("it is no configuration")]
    Config(#[from] JsonError),
    #[error("`@{0}` is not one of the scenario's names")]
    Name(String),
    #[error("an expectation is about one of app, volume and device")]
    Subject,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    title: String,
    device: Uuid,
    controller: Option<String>,
    start: Option<Start>,
    #[serde(default)]
    names: BTreeMap<String, String>,
    steps: Vec<Value>,
}

impl Scenario {
    /// Reads a scenario; `variable` looks up what `${NAME}` stands for.
    pub fn read(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Scenario, ScenarioError> {
        let mut value: Value = serde_yaml_ng::from_str(text)?;
        fill_in(&mut value, &variable)?;
        let head: Head = serde_json::from_value(value).map_err(ScenarioError::Head)?;
        let controller = match (head.controller, head.start) {
            (Some(_), Some(_)) => return Err(ScenarioError::TwoControllers),
            (Some(url), None) => Where::At(url),
            (None, start) => Where::Start(start.unwrap_or_default()),
        };
        let mut ids = head.names;
        ids.insert("device".into(), head.device.to_string());
        let names = Names { ids };
        let steps = head.steps.iter().enumerate().map(|(index, step)| read_step(index + 1, step, &names));
        let steps = steps.collect::<Result<_, _>>()?;
        Ok(Scenario { title: head.title, device: head.device, controller, names, steps })
    }
}

/// The words that stand for ids.
#[derive(Debug, Clone, Default)]
pub struct Names {
    ids: BTreeMap<String, String>,
}

impl Names {
    /// The id a word stands for; a word that is no name is an id itself.
    pub fn id<'a>(&'a self, word: &'a str) -> &'a str {
        self.ids.get(word).map_or(word, String::as_str)
    }

    /// The name of an id, to be shown to people; the id itself when it has none.
    pub fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.ids.iter().find(|(_, known)| *known == id).map_or(id, |(name, _)| name)
    }
}

fn read_step(number: usize, step: &Value, names: &Names) -> Result<Step, ScenarioError> {
    let single = step.as_object().filter(|step| step.len() == 1).and_then(|step| step.iter().next());
    let Some((kind, content)) = single else {
        return Err(ScenarioError::Step { number, kind: "?".into(), source: StepError::Kind });
    };
    read_content(kind, content, names).map_err(|source| ScenarioError::Step {
        number,
        kind: kind.clone(),
        source,
    })
}

fn read_content(kind: &str, content: &Value, names: &Names) -> Result<Step, StepError> {
    match kind {
        "say" => Ok(Step::Say(serde_json::from_value(content.clone())?)),
        "push" => Ok(Step::Push(json::from_value(&with_ids(content, names)?)?)),
        "edit" => {
            let edits = if content.is_array() { content.clone() } else { Value::from(vec![content.clone()]) };
            Ok(Step::Edit(serde_json::from_value(edits)?))
        }
        "expect" => Ok(Step::Expect(Expect::read(content)?)),
        "wait" => Ok(Step::Wait(words::duration(content.clone())?)),
        _ => Err(StepError::Kind),
    }
}

/// Replaces every `"@name"` by its id.
fn with_ids(value: &Value, names: &Names) -> Result<Value, StepError> {
    Ok(match value {
        Value::String(text) => match text.strip_prefix('@') {
            Some(name) => {
                let id = names.ids.get(name).ok_or_else(|| StepError::Name(name.to_owned()))?;
                Value::from(id.clone())
            }
            None => value.clone(),
        },
        Value::Array(list) => list.iter().map(|part| with_ids(part, names)).collect::<Result<_, _>>()?,
        Value::Object(object) => {
            let parts = object.iter().map(|(key, part)| Ok((key.clone(), with_ids(part, names)?)));
            Value::Object(parts.collect::<Result<_, StepError>>()?)
        }
        other => other.clone(),
    })
}

/// Replaces every `${NAME}` in every text by the variable's value.
fn fill_in(value: &mut Value, variable: &impl Fn(&str) -> Option<String>) -> Result<(), ScenarioError> {
    match value {
        Value::String(text) => *text = filled_in(text, variable)?,
        Value::Array(list) => list.iter_mut().try_for_each(|part| fill_in(part, variable))?,
        Value::Object(object) => object.values_mut().try_for_each(|part| fill_in(part, variable))?,
        _ => {}
    }
    Ok(())
}

fn filled_in(text: &str, variable: &impl Fn(&str) -> Option<String>) -> Result<String, ScenarioError> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, behind)) = after.split_once('}') else { break };
        filled.push_str(before);
        filled.push_str(&variable(name).ok_or_else(|| ScenarioError::Variable(name.to_owned()))?);
        rest = behind;
    }
    Ok(filled + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "device: 00000000-0000-4000-8000-00000000000d\nnames: { db: app-id }\n";

    fn read(rest: &str) -> Result<Scenario, ScenarioError> {
        Scenario::read(&format!("{HEAD}{rest}"), |name| (name == "K").then(|| "/boot/k".to_owned()))
    }

    /// An error with its causes, as the program prints it.
    fn complaint(rest: &str) -> String {
        format!("{:#}", anyhow::Error::from(read(rest).unwrap_err()))
    }

    #[test]
    fn names_and_variables_are_filled_in() {
        let scenario = read(
            "steps:\n- push: { id: { uuid: '@device' }, apps: [{ uuidandversion: { uuid: '@db' },\n    \
             fixedresources: { kernel: 'a${K}b' } }] }",
        )
        .unwrap();
        let [Step::Push(config)] = &scenario.steps[..] else { panic!("{scenario:?}") };
        assert_eq!(config.id.as_ref().unwrap().uuid, "00000000-0000-4000-8000-00000000000d");
        assert_eq!(config.apps[0].uuidandversion.as_ref().unwrap().uuid, "app-id");
        assert_eq!(config.apps[0].fixedresources.as_ref().unwrap().kernel, "a/boot/kb");
        assert_eq!((scenario.names.id("db"), scenario.names.name("app-id")), ("app-id", "db"));
        assert_eq!((scenario.names.id("other"), scenario.names.name("other")), ("other", "other"));
    }

    #[test]
    fn a_mistake_is_named_with_its_step() {
        for (rest, expected) in [
            ("steps: [", "the scenario is not YAML: "),
            ("stepz: []", "in the scenario's head: unknown field `stepz`"),
            ("controller: http://a\nstart: {}\nsteps: []", "the scenario names both"),
            ("steps: [{ say: '${NOWHERE}' }]", "the scenario mentions ${NOWHERE}, which is not set"),
            ("steps: [{ say: a }, { shout: b }]", "in entry 2 of the steps (shout): a step is one word"),
            ("steps: [{ say: a, wait: 1s }]", "in entry 1 of the steps (?): a step is one word"),
            (
                "steps: [{ wait: soon }]",
                "in entry 1 of the steps (wait): it does not read: `soon` is not a duration",
            ),
            (
                "steps: [{ edit: { add_apple: 1 } }]",
                "in entry 1 of the steps (edit): it does not read: unknown variant `add_apple`",
            ),
            (
                "steps: [{ edit: { roll_back: { app: db } } }]",
                "in entry 1 of the steps (edit): it does not read: missing field",
            ),
            (
                "steps: [{ push: { appz: [] } }]",
                "in entry 1 of the steps (push): it is no configuration: EdgeDevConfig.appz",
            ),
            (
                "steps: [{ push: { deviceName: '@web' } }]",
                "in entry 1 of the steps (push): `@web` is not one of",
            ),
            (
                "steps: [{ expect: { state: RUNNING } }]",
                "in entry 1 of the steps (expect): an expectation is about one of",
            ),
            (
                "steps: [{ expect: { app: db, state: FLYING } }]",
                "in entry 1 of the steps (expect): it does not read: `FLYING`",
            ),
            (
                "steps: [{ expect: { app: db, stat: X } }]",
                "in entry 1 of the steps (expect): it does not read: unknown field",
            ),
        ] {
            let said = complaint(rest);
            assert!(said.starts_with(expected), "{rest}\n  said:     {said}\n  expected: {expected}");
        }
    }
}
