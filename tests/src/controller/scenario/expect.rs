//! What a scenario expects of the device's newest reports.
//!
//! ```yaml
//! - expect: { app: db, state: RUNNING, version: 2, snapshots: [s1], failed_snapshots: [], within: 30s, stays: 2s }
//! - expect: { app: db, error: "Rollback blocked" }     # or `no_error: true`
//! - expect: { app: db, gone: true }                    # reported as deleted, or never reported
//! - expect: { volume: root, generation: 2, state: CREATED_VOLUME }
//! - expect: { device: true, config_in_force: true }    # the node has this very configuration
//! ```
//!
//! What is not said is not checked. `snapshots` are all that are available, in any order, `failed_snapshots` all
//! that carry an error. `within` is the time to get there (10s), `stays` how long it then must remain so.
//! Judging is pure; waiting is the player's.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use holdfast_agents::wire::info::{ErrorInfo, ZInfoVolume, ZSwState};
use serde::Deserialize;
use serde_json::Value;

use super::{Names, StepError, words};
use crate::controller::{Device, ObjectKey};

const DEFAULT_WITHIN: Duration = Duration::from_secs(10);

/// An expectation with its deadline.
#[derive(Debug, Clone)]
pub struct Expect {
    pub subject: Subject,
    pub within: Duration,
    pub stays: Duration,
}

#[derive(Debug, Clone)]
pub enum Subject {
    App(AppExpect),
    Volume(VolumeExpect),
    Device(DeviceExpect),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppExpect {
    app: String,
    #[serde(default, deserialize_with = "words::optional_state")]
    state: Option<ZSwState>,
    #[serde(default, deserialize_with = "words::optional_text")]
    version: Option<String>,
    snapshots: Option<BTreeSet<String>>,
    failed_snapshots: Option<BTreeSet<String>>,
    /// A part of one of the app's or its snapshots' errors.
    error: Option<String>,
    #[serde(default)]
    no_error: bool,
    #[serde(default)]
    gone: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeExpect {
    volume: String,
    /// The newest one reported when absent.
    generation: Option<i64>,
    #[serde(default, deserialize_with = "words::optional_state")]
    state: Option<ZSwState>,
    error: Option<String>,
    #[serde(default)]
    no_error: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceExpect {
    #[serde(rename = "device")]
    _device: bool,
    #[serde(default)]
    config_in_force: bool,
    /// A part of the reason why the configuration is not in force.
    config_error: Option<String>,
    #[serde(default)]
    no_error: bool,
}

/// The deadlines, which all subjects have.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Deadlines {
    #[serde(deserialize_with = "words::optional_duration")]
    within: Option<Duration>,
    #[serde(deserialize_with = "words::optional_duration")]
    stays: Option<Duration>,
}

/// All that is not as expected, each in a few words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch(pub Vec<String>);

impl fmt::Display for Mismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("; "))
    }
}

impl Expect {
    pub(super) fn read(content: &Value) -> Result<Expect, StepError> {
        let Value::Object(object) = content else { return Err(StepError::Subject) };
        let deadlines: Deadlines = serde_json::from_value(content.clone())?;
        let mut words = object.clone();
        words.retain(|word, _| word != "within" && word != "stays");
        let about = |subject| words.contains_key(subject);
        let words = || Value::Object(words.clone());
        let subject = match (about("app"), about("volume"), about("device")) {
            (true, false, false) => Subject::App(serde_json::from_value(words())?),
            (false, true, false) => Subject::Volume(serde_json::from_value(words())?),
            (false, false, true) => Subject::Device(serde_json::from_value(words())?),
            _ => return Err(StepError::Subject),
        };
        let within = deadlines.within.unwrap_or(DEFAULT_WITHIN);
        Ok(Expect { subject, within, stays: deadlines.stays.unwrap_or_default() })
    }

    /// Compares with what the device reported last.
    pub fn check(&self, device: &Device, names: &Names) -> Result<(), Mismatch> {
        let mut found = Findings::default();
        match &self.subject {
            Subject::App(expected) => expected.check(device, names, &mut found),
            Subject::Volume(expected) => expected.check(device, names, &mut found),
            Subject::Device(expected) => expected.check(device, &mut found),
        }
        if found.0.is_empty() { Ok(()) } else { Err(Mismatch(found.0)) }
    }

    /// The expectation in a few words, for the timeline.
    pub fn in_words(&self) -> String {
        match &self.subject {
            Subject::App(expected) => expected.in_words(),
            Subject::Volume(expected) => expected.in_words(),
            Subject::Device(expected) => expected.in_words(),
        }
    }
}

/// Collects what is not as expected.
#[derive(Debug, Default)]
struct Findings(Vec<String>);

