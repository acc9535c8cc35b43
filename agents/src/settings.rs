//! The settings of a node, from four places; the first that names a setting wins.
//!
//! ```text
//!   flag (--poll-interval 5s) ─▶ environment (HOLDFAST_POLL_INTERVAL=5s) ─▶ file (poll_interval = "5s") ─▶ default
//! ```
//!
//! In: what each place says, as text, gathered by `settings/layers.rs`. Out: [`Settings`], every value legal, or a
//! [`SettingsError`] that names the setting as its place spells it, the value, and what was expected. An empty
//! environment variable counts as not set, as systemd's units leave them.
//!
//! Deliberately absent: whether a directory exists or a controller answers. That is for who uses the setting.

pub mod layers;
pub mod values;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_persist::reserve::RESERVE_SIZE_BYTES;
use holdfast_types::DeviceId;

pub use layers::{Layers, default_config_file};
pub use values::{LogFormat, ZfsChoice};

use crate::domainmgr::vmm::Accel;

/// Where the node listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/holdfast/holdfast.sock";

/// A setting, by the name it has in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    Persist,
    Controller,
    Device,
    Socket,
    Accel,
    Zfs,
    PollInterval,
    GuestShutdown,
    Drain,
    Reserve,
    MaxFailedStarts,
    Log,
    LogFormat,
}

impl Key {
    pub const ALL: [Key; 13] = [
        Key::Persist,
        Key::Controller,
        Key::Device,
        Key::Socket,
        Key::Accel,
        Key::Zfs,
        Key::PollInterval,
        Key::GuestShutdown,
        Key::Drain,
        Key::Reserve,
        Key::MaxFailedStarts,
        Key::Log,
        Key::LogFormat,
    ];

    /// The key in the configuration file.
    pub fn name(self) -> &'static str {
        match self {
            Key::Persist => "persist",
            Key::Controller => "controller",
            Key::Device => "device",
            Key::Socket => "socket",
            Key::Accel => "accel",
            Key::Zfs => "zfs",
            Key::PollInterval => "poll_interval",
            Key::GuestShutdown => "guest_shutdown",
            Key::Drain => "drain",
            Key::Reserve => "reserve",
            Key::MaxFailedStarts => "max_failed_starts",
            Key::Log => "log",
            Key::LogFormat => "log_format",
        }
    }

    pub fn flag(self) -> String {
        format!("--{}", self.name().replace('_', "-"))
    }

    pub fn variable(self) -> String {
        format!("HOLDFAST_{}", self.name().to_uppercase())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Flag,
    Environment,
    File(PathBuf),
    Default,
}

/// A setting as its place spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub key: Key,
    pub source: Source,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Flag => write!(f, "{}", self.key.flag()),
            Source::Environment => write!(f, "environment variable {}", self.key.variable()),
            Source::File(file) => write!(f, "`{}` in {}", self.key.name(), file.display()),
            Source::Default => write!(f, "the default of `{}`", self.key.name()),
        }
    }
}

/// Why the settings are not usable. Every one of them is for the operator to put right.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{place} is \"{text}\": {expected}")]
    Wrong { place: Place, text: String, expected: String },
    #[error(
        "no {what}: give {}, set {}, or write `{}` in the configuration file",
        key.flag(), key.variable(), key.name()
    )]
    Missing { key: Key, what: &'static str },
    #[error("{}: unknown setting `{key}`{}", file.display(), suggested(.suggestion))]
    UnknownKey { file: PathBuf, key: String, suggestion: Option<&'static str> },
    #[error("{}: `{key}` is {found}, where a text or a number is expected", file.display())]
    WrongKind { file: PathBuf, key: &'static str, found: &'static str },
    #[error("cannot read the configuration file {}", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{} is not TOML", file.display())]
    Syntax { file: PathBuf, source: Box<toml::de::Error> },
}

fn suggested(suggestion: &Option<&'static str>) -> String {
    suggestion.map(|key| format!(" (did you mean `{key}`?)")).unwrap_or_default()
}

/// Everything `holdfast node` can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where everything that must last is kept. Absolute.
    pub persist: PathBuf,
    /// The controller's address, `http://host[:port][/path]`.
    pub controller: String,
    pub device: DeviceId,
    /// The API's Unix socket. Absolute.
    pub socket: PathBuf,
    pub accelerator: Accel,
    /// How ZFS is driven where the persist directory lies on it.
    pub zfs: ZfsChoice,
    /// Between two questions to the controller.
    pub poll_interval: Duration,
    /// How long a guest may take to shut down before it is stopped by force ([003] B2).
    pub guest_shutdown: Duration,
    /// How long running jobs may take to end after SIGTERM before they are left to be done again.
    pub drain: Duration,
    /// Size of the file that is given up when the disk is full.
    pub reserve_bytes: u64,
    /// After so many failed starts in a row the node comes up read-only; 0 means never.
    pub max_failed_starts: u32,
    /// A filter as `tracing` knows them: `info`, `debug`, `info,holdfast_agents::volumemgr=debug`.
    pub log: String,
    pub log_format: LogFormat,
}

