//! The channel programs: what the kernel runs as a whole, in one transaction group.
//!
//! ```text
//!   text (constant) + arguments (strings) ──▶ a backend runs it ──▶ one string back ──▶ read here
//! ```
//!
//! The texts are constants and names travel as arguments: `argv` where the `zfs` command passes them on, `"1"`, `"2"`, … where the
//! library does, which has no lists. An answer is columns between tabs, which no name can hold.
//!
//! A program that fails in the middle leaves what it had changed; so each checks everything before its first change.

use chrono::DateTime;

use crate::zvol::zfs::{AgreedOf, Bookmark, REVERTED_PROPERTY, SnapshotOf, ZfsSnapshot};
use crate::zvol::{Dataset, ZfsError};

/// Lua instructions that a program may take; the kernel's limit is 100 million.
pub const INSTRUCTIONS_AT_MOST: u64 = 50_000_000;
/// What it may allocate; the kernel's limit is 100 MiB.
pub const MEMORY_AT_MOST_BYTES: u64 = 64 << 20;

/// Begins what is agreed to in the arguments of a rollback; a volume's dataset has a slash in it, and is never this.
const AGREED: &str = "agreed";

/// Begins a bookmark there.
const MARK: &str = "mark";

const EAGAIN: i32 = 11;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const ENOENT: i32 = 2;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ENAMETOOLONG: i32 = 36;
const EDQUOT: i32 = 122;

/// A program with its arguments.
#[derive(Debug)]
pub struct Program {
    pub what: &'static str,
    pub text: &'static str,
    pub arguments: Vec<String>,
    /// Waits until the change is on stable storage.
    pub changes: bool,
}

impl Program {
    /// `marks`: all bookmarks of volumes with something agreed to.
    pub fn rollback(
        group: &[SnapshotOf],
        agreed: &[AgreedOf],
        marks: &[(Dataset, Bookmark)],
        token: &str,
    ) -> Self {
        let mut arguments = vec![REVERTED_PROPERTY.to_owned(), token.to_owned()];
        for member in group {
            arguments.extend([member.dataset.to_string(), member.name.to_string()]);
            for one in agreed.iter().filter(|one| one.dataset == member.dataset) {
                // The kernel's Lua knows signed numbers only. The `zfs` command takes whatever begins with a hyphen for an
                // option of its own, wherever it stands; so neither the number nor a name is given alone.
                let guid = format!("guid:{}", one.guid.cast_signed());
                arguments.extend([AGREED.to_owned(), format!("{}@{}", one.dataset, one.name), guid]);
            }
            for (dataset, mark) in marks.iter().filter(|(dataset, _)| *dataset == member.dataset) {
                let made_in = mark.created_in.to_string();
                arguments.extend([MARK.to_owned(), format!("{dataset}#{}", mark.name), made_in]);
            }
        }
        Program { what: "rolling back", text: include_str!("rollback.lua"), arguments, changes: true }
    }

    pub fn destroy(group: &[SnapshotOf]) -> Self {
        let arguments = group.iter().map(SnapshotOf::to_string).collect();
        Program { what: "destroying snapshots", text: include_str!("destroy.lua"), arguments, changes: true }
    }

    pub fn list(dataset: &Dataset) -> Self {
        let arguments = vec![dataset.to_string()];
        Program { what: "listing snapshots", text: include_str!("list.lua"), arguments, changes: false }
    }
}

/// What a changing program said. An error means that it changed nothing.
pub fn read_done(what: &str, answer: &str) -> Result<(), ZfsError> {
    let columns: Vec<&str> = answer.split('\t').collect();
    match columns[..] {
        ["done"] => Ok(()),
        ["missing", object] => Err(ZfsError::Missing { object: object.to_owned() }),
        ["newer", object, ..] => {
            let newer = read_newer(&columns[2..]).ok_or_else(|| unreadable(what, answer))?;
            Err(ZfsError::Newer { object: object.to_owned(), newer })
        }
        ["errno", object, number] => match number.parse() {
            Ok(errno) => Err(of_errno(what, object, errno)),
            Err(_) => Err(unreadable(what, answer)),
        },
        _ => Err(unreadable(what, answer)),
    }
}

/// Transaction group and name, again and again; told newest last.
fn read_newer(columns: &[&str]) -> Option<Vec<String>> {
    let pair = |pair: &[&str]| Some((pair[0].parse::<u64>().ok()?, short(pair.get(1)?)));
    let mut newer = columns.chunks(2).map(pair).collect::<Option<Vec<_>>>()?;
    newer.sort();
    Some(newer.into_iter().map(|(_, name)| name).collect())
}

/// The snapshots listed, oldest first.
pub fn read_list(what: &str, answer: &str) -> Result<Vec<ZfsSnapshot>, ZfsError> {
    if let Some(object) = answer.strip_prefix("missing\t") {
        return Err(ZfsError::Missing { object: object.to_owned() });
    }
    let lines = answer.strip_prefix("listed\n").ok_or_else(|| unreadable(what, answer))?;
    let listed = lines.lines().map(|line| read_line(line).ok_or_else(|| unreadable(what, line)));
    let mut listed = listed.collect::<Result<Vec<_>, _>>()?;
    listed.sort_by_key(|snapshot| (snapshot.created_in, snapshot.guid));
    Ok(listed)
}