impl Findings {
    fn compare<T: PartialEq>(&mut self, what: &str, is: T, expected: Option<T>, show: impl Fn(&T) -> String) {
        if let Some(expected) = expected.filter(|expected| *expected != is) {
            self.0.push(format!("{what} is {}, not {}", show(&is), show(&expected)));
        }
    }

    fn errors(&mut self, errors: &[&ErrorInfo], wanted: Option<&str>, none_wanted: bool) {
        let said: Vec<&str> = errors.iter().map(|error| error.description.as_str()).collect();
        if none_wanted && !said.is_empty() {
            self.0.push(format!("there is an error: {}", said.join("; ")));
        }
        if let Some(wanted) = wanted.filter(|wanted| !said.iter().any(|said| said.contains(wanted))) {
            let said = if said.is_empty() { "no error".into() } else { said.join("; ") };
            self.0.push(format!("no error says \"{wanted}\": {said}"));
        }
    }
}

impl AppExpect {
    fn check(&self, device: &Device, names: &Names, found: &mut Findings) {
        // EVE reports a deleted application once more, with nothing but its id.
        let report = device.app(names.id(&self.app)).filter(|report| report.state() != ZSwState::Invalid);
        let Some(report) = report else {
            if !self.gone {
                found.0.push(format!("nothing is reported about {}", self.app));
            }
            return;
        };
        if self.gone {
            found.0.push(format!("it is still reported as {}", state_name(&report.state())));
            return;
        }
        found.compare("state", report.state(), self.state, state_name);
        found.compare("version", report.app_version.clone(), self.version.clone(), |version| shown(version));
        let ids = |failed: bool| -> BTreeSet<String> {
            let chosen = report.snapshots.iter().filter(|snapshot| snapshot.snap_err.is_some() == failed);
            chosen.map(|snapshot| snapshot.id.clone()).collect()
        };
        let expected = |words: &Option<BTreeSet<String>>| -> Option<BTreeSet<String>> {
            words.as_ref().map(|words| words.iter().map(|word| names.id(word).to_owned()).collect())
        };
        let show = |ids: &BTreeSet<String>| list(ids.iter().map(|id| names.name(id)));
        found.compare("the list of snapshots", ids(false), expected(&self.snapshots), show);
        found.compare("the list of failed snapshots", ids(true), expected(&self.failed_snapshots), show);
        let of_snapshots = report.snapshots.iter().filter_map(|snapshot| snapshot.snap_err.as_ref());
        let errors: Vec<&ErrorInfo> = report.app_err.iter().chain(of_snapshots).collect();
        found.errors(&errors, self.error.as_deref(), self.no_error);
    }

    fn in_words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.state.as_ref().map(state_name));
        words.extend(self.version.as_ref().map(|version| format!("version {version}")));
        words.extend(self.snapshots.as_ref().map(|ids| format!("snapshots {}", list(ids.iter()))));
        words.extend(
            self.failed_snapshots.as_ref().map(|ids| format!("failed snapshots {}", list(ids.iter()))),
        );
        words.extend(self.error.as_ref().map(|error| format!("error \"{error}\"")));
        words.extend(self.no_error.then(|| "no error".to_owned()));
        words.extend(self.gone.then(|| "gone".to_owned()));
        format!("app {}: {}", self.app, words.join(", "))
    }
}

impl VolumeExpect {
    fn check(&self, device: &Device, names: &Names, found: &mut Findings) {
        let id = names.id(&self.volume);
        let Some(report) = self.report(device, id) else {
            found.0.push(format!("nothing is reported about {}", self.volume));
            return;
        };
        found.compare("state", report.state(), self.state, state_name);
        let errors: Vec<&ErrorInfo> = report.volume_err.iter().collect();
        found.errors(&errors, self.error.as_deref(), self.no_error);
    }

    fn report<'a>(&self, device: &'a Device, id: &str) -> Option<&'a ZInfoVolume> {
        let newest = || {
            let generations = device.latest().keys().filter_map(|key| match key {
                ObjectKey::Volume(volume, generation) if volume == id => Some(*generation),
                _ => None,
            });
            generations.max()
        };
        device.volume(id, self.generation.or_else(newest)?)
    }

    fn in_words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.generation.map(|generation| format!("generation {generation}")));
        words.extend(self.state.as_ref().map(state_name));
        words.extend(self.error.as_ref().map(|error| format!("error \"{error}\"")));
        words.extend(self.no_error.then(|| "no error".to_owned()));
        format!("volume {}: {}", self.volume, words.join(", "))
    }
}

impl DeviceExpect {
    fn check(&self, device: &Device, found: &mut Findings) {
        let own = device.own_report().and_then(|report| report.holdfast.as_ref());
        let Some(own) = own else {
            found.0.push("the device reported nothing about its configuration".into());
            return;
        };
        if self.config_in_force && own.config_hash != device.hash() {
            found.0.push(format!(
                "the configuration in force is `{}`, not `{}`",
                own.config_hash,
                device.hash()
            ));
        }
        let errors: Vec<&ErrorInfo> = own.config_error.iter().collect();
        found.errors(&errors, self.config_error.as_deref(), self.no_error);
    }

