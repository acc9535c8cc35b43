//! The seal: the last field of a record or row, a checksum of all before it.
//!
//! ```text
//!   { "SnapshotID": "6f1d…", …, "OperationNumber": 2 ,  "Checksum": "crc32:1c291ca3" }
//!   └──────────────── covered ──────────────────────┘
//! ```
//!
//! A flipped bit in a value leaves valid JSON that means something else: another volume, another generation. Taken for
//! true, it would have the wrong thing deleted. So what does not match its seal is damaged, like what does not parse.
//!
//! Text without a seal is taken as it is: EVE writes none, nor did earlier releases, and a person who mends a record
//! takes the field out. It stands last and beside the others, so that every reader of JSON skips it.
//!
//! The checksum is the one of zip and Ethernet: every error of up to 32 bits in a row is found.
//!
//! Deliberately absent: protection against anybody who means harm.

/// The field's name.
pub const SEAL_FIELD: &str = "Checksum";
const ALGORITHM: &str = "crc32:";
const DIGITS: usize = 8;

/// What a seal says about its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    Absent,
    Right,
    Wrong,
}

/// The text of a JSON object with its seal as the last field, laid out as the text is. Anything else is returned as it
/// was.
pub fn seal(text: &[u8]) -> Vec<u8> {
    let Some(covered) = text.trim_ascii_end().strip_suffix(b"}").map(<[u8]>::trim_ascii_end) else {
        return text.to_vec();
    };
    let is_pretty = covered.contains(&b'\n');
    let (before, after, colon) = if is_pretty { ("\n  ", "\n}", ": ") } else { ("", "}", ":") };
    let comma = if covered == b"{" { "" } else { "," };
    let sum = crc32fast::hash(covered);
    let field = format!("{comma}{before}\"{SEAL_FIELD}\"{colon}\"{ALGORITHM}{sum:0DIGITS$x}\"{after}");
    let mut sealed = covered.to_vec();
    sealed.extend(field.into_bytes());
    sealed.extend(&text[text.trim_ascii_end().len()..]);
    sealed
}

/// Compares the text with its seal. A seal that is itself damaged beyond recognition counts as absent: what it covered
/// is then judged by its shape alone.
pub fn check(text: &[u8]) -> Seal {
    match split(text) {
        None => Seal::Absent,
        Some((covered, sum)) if crc32fast::hash(covered) == sum => Seal::Right,
        Some(_) => Seal::Wrong,
    }
}

/// What is covered, and the sum that is written.
fn split(text: &[u8]) -> Option<(&[u8], u32)> {
    let rest = text.trim_ascii_end().strip_suffix(b"}")?.trim_ascii_end().strip_suffix(b"\"")?;
    let (rest, digits) = rest.split_at_checked(rest.len().checked_sub(DIGITS)?)?;
    let sum = u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    let rest = rest.strip_suffix(ALGORITHM.as_bytes())?.strip_suffix(b"\"")?.trim_ascii_end();
    let rest = rest.strip_suffix(b":")?.trim_ascii_end().strip_suffix(b"\"")?;
    let rest = rest.strip_suffix(SEAL_FIELD.as_bytes())?.strip_suffix(b"\"")?.trim_ascii_end();
    Some((rest.strip_suffix(b",").unwrap_or(rest), sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 5] = [
        "{}",
        r#"{"A":1}"#,
        "{\n  \"A\": {\n    \"Checksum\": \"crc32:00000000\"\n  }\n}\n",
        "{ \"A\" : [ ] } ",
        "{\n}\n",
    ];

    #[test]
    fn a_sealed_text_is_json_and_matches() {
        for text in TEXTS {
            let sealed = seal(text.as_bytes());
            assert_eq!(check(&sealed), Seal::Right, "{}", String::from_utf8_lossy(&sealed));
            let mut value: serde_json::Value = serde_json::from_slice(&sealed).expect("JSON");
            value.as_object_mut().expect("an object").remove(SEAL_FIELD).expect("sealed");
            assert_eq!(value, serde_json::from_str::<serde_json::Value>(text).expect("JSON"));
        }
        assert_eq!(
            String::from_utf8(seal(b"{\n  \"A\": 1\n}\n")).expect("text"),
            "{\n  \"A\": 1,\n  \"Checksum\": \"crc32:86ac31e2\"\n}\n"
        );
    }

    #[test]
    fn text_without_a_seal_has_none() {
        for text in TEXTS.into_iter().chain(["", "[]", "}", "\"}", "null"]) {
            assert_eq!(check(text.as_bytes()), Seal::Absent, "{text}");
        }
        assert_eq!(seal(b"[1]"), b"[1]");
    }

    /// What a flipped bit leaves is no JSON, does not match, or says what it said.
    #[test]
    fn a_flipped_bit_anywhere_changes_nothing_unnoticed() {
        let text = "{\n  \"Generation\": 12,\n  \"Name\": \"a b\"\n}\n";
        let wanted: serde_json::Value = serde_json::from_str(text).expect("JSON");
        let sealed = seal(text.as_bytes());
        for at in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            if check(&flipped) == Seal::Wrong {
                continue;
            }
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(&flipped) else { continue };
            assert_eq!(
                (&value["Generation"], &value["Name"]),
                (&wanted["Generation"], &wanted["Name"]),
                "bit {at}"
            );
        }
    }
}