fn read_line(line: &str) -> Option<ZfsSnapshot> {
    let mut columns = line.split('\t');
    let (_, name) = columns.next()?.split_once('@')?;
    // The kernel's Lua knows signed numbers only.
    let guid = columns.next()?.parse::<i64>().ok()?.cast_unsigned();
    let created_in = columns.next()?.parse().ok()?;
    let created_at = DateTime::from_timestamp(columns.next()?.parse().ok()?, 0)?;
    let size_bytes = columns.next()?.parse().ok()?;
    let rest: Vec<String> = columns.map(str::to_owned).collect();
    // A hold's tag may be any word, also "clones"; a clone is a dataset, and its name has a slash.
    let clones_at = rest.iter().rposition(|column| column == "clones")?;
    let (first, holds) = rest[..clones_at].split_first()?;
    (first == "holds").then_some(())?;
    Some(ZfsSnapshot {
        name: name.to_owned(),
        guid,
        created_in,
        created_at,
        size_bytes,
        holds: holds.to_vec(),
        clones: rest[clones_at + 1..].to_vec(),
    })
}

/// What the kernel's error number means. Who uses it, holds it or was cloned from it is for the caller to find out.
pub fn of_errno(what: &str, object: &str, errno: i32) -> ZfsError {
    let object = object.to_owned();
    let pool = || object.split(['/', '@']).next().unwrap_or_default().to_owned();
    match errno {
        ENOENT => ZfsError::Missing { object },
        EEXIST if object.contains('@') => ZfsError::HasClones { object, clones: Vec::new() },
        EEXIST => ZfsError::Exists { object },
        EBUSY if object.contains('@') => ZfsError::Held { object, tags: Vec::new() },
        EBUSY => ZfsError::Busy { object, user: "its device is open".to_owned() },
        ENOSPC => ZfsError::NoSpace { object },
        EDQUOT => ZfsError::Quota { object },
        EROFS => ZfsError::ReadOnly { pool: pool() },
        EAGAIN => ZfsError::Suspended { pool: pool() },
        ENAMETOOLONG => ZfsError::NameTooLong { object },
        _ => ZfsError::Failed { what: format!("{what} ({object})"), said: errno_text(errno) },
    }
}

fn errno_text(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}

/// `dataset@name` as the name alone.
fn short(snapshot: &str) -> String {
    snapshot.split_once('@').map_or(snapshot, |(_, name)| name).to_owned()
}

fn unreadable(what: &str, answer: &str) -> ZfsError {
    ZfsError::Unreadable { what: what.to_owned(), reason: format!("\"{}\"", answer.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_read_strictly() {
        assert_eq!(read_done("x", "done"), Ok(()));
        assert_eq!(read_done("x", "missing\tp/v@s"), Err(ZfsError::Missing { object: "p/v@s".to_owned() }));
        let newer = vec!["t".to_owned(), "u v".to_owned()];
        let object = "p/v@s".to_owned();
        assert_eq!(
            read_done("x", "newer\tp/v@s\t12\tp/v@u v\t7\tp/v@t"),
            Err(ZfsError::Newer { object, newer })
        );
        assert!(matches!(read_done("x", "errno\tp/v\t16"), Err(ZfsError::Busy { .. })));
        assert!(matches!(read_done("x", "errno\tp/v@s\t16"), Err(ZfsError::Held { .. })));
        assert!(matches!(read_done("x", "errno\tp/v@s\t17"), Err(ZfsError::HasClones { .. })));
        for nonsense in ["", "done\t", "errno\tp/v\tx", "ok", "newer\tp/v@s\t12", "newer\tp/v@s\tx\tp/v@t"] {
            assert!(matches!(read_done("x", nonsense), Err(ZfsError::Unreadable { .. })), "{nonsense:?}");
        }
    }

    #[test]
    fn no_argument_of_a_rollback_looks_like_an_option() {
        let dataset = Dataset::parse("p/v").expect("a name");
        let name = crate::SnapshotName::parse("holdfast-s").expect("a name");
        let group = [SnapshotOf::new(dataset.clone(), name).expect("a snapshot")];
        let agreed = [AgreedOf { dataset: dataset.clone(), name: "-rf".to_owned(), guid: u64::MAX }];
        let marks = [(dataset, Bookmark { name: "-n".to_owned(), created_in: 7 })];
        let program = Program::rollback(&group, &agreed, &marks, "token");
        let member = ["p/v", "holdfast-s", "agreed", "p/v@-rf", "guid:-1", "mark", "p/v#-n", "7"];
        assert_eq!(program.arguments, [&["holdfast:reverted", "token"][..], &member].concat());
    }

    #[test]
    fn a_list_tells_holds_from_clones_and_great_guids_from_negative_ones() {
        let answer = "listed\n\
            p/v@b\t-2\t20\t1700000001\t16384\tholds\tclones\tkeep\tclones\tp/c\n\
            p/v@a b\t7\t10\t1700000000\t16384\tholds\tclones";
        let listed = read_list("x", answer).expect("a list");
        assert_eq!(listed.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["a b", "b"]);
        assert_eq!(listed[1].guid, u64::MAX - 1);
        assert_eq!((listed[1].holds.len(), listed[1].clones.len()), (2, 1));
        assert!(listed[0].holds.is_empty() && listed[0].clones.is_empty());
        assert_eq!(read_list("x", "listed\n"), Ok(Vec::new()));
        for nonsense in ["", "listed\np/v@a\t1", "listed\np/v\t1\t2\t3\t4\tholds\tclones"] {
            assert!(matches!(read_list("x", nonsense), Err(ZfsError::Unreadable { .. })), "{nonsense:?}");
        }
    }
}
