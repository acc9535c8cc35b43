//! What each place says about the settings, as text: flags, environment, and the configuration file.
//!
//! The file is TOML with one key per setting and nothing else. A key that is no setting is an error and not a
//! warning: a setting that silently does nothing is found out on the day it was meant for.

#![allow(clippy::disallowed_methods, reason = "read once, before there is a node")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Key, Place, SettingsError, Source};

/// What one place says.
pub type Values = BTreeMap<Key, String>;

const DEFAULT_CONFIG_FILE: &str = "/etc/holdfast/holdfast.toml";

/// All places, strongest first.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    pub flags: Values,
    pub environment: Values,
    pub file: Option<(PathBuf, Values)>,
}

/// The file that is read when none is named, if it is there.
pub fn default_config_file() -> &'static Path {
    Path::new(DEFAULT_CONFIG_FILE)
}

impl Layers {
    /// Reads the environment through `variable`, and the file: the one named by `config` or else by
    /// `HOLDFAST_CONFIG`, which must be there, or else the default one, which need not.
    pub fn gather(
        flags: Values,
        config: Option<PathBuf>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Layers, SettingsError> {
        let named = config.or_else(|| present(&variable, "HOLDFAST_CONFIG").map(PathBuf::from));
        let file = match named {
            Some(file) => Some(read_file(&file)?),
            None => read_if_there(default_config_file())?,
        };
        Ok(Layers { flags, environment: environment(variable), file })
    }

    /// For clients: as [`Layers::gather`], but a default file that is for the node's eyes only is passed over.
    pub fn gather_for_client(
        flags: Values,
        config: Option<PathBuf>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Layers, SettingsError> {
        let for_everyone = config.is_some() || present(&variable, "HOLDFAST_CONFIG").is_some();
        match Layers::gather(flags.clone(), config, &variable) {
            Err(SettingsError::Unreadable { source, .. })
                if !for_everyone && source.kind() == ErrorKind::PermissionDenied =>
            {
                Ok(Layers { flags, environment: environment(variable), file: None })
            }
            gathered => gathered,
        }
    }

    /// What the strongest place that names the setting says, made into a value.
    pub fn find<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let Some((source, text)) = self.strongest(key) else { return Ok(None) };
        parse(text).map(Some).map_err(|expected| SettingsError::Wrong {
            place: Place { key, source },
            text: text.to_string(),
            expected,
        })
    }

    pub fn or<T>(
        &self,
        key: Key,
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, SettingsError> {
        Ok(self.find(key, parse)?.unwrap_or(default))
    }

    pub fn required<T>(
        &self,
        key: Key,
        what: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, SettingsError> {
        self.find(key, parse)?.ok_or(SettingsError::Missing { key, what })
    }

    fn strongest(&self, key: Key) -> Option<(Source, &str)> {
        let flag = self.flags.get(&key).map(|text| (Source::Flag, text));
        let variable = || self.environment.get(&key).map(|text| (Source::Environment, text));
        let file = || {
            let (path, values) = self.file.as_ref()?;
            Some((Source::File(path.clone()), values.get(&key)?))
        };
        flag.or_else(variable).or_else(file).map(|(source, text)| (source, text.as_str()))
    }
}

fn environment(variable: impl Fn(&str) -> Option<String>) -> Values {
    Key::ALL.iter().filter_map(|key| Some((*key, present(&variable, &key.variable())?))).collect()
}

fn present(variable: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).filter(|text| !text.is_empty())
}

fn read_if_there(file: &Path) -> Result<Option<(PathBuf, Values)>, SettingsError> {
    match read_file(file) {
        Err(SettingsError::Unreadable { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn read_file(file: &Path) -> Result<(PathBuf, Values), SettingsError> {
    let text = std::fs::read_to_string(file)
        .map_err(|source| SettingsError::Unreadable { file: file.to_path_buf(), source })?;
    Ok((file.to_path_buf(), parse_file(file, &text)?))
}

fn parse_file(file: &Path, text: &str) -> Result<Values, SettingsError> {
    let table: toml::Table = text.parse().map_err(|source: toml::de::Error| SettingsError::Syntax {
        file: file.to_path_buf(),
        source: Box::new(source),
    })?;
    table
        .into_iter()
        .map(|(name, value)| {
            let key = key_named(file, &name)?;
            Ok((key, text_of(file, key, value)?))
        })
        .collect()
}

fn key_named(file: &Path, name: &str) -> Result<Key, SettingsError> {
    Key::ALL.into_iter().find(|key| key.name() == name).ok_or_else(|| SettingsError::UnknownKey {
        file: file.to_path_buf(),
        key: name.to_string(),
        suggestion: nearest(name),
    })
}

fn text_of(file: &Path, key: Key, value: toml::Value) -> Result<String, SettingsError> {
    let found = match value {
        toml::Value::String(text) => return Ok(text),
        toml::Value::Integer(number) => return Ok(number.to_string()),
        toml::Value::Float(_) => "a fraction",
        toml::Value::Boolean(_) => "true or false",
        toml::Value::Datetime(_) => "a date",
        toml::Value::Array(_) => "a list",
        toml::Value::Table(_) => "a table",
    };
    Err(SettingsError::WrongKind { file: file.to_path_buf(), key: key.name(), found })
}

/// The setting that was probably meant: the spelling of a flag, or at most two letters off.
fn nearest(name: &str) -> Option<&'static str> {
    let plain = name.to_lowercase().replace('-', "_");
    let near = |key: &Key| (letters_off(&plain, key.name()), key.name());
    Key::ALL.iter().map(near).filter(|(off, _)| *off <= 2).min().map(|(_, key)| key)
}

/// Letters to be inserted, removed or changed to make one text the other.
fn letters_off(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for column in 1..=other.len() {
            let changed = diagonal + usize::from(other[column - 1] != letter);
            diagonal = row[column];
            row[column] = changed.min(row[column] + 1).min(row[column - 1] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Values, SettingsError> {
        parse_file(Path::new("/etc/h.toml"), text)
    }

    #[test]
    fn a_file_holds_texts_and_numbers() {
        let values = parsed("persist = \"/p\"\nmax_failed_starts = 5\n").unwrap();
        assert_eq!(values[&Key::Persist], "/p");
        assert_eq!(values[&Key::MaxFailedStarts], "5");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_by_its_key() {
        let table = [
            (
                "poll-interval = \"1s\"",
                "/etc/h.toml: unknown setting `poll-interval` (did you mean `poll_interval`?)",
            ),
            ("persit = \"/p\"", "/etc/h.toml: unknown setting `persit` (did you mean `persist`?)"),
            ("colour = \"red\"", "/etc/h.toml: unknown setting `colour`"),
            ("[device]\nid = 1", "/etc/h.toml: `device` is a table, where a text or a number is expected"),
            ("accel = true", "/etc/h.toml: `accel` is true or false, where a text or a number is expected"),
            ("accel = ", "/etc/h.toml is not TOML"),
        ];
        for (text, message) in table {
            assert_eq!(parsed(text).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn a_file_that_was_named_must_be_there() {
        let nothing = |_: &str| None;
        let refused = Layers::gather(Values::new(), Some("/nowhere/h.toml".into()), nothing).unwrap_err();
        assert_eq!(refused.to_string(), "cannot read the configuration file /nowhere/h.toml");
    }

    #[test]
    fn an_empty_variable_says_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap().to_string();
        let variable = |name: &str| match name {
            "HOLDFAST_CONFIG" => Some(path.clone()),
            "HOLDFAST_ACCEL" => Some(String::new()),
            "HOLDFAST_LOG" => Some("debug".to_string()),
            _ => None,
        };
        let layers = Layers::gather(Values::new(), None, variable).unwrap();
        assert_eq!(layers.environment, Values::from([(Key::Log, "debug".to_string())]));
    }
}
