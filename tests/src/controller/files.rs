//! Content for datastores: the files below one folder, over HTTP, whole or from the middle.
//!
//! ```text
//!   no Range, or one we do not read (several parts) ─▶ 200, all of it
//!   bytes=a-  bytes=a-b  bytes=-n                   ─▶ 206, that part
//!   a Range beyond the end                          ─▶ 416 with the size
//!   If-Range naming another ETag                    ─▶ 200, all of it: the file is not the one begun
//! ```
//!
//! A path that leaves the folder, by `..` or by a link, is not found. Nothing is listed and nothing is written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::channel::{Channel, Sender};

const CHUNK_BYTES: u64 = 64 * 1024;

/// How long a broken download's last bytes get to leave before the connection goes.
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

/// How one download is to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    pub break_after_bytes: Option<u64>,
    pub chunk_pause: Duration,
}

/// A part of a file: `length` bytes from `start`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    start: u64,
    length: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    Part(Part),
    Unsatisfiable,
}

/// Answers a request for `path` below `root`. Also says at which byte the answer begins.
pub fn serve(root: &Path, path: &str, headers: &HeaderMap, manner: Manner) -> (Response, u64) {
    match open_below(root, path) {
        Ok((file, size_bytes, etag)) => respond(file, size_bytes, &etag, headers, manner),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ((StatusCode::NOT_FOUND, format!("no file `{path}` here\n")).into_response(), 0)
        }
        Err(error) => {
            let reason = format!("cannot read `{path}`: {error}\n");
            ((StatusCode::INTERNAL_SERVER_ERROR, reason).into_response(), 0)
        }
    }
}

fn respond(file: File, size_bytes: u64, etag: &str, headers: &HeaderMap, manner: Manner) -> (Response, u64) {
    let all = Part { start: 0, length: size_bytes };
    let (status, part) = match wanted(headers, etag, size_bytes) {
        Wanted::Whole => (StatusCode::OK, all),
        Wanted::Part(part) => (StatusCode::PARTIAL_CONTENT, part),
        Wanted::Unsatisfiable => {
            let size = [(header::CONTENT_RANGE, format!("bytes */{size_bytes}"))];
            return ((StatusCode::RANGE_NOT_SATISFIABLE, size).into_response(), 0);
        }
    };
    let mut response = (status, sent_in_background(file, part, manner)).into_response();
    let mut set = |name, value: String| {
        response.headers_mut().insert(name, value.parse().expect("digits and punctuation"));
    };
    set(header::CONTENT_TYPE, "application/octet-stream".into());
    set(header::CONTENT_LENGTH, part.length.to_string());
    set(header::ACCEPT_RANGES, "bytes".into());
    set(header::ETAG, etag.into());
    if status == StatusCode::PARTIAL_CONTENT {
        let last = part.start + part.length - 1;
        set(header::CONTENT_RANGE, format!("bytes {}-{last}/{size_bytes}", part.start));
    }
    (response, part.start)
}

/// The file, its size and a tag that changes with it.
fn open_below(root: &Path, path: &str) -> io::Result<(File, u64, String)> {
    let file = File::open(resolve(root, path)?)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((file, metadata.len(), format!("\"{:x}-{:x}\"", metadata.len(), changed.as_nanos())))
}

/// The real path, if it is below the root.
fn resolve(root: &Path, path: &str) -> io::Result<PathBuf> {
    let refused = || io::Error::from(io::ErrorKind::NotFound);
    if path.split('/').any(|part| matches!(part, "" | "." | "..") || part.contains(['\\', '\0'])) {
        return Err(refused());
    }
    let real = root.join(path).canonicalize()?;
    if real.starts_with(root.canonicalize()?) { Ok(real) } else { Err(refused()) }
}

fn wanted(headers: &HeaderMap, etag: &str, size_bytes: u64) -> Wanted {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_RANGE).is_some_and(|known| known != etag) {
        return Wanted::Whole;
    }
    text(header::RANGE).map_or(Wanted::Whole, |range| parse_range(range, size_bytes))
}

fn parse_range(range: &str, size_bytes: u64) -> Wanted {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Wanted::Whole;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(size_bytes)),
        (Ok(start), Err(_)) if last.is_empty() => (start, size_bytes),
        (Err(_), Ok(count)) if first.is_empty() => (size_bytes.saturating_sub(count), size_bytes),
        _ => return Wanted::Whole,
    };
    if start < end { Wanted::Part(Part { start, length: end - start }) } else { Wanted::Unsatisfiable }
}

/// A body that is read from the file while it is sent.
fn sent_in_background(file: File, part: Part, manner: Manner) -> Body {
    let (sender, body) = Channel::<Bytes, io::Error>::new(2);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || send(&runtime, file, part, manner, sender));
    Body::new(body)
}

fn send(
    runtime: &tokio::runtime::Handle,
    mut file: File,
    part: Part,
    manner: Manner,
    mut sender: Sender<Bytes, io::Error>,
) {
    let broken_at = manner.break_after_bytes.filter(|bytes| *bytes < part.length);
    let mut left = broken_at.unwrap_or(part.length);
    let mut chunk = |left: u64, first: bool| -> io::Result<Bytes> {
        if first {
            file.seek(SeekFrom::Start(part.start))?;
        }
        let mut bytes = vec![0; left.min(CHUNK_BYTES) as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    };
    let mut first = true;
    while left > 0 {
        let bytes = match chunk(left, first) {
            Ok(bytes) => bytes,
            Err(error) => return sender.abort(error),
        };
        first = false;
        left -= bytes.len() as u64;
        if runtime.block_on(sender.send_data(bytes)).is_err() {
            return; // Whoever asked has left.
        }
        std::thread::sleep(manner.chunk_pause);
    }
    if broken_at.is_some() {
        std::thread::sleep(FLUSH_PAUSE);
        sender.abort(io::Error::other("broken on purpose"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_http_says() {
        let part = |start, length| Wanted::Part(Part { start, length });
        for (range, expected) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=4-", part(4, 6)),
            ("bytes=4-4", part(4, 1)),
            ("bytes=4-99", part(4, 6)),
            ("bytes=-3", part(7, 3)),
            ("bytes=-99", part(0, 10)),
            ("bytes=10-", Wanted::Unsatisfiable),
            ("bytes=-0", Wanted::Unsatisfiable),
            ("bytes=5-4", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=x-", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
        ] {
            assert_eq!(parse_range(range, 10), expected, "{range}");
        }
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("files");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(folder.path().join("secret"), "s").unwrap();
        std::fs::write(root.join("sub/in"), "i").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();

        assert!(resolve(&root, "sub/in").is_ok());
        for path in
            ["../secret", "sub/../../secret", "/etc/passwd", "link", "", "sub//in", "./sub/in", "sub\\in"]
        {
            assert!(resolve(&root, path).is_err(), "{path}");
        }
    }
}