    fn in_words(&self) -> String {
        let mut words = Vec::new();
        words.extend(self.config_in_force.then(|| "configuration in force".to_owned()));
        words.extend(self.config_error.as_ref().map(|error| format!("configuration error \"{error}\"")));
        words.extend(self.no_error.then(|| "no error".to_owned()));
        format!("device: {}", words.join(", "))
    }
}

fn state_name(state: &ZSwState) -> String {
    state.as_str_name().to_owned()
}

fn shown(text: &str) -> String {
    if text.is_empty() { "not set".into() } else { text.to_owned() }
}

fn list(words: impl Iterator<Item = impl fmt::Display>) -> String {
    let words: Vec<String> = words.map(|word| word.to_string()).collect();
    format!("[{}]", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{ControllerCore, DeviceConfig, config_hash, json};
    use serde_json::json;
    use uuid::Uuid;

    const DEVICE: Uuid = Uuid::from_u128(0xd);

    fn reported(reports: &[Value]) -> ControllerCore {
        let mut core = ControllerCore::new();
        core.set_config(DEVICE, DeviceConfig::new(DEVICE).into_message());
        for report in reports {
            core.record_info(DEVICE, json::from_value(report).unwrap()).unwrap();
        }
        core
    }

    fn verdict(core: &ControllerCore, expected: Value) -> String {
        let expect = Expect::read(&expected).unwrap();
        match expect.check(core.device(DEVICE).unwrap(), &Names::default()) {
            Ok(()) => "as expected".into(),
            Err(mismatch) => mismatch.to_string(),
        }
    }

    #[test]
    fn an_application_is_compared_in_what_was_said_of_it() {
        let core = reported(&[json!({ "ztype": "ZiApp", "ainfo": {
            "AppID": "db", "appVersion": "2", "state": "RUNNING",
            "appErr": [{ "description": "Rollback blocked" }],
            "snapshots": [{ "id": "s1" }, { "id": "s2", "snapErr": { "description": "disk full" } }]
        } })]);
        for (expected, said) in [
            (json!({ "app": "db" }), "as expected"),
            (json!({ "app": "db", "state": "RUNNING", "version": 2, "snapshots": ["s1"] }), "as expected"),
            (json!({ "app": "db", "failed_snapshots": ["s2"], "error": "disk" }), "as expected"),
            (
                json!({ "app": "db", "state": "HALTED", "version": "1" }),
                "state is RUNNING, not HALTED; version is 2, not 1",
            ),
            (json!({ "app": "db", "snapshots": [] }), "the list of snapshots is [s1], not []"),
            (json!({ "app": "db", "no_error": true }), "there is an error: Rollback blocked; disk full"),
            (json!({ "app": "db", "error": "x" }), "no error says \"x\": Rollback blocked; disk full"),
            (json!({ "app": "db", "gone": true }), "it is still reported as RUNNING"),
            (json!({ "app": "web" }), "nothing is reported about web"),
            (json!({ "app": "web", "gone": true }), "as expected"),
        ] {
            assert_eq!(verdict(&core, expected.clone()), said, "{expected}");
        }
        let core = reported(&[json!({ "ztype": "ZiApp", "ainfo": { "AppID": "db" } })]);
        assert_eq!(verdict(&core, json!({ "app": "db", "gone": true })), "as expected");
    }

    #[test]
    fn a_volume_is_its_newest_generation_unless_said_otherwise() {
        let volume = |generation: u32, state: &str| json!({ "ztype": "ZiVolume", "vinfo": { "uuid": "v", "generationCount": generation, "state": state } });
        let core = reported(&[volume(2, "CREATING_VOLUME"), volume(1, "CREATED_VOLUME")]);
        assert_eq!(verdict(&core, json!({ "volume": "v", "state": "CREATING_VOLUME" })), "as expected");
        assert_eq!(
            verdict(&core, json!({ "volume": "v", "generation": 1, "state": "LOADED" })),
            "state is CREATED_VOLUME, not LOADED"
        );
    }

    #[test]
    fn the_configuration_in_force_is_known_by_its_hash() {
        let hash = config_hash(DeviceConfig::new(DEVICE).message());
        let own =
            |hash: &str| json!({ "ztype": "ZiDevice", "dinfo": { "holdfast": { "configHash": hash } } });
        let expected = json!({ "device": true, "config_in_force": true, "no_error": true });
        assert_eq!(verdict(&reported(&[own(&hash)]), expected.clone()), "as expected");
        assert!(
            verdict(&reported(&[own("old")]), expected).starts_with("the configuration in force is `old`")
        );
    }
}
