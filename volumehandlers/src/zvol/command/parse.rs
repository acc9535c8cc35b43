//! What the commands print with `-H -p`: columns between tabs, numbers as numbers. Anything else is not understood, and said so.

use serde::Deserialize;

use crate::zvol::zfs::{Bookmark, REVERTED_PROPERTY, Room, STATE_PROPERTY, Zvol};
use crate::zvol::{Dataset, ZfsError};

/// `zpool get health,readonly`.
pub(super) fn pool_state(pool: &str, answer: &str) -> Result<(), ZfsError> {
    let value = |property: &str| {
        let columns = answer.lines().filter_map(|line| line.split_once('\t'));
        columns.filter(|(name, _)| *name == property).map(|(_, value)| value).next()
    };
    let (Some(health), Some(read_only)) = (value("health"), value("readonly")) else {
        return Err(unreadable("zpool get", answer));
    };
    let pool = pool.to_owned();
    match (health, read_only) {
        ("SUSPENDED", _) => Err(ZfsError::Suspended { pool }),
        ("ONLINE" | "DEGRADED", "on") => Err(ZfsError::ReadOnly { pool }),
        ("ONLINE" | "DEGRADED", "off") => Ok(()),
        _ => Err(ZfsError::Failed {
            what: format!("the pool {pool}"),
            said: format!("its health is {health}"),
        }),
    }
}

/// `zfs get -o name,property,value,source`, four lines for each volume. What is inherited was not set on this volume.
pub(super) fn volumes(answer: &str) -> Result<Vec<Zvol>, ZfsError> {
    let mut volumes: Vec<Zvol> = Vec::new();
    for line in answer.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let [name, property, value, source] = columns[..] else { return Err(unreadable("zfs get", line)) };
        let dataset = match Dataset::parse(name) {
            Ok(dataset) => dataset,
            // A stranger's: none of our names needs what we do not allow.
            Err(_) => continue,
        };
        if volumes.last().is_none_or(|last| last.dataset != dataset) {
            volumes.push(Zvol { dataset, size_bytes: 0, used_bytes: 0, state: None, reverted: None });
        }
        let Some(volume) = volumes.last_mut() else { continue };
        let number = || value.parse::<u64>().map_err(|_| unreadable("zfs get", line));
        let local = || (source == "local").then(|| value.to_owned());
        match property {
            "volsize" => volume.size_bytes = number()?,
            "used" => volume.used_bytes = number()?,
            STATE_PROPERTY => volume.state = local(),
            REVERTED_PROPERTY => volume.reverted = local(),
            _ => return Err(unreadable("zfs get", line)),
        }
    }
    match volumes.iter().find(|volume| volume.size_bytes == 0) {
        Some(volume) => Err(unreadable("zfs get", volume.dataset.as_str())),
        None => Ok(volumes),
    }
}

/// `zfs get -o value available`.
pub(super) fn available(answer: &str) -> Result<Room, ZfsError> {
    match answer.trim_end().parse() {
        Ok(available_bytes) => Ok(Room { available_bytes }),
        Err(_) => Err(unreadable("zfs get", answer)),
    }
}

/// `zfs list -t bookmark -o name,createtxg`.
pub(super) fn bookmarks(answer: &str) -> Result<Vec<Bookmark>, ZfsError> {
    let read = |line: &str| {
        let (name, created_in) = line.split_once('\t')?;
        let (_, name) = name.split_once('#')?;
        Some(Bookmark { name: name.to_owned(), created_in: created_in.parse().ok()? })
    };
    let mut found = answer
        .lines()
        .map(|line| read(line).ok_or_else(|| unreadable("zfs list", line)))
        .collect::<Result<Vec<_>, _>>()?;
    found.sort();
    Ok(found)
}

/// `zfs program -j`: the string that the program returned.
pub(super) fn program_answer(what: &str, answer: &str) -> Result<String, ZfsError> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "return")]
        returned: String,
    }
    match serde_json::from_str::<Answer>(answer) {
        Ok(answer) => Ok(answer.returned),
        Err(error) => Err(ZfsError::Unreadable { what: what.to_owned(), reason: error.to_string() }),
    }
}

fn unreadable(what: &str, line: &str) -> ZfsError {
    ZfsError::Unreadable { what: what.to_owned(), reason: format!("\"{}\"", line.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUMES: &str = "tank/v/a.1\tvolsize\t8388608\tlocal\n\
        tank/v/a.1\tused\t57344\t-\n\
        tank/v/a.1\tholdfast:state\twhole\tlocal\n\
        tank/v/a.1\tholdfast:reverted\t-\t-\n\
        tank/v/not ours\tvolsize\t1\tlocal\n\
        tank/v/b.1\tvolsize\t16384\tlocal\n\
        tank/v/b.1\tused\t0\t-\n\
        tank/v/b.1\tholdfast:state\twhole\tinherited from tank\n\
        tank/v/b.1\tholdfast:reverted\ttoken\tlocal\n";

    #[test]
    fn volumes_are_read_with_what_was_set_on_them_and_nothing_else() {
        let found = volumes(VOLUMES).expect("read");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].size_bytes, found[0].used_bytes), (8 << 20, 57344));
        assert_eq!((found[0].state.as_deref(), found[0].reverted.as_deref()), (Some("whole"), None));
        assert_eq!((found[1].state.as_deref(), found[1].reverted.as_deref()), (None, Some("token")));
        for nonsense in ["x", "tank/v/a.1\tvolsize\t8M\tlocal", "tank/v/a.1\tused\t1\t-", "a\tcolor\t1\t-"] {
            assert!(matches!(volumes(nonsense), Err(ZfsError::Unreadable { .. })), "{nonsense:?}");
        }
    }

    #[test]
    fn a_pool_is_well_or_in_trouble() {
        assert_eq!(pool_state("tank", "health\tONLINE\nreadonly\toff\n"), Ok(()));
        let suspended = pool_state("tank", "health\tSUSPENDED\nreadonly\toff\n");
        assert_eq!(suspended, Err(ZfsError::Suspended { pool: "tank".to_owned() }));
        let read_only = pool_state("tank", "health\tDEGRADED\nreadonly\ton\n");
        assert_eq!(read_only, Err(ZfsError::ReadOnly { pool: "tank".to_owned() }));
        assert!(matches!(
            pool_state("tank", "health\tFAULTED\nreadonly\toff\n"),
            Err(ZfsError::Failed { .. })
        ));
        assert!(matches!(pool_state("tank", "health ONLINE"), Err(ZfsError::Unreadable { .. })));
    }

    #[test]
    fn bookmarks_are_read_oldest_first() {
        let found = bookmarks("tank/v#b c\t12\ntank/v#a\t7\n").expect("read");
        let mark = |name: &str, created_in| Bookmark { name: name.to_owned(), created_in };
        assert_eq!(found, [mark("a", 7), mark("b c", 12)]);
        assert_eq!(bookmarks(""), Ok(Vec::new()));
        for nonsense in ["x", "tank/v@a\t7", "tank/v#a\t-"] {
            assert!(matches!(bookmarks(nonsense), Err(ZfsError::Unreadable { .. })), "{nonsense:?}");
        }
    }

    #[test]
    fn a_programs_answer_is_one_string() {
        assert_eq!(program_answer("x", r#"{"return":"a\tb"}"#), Ok("a\tb".to_owned()));
        assert!(matches!(program_answer("x", r#"{"return":5}"#), Err(ZfsError::Unreadable { .. })));
    }
}