impl Settings {
    /// Settings from what the places say.
    pub fn resolve(layers: &Layers) -> Result<Settings, SettingsError> {
        Ok(Settings {
            persist: layers.required(Key::Persist, "persist directory", values::path)?,
            controller: layers.required(Key::Controller, "controller address", values::controller)?,
            device: layers.required(Key::Device, "device id", values::device)?,
            socket: resolve_socket(layers)?,
            accelerator: layers.or(Key::Accel, Accel::Auto, values::accelerator)?,
            zfs: layers.or(Key::Zfs, ZfsChoice::Auto, values::zfs)?,
            poll_interval: layers.or(Key::PollInterval, Duration::from_secs(10), values::poll_interval)?,
            guest_shutdown: layers.or(Key::GuestShutdown, Duration::from_secs(60), values::duration)?,
            drain: layers.or(Key::Drain, Duration::from_secs(30), values::duration)?,
            reserve_bytes: layers.or(Key::Reserve, RESERVE_SIZE_BYTES, values::size)?,
            max_failed_starts: layers.or(Key::MaxFailedStarts, 3, values::count)?,
            log: layers.or(Key::Log, "info".to_string(), values::log_filter)?,
            log_format: layers.or(Key::LogFormat, LogFormat::Text, values::log_format)?,
        })
    }
}

/// The one setting that clients share with the node.
pub fn resolve_socket(layers: &Layers) -> Result<PathBuf, SettingsError> {
    layers.or(Key::Socket, PathBuf::from(DEFAULT_SOCKET), values::socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use layers::Values;

    const DEVICE: &str = "11111111-2222-3333-4444-555555555555";

    fn says(pairs: &[(Key, &str)]) -> Values {
        pairs.iter().map(|(key, text)| (*key, text.to_string())).collect()
    }

    fn enough() -> Vec<(Key, &'static str)> {
        vec![(Key::Persist, "/p"), (Key::Controller, "http://c:1"), (Key::Device, DEVICE)]
    }

    fn layers(flags: &[(Key, &str)], environment: &[(Key, &str)], file: &[(Key, &str)]) -> Layers {
        let mut in_file = enough();
        in_file.extend(file.iter().copied().map(|(key, text)| (key, leak(text))));
        Layers {
            flags: says(flags),
            environment: says(environment),
            file: Some((PathBuf::from("/etc/h.toml"), says(&in_file))),
        }
    }

    fn leak(text: &str) -> &'static str {
        Box::leak(text.to_string().into_boxed_str())
    }

    #[test]
    fn the_first_place_that_names_a_setting_wins() {
        type Says = Option<&'static str>;
        let table: [(Says, Says, Says, u64); 8] = [
            (None, None, None, 10),
            (None, None, Some("4s"), 4),
            (None, Some("3s"), None, 3),
            (None, Some("3s"), Some("4s"), 3),
            (Some("2s"), None, None, 2),
            (Some("2s"), None, Some("4s"), 2),
            (Some("2s"), Some("3s"), None, 2),
            (Some("2s"), Some("3s"), Some("4s"), 2),
        ];
        for (flag, variable, file, seconds) in table {
            let at = |says: Says| says.map(|text| (Key::PollInterval, text)).into_iter().collect::<Vec<_>>();
            let settings = Settings::resolve(&layers(&at(flag), &at(variable), &at(file))).unwrap();
            let expected = Duration::from_secs(seconds);
            assert_eq!(settings.poll_interval, expected, "{flag:?} {variable:?} {file:?}");
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place_and_no_later_place_covers_it_up() {
        let table = [
            (
                layers(&[(Key::Accel, "xen")], &[(Key::Accel, "tcg")], &[]),
                "--accel is \"xen\": one of auto, kvm, tcg is expected",
            ),
            (
                layers(&[], &[(Key::PollInterval, "soon")], &[]),
                "environment variable HOLDFAST_POLL_INTERVAL is \"soon\": a time such as 500ms, 10s or 2m is expected",
            ),
            (
                layers(&[], &[], &[(Key::Device, "node-1")]),
                "`device` in /etc/h.toml is \"node-1\": a UUID of 36 characters is expected",
            ),
            (
                layers(&[(Key::Controller, "https://c")], &[], &[]),
                "--controller is \"https://c\": TLS is not spoken yet, an http:// address is expected",
            ),
            (
                layers(&[(Key::LogFormat, "xml")], &[], &[]),
                "--log-format is \"xml\": one of text, json is expected",
            ),
        ];
        for (layers, message) in table {
            assert_eq!(Settings::resolve(&layers).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn what_has_no_default_is_asked_for_in_all_its_spellings() {
        let missing = Settings::resolve(&Layers::default()).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "no persist directory: give --persist, set HOLDFAST_PERSIST, or write `persist` in the configuration file"
        );
    }

    #[test]
    fn every_setting_has_its_own_spellings() {
        let names: std::collections::BTreeSet<_> = Key::ALL.iter().map(|key| key.name()).collect();
        assert_eq!(names.len(), Key::ALL.len());
        assert_eq!(Key::PollInterval.flag(), "--poll-interval");
        assert_eq!(Key::PollInterval.variable(), "HOLDFAST_POLL_INTERVAL");
    }
}
