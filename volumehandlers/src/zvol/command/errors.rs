//! What the error texts of `zfs` and `zpool` (C locale) mean. Looking for another word costs one line here.

use crate::zvol::ZfsError;

/// `object` is what the command was about; a text that names another one in quotes means that one.
pub(super) fn sort_error(what: &str, object: &str, stderr: &str) -> ZfsError {
    let says = |words: &str| stderr.contains(words);
    let object = quoted(stderr).filter(|named| is_part(named, object)).unwrap_or(object).to_owned();
    let pool = object.split(['/', '@']).next().unwrap_or_default().to_owned();
    if says("modules are not loaded") || says("modules cannot be auto-loaded") || says("/dev/zfs") {
        ZfsError::NotLoaded
    } else if says("I/O is currently suspended") {
        ZfsError::Suspended { pool }
    } else if says("no such pool") {
        ZfsError::NoPool { pool }
    } else if says("does not exist") || says("could not find any snapshots") {
        ZfsError::Missing { object }
    } else if says("already exists") {
        ZfsError::Exists { object }
    } else if says("has children") {
        ZfsError::HasSnapshots { object }
    } else if says("is busy") {
        ZfsError::Busy { object, user: "its device is open".to_owned() }
    } else if says("quota exceeded") || says("uota exceeded") {
        ZfsError::Quota { object }
    } else if says("out of space") || says("No space left on device") {
        ZfsError::NoSpace { object }
    } else if says("name is too long") || says("name too long") {
        ZfsError::NameTooLong { object }
    } else if says("Read-only file system") || says("read-only") || says("read only") {
        ZfsError::ReadOnly { pool }
    } else if says("invalid property")
        || says("must be ")
        || says("bad numeric value")
        || says("bad property")
    {
        let reason = stderr.lines().next().unwrap_or_default().to_owned();
        ZfsError::BadProperty { object, property: String::new(), value: String::new(), reason }
    } else {
        ZfsError::Failed { what: what.to_owned(), said: stderr.to_owned() }
    }
}

/// Names the property that was refused: the one of these settings (`name=value`) that the text speaks of.
pub(super) fn with_value(error: ZfsError, settings: &[String]) -> ZfsError {
    let ZfsError::BadProperty { object, property, value, reason } = error else { return error };
    let spoken_of = |setting: &&String| {
        setting.split_once('=').is_some_and(|(name, _)| reason.contains(&format!("'{name}'")))
    };
    let (property, value) = match settings.iter().find(spoken_of).and_then(|setting| setting.split_once('='))
    {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (property, value),
    };
    ZfsError::BadProperty { object, property, value, reason }
}

/// What stands between the first quotes.
fn quoted(text: &str) -> Option<&str> {
    text.split_once('\'')?.1.split_once('\'').map(|(inside, _)| inside)
}

/// A dataset or snapshot in the same pool as `object`.
fn is_part(named: &str, object: &str) -> bool {
    let pool = |name: &str| name.split(['/', '@']).next().unwrap_or_default().to_owned();
    pool(named) == pool(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(stderr: &str) -> ZfsError {
        sort_error("zfs x", "tank/v", stderr)
    }

    /// The texts are OpenZFS 2.1.11's.
    #[test]
    fn error_texts_are_sorted_into_kinds() {
        let object = || "tank/v".to_owned();
        let missing = sorted("cannot open 'tank/v': dataset does not exist");
        assert_eq!(missing, ZfsError::Missing { object: object() });
        assert_eq!(sorted("cannot open 'tank': no such pool"), ZfsError::NoPool { pool: "tank".to_owned() });
        let exists =
            sorted("cannot create snapshot 'tank/v@s': dataset already exists\nno snapshots were created");
        assert_eq!(exists, ZfsError::Exists { object: "tank/v@s".to_owned() });
        assert!(matches!(sorted("cannot destroy 'tank/v': dataset is busy"), ZfsError::Busy { .. }));
        let children = "cannot destroy 'tank/v': volume has children\nuse '-r' to destroy the following datasets:\ntank/v@s";
        assert_eq!(sorted(children), ZfsError::HasSnapshots { object: object() });
        assert_eq!(sorted("cannot create 'tank/v': out of space"), ZfsError::NoSpace { object: object() });
        let loaded =
            "The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load them.";
        assert_eq!(sorted(loaded), ZfsError::NotLoaded);
        let suspended = sorted("cannot create 'tank/v': pool I/O is currently suspended");
        assert_eq!(suspended, ZfsError::Suspended { pool: "tank".to_owned() });
        assert!(matches!(sorted("cannot open 'tank/v': something new"), ZfsError::Failed { .. }));
    }

    #[test]
    fn a_property_that_is_refused_is_named() {
        let error = sorted("cannot create 'tank/v': 'compression' must be one of 'on | off | lz4'");
        let settings = ["volmode=dev".to_owned(), "compression=rubbish".to_owned()];
        match with_value(error, &settings) {
            ZfsError::BadProperty { object, property, value, .. } => {
                assert_eq!(
                    (object.as_str(), property.as_str(), value.as_str()),
                    ("tank/v", "compression", "rubbish")
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
