//! Content from a datastore to a verified file: size limit, resume after a break, sha256 before use.
//!
//! ```text
//!                ┌── break: open again from here ──┐
//!                ▼                                 │
//!   downloads/<id>.part ──grows──▶ whole ──sha256 equal──▶ synced, renamed to downloads/<id>
//!        ▲      │                    │
//!        │      └ too large: dropped └ differs: dropped; resumed content is fetched once more from the start
//!        └─ after a restart: its bytes are hashed again, and fetching goes on behind them
//! ```
//!
//! A file under the final name is verified, whatever happened: it gets that name only after its content was
//! verified and synced. A part from before a restart may have been torn by a power cut; the digest tells, which
//! is why a part is resumed across restarts only where the controller gave one.
//!
//! Deliberately absent: waiting. A break with nothing new is the caller's to try again later.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use holdfast_persist::disk::{Disk, is_no_space};
use holdfast_persist::{PersistLayout, crashsafe};
use holdfast_types::ContentTreeId;
use sha2::{Digest, Sha256};

use super::fetcher::{FetchError, Fetcher, Opened};

/// Read, hashed and written at a time; also how often cancelling and progress are looked at.
const BLOCK_BYTES: usize = 1 << 20;
/// A server that sends a little and breaks, for ever, is given up for this time.
const MOST_OPENINGS: u32 = 1000;

/// What is to be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub content_tree: ContentTreeId,
    /// Tried in this order.
    pub urls: Vec<String>,
    /// 64 lower-case hex digits, or empty when the controller gave none.
    pub sha256: String,
    /// Zero: no limit.
    pub max_size_bytes: u64,
}

/// A verified file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub path: PathBuf,
    pub size_bytes: u64,
    pub sha256: String,
}

/// What a listener is told, and what it may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Fetching { percent: u8 },
    Verifying { percent: u8 },
}

#[derive(Debug, thiserror::Error)]
pub enum DownloadError {
    #[error("content tree {content_tree} has no datastore to be fetched from")]
    NoSource { content_tree: ContentTreeId },
    #[error("content tree {content_tree} cannot be fetched")]
    Fetch { content_tree: ContentTreeId, source: FetchError },
    #[error("content tree {content_tree}: {url} broke off after {at_bytes} bytes")]
    Broke { content_tree: ContentTreeId, url: String, at_bytes: u64, source: io::Error },
    #[error("content tree {content_tree}: {url} ended after {at_bytes} of {total_bytes} bytes")]
    Short { content_tree: ContentTreeId, url: String, at_bytes: u64, total_bytes: u64 },
    #[error(
        "content tree {content_tree}: {url} holds more than the {max_size_bytes} bytes that may be downloaded"
    )]
    TooLarge { content_tree: ContentTreeId, url: String, max_size_bytes: u64 },
    #[error("content tree {content_tree}: sha256 of {url} is {found}, the configuration says {expected}")]
    Mismatch { content_tree: ContentTreeId, url: String, expected: String, found: String },
    #[error("content tree {content_tree} cannot be kept on disk")]
    Disk { content_tree: ContentTreeId, source: io::Error },
    #[error("content tree {content_tree}: the download was cancelled")]
    Cancelled { content_tree: ContentTreeId },
}

impl DownloadError {
    /// When to try again, in words; `None` if only another configuration helps.
    pub fn retry_condition(&self) -> Option<&'static str> {
        match self {
            DownloadError::NoSource { .. } | DownloadError::TooLarge { .. } => None,
            DownloadError::Fetch { source: FetchError::Unusable { .. }, .. } => None,
            DownloadError::Fetch { .. } | DownloadError::Broke { .. } | DownloadError::Short { .. } => {
                Some("tried again with growing delay, or at once when its configuration changes")
            }
            DownloadError::Mismatch { .. } => {
                Some("fetched anew with growing delay, or at once when its configuration changes")
            }
            DownloadError::Disk { source, .. } if is_no_space(source) => {
                Some("tried again with growing delay; free space on the persist directory")
            }
            DownloadError::Disk { .. } | DownloadError::Cancelled { .. } => {
                Some("tried again with growing delay")
            }
        }
    }
}

/// The verified file's place.
pub fn whole_file(layout: &PersistLayout, content_tree: &ContentTreeId) -> PathBuf {
    layout.download_file(content_tree)
}

/// The part's place.
pub fn part_file(layout: &PersistLayout, content_tree: &ContentTreeId) -> PathBuf {
    layout.download_file(&format!("{content_tree}.part"))
}

/// The content tree a file in the downloads directory belongs to.
pub fn content_tree_of(file_name: &str) -> Option<ContentTreeId> {
    file_name.strip_suffix(".part").unwrap_or(file_name).parse().ok()
}

/// Seams of one download, and its listener.
pub struct Download<'a> {
    pub disk: &'a dyn Disk,
    pub layout: &'a PersistLayout,
    pub fetcher: &'a dyn Fetcher,
    pub is_cancelled: &'a dyn Fn() -> bool,
    pub report: &'a dyn Fn(Progress),
}

impl std::fmt::Debug for Download<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Download").field("fetcher", &self.fetcher).finish_non_exhaustive()
    }
}

impl Download<'_> {
    /// Makes the content be there, whole, verified and durable.
    ///
    /// There already: verified again, not fetched. After an error a part may stay, which the next call goes on
    /// from; after a mismatch or too much content nothing stays. A crash in the middle leaves a part, or the
    /// whole file.
    pub fn ensure(&self, content: &Content) -> Result<Fetched, DownloadError> {
        if let Some(fetched) = self.already_there(content)? {
            return Ok(fetched);
        }
        let mut last = DownloadError::NoSource { content_tree: content.content_tree };
        for url in &content.urls {
            match self.fetch_verified(content, url) {
                Ok(fetched) => return Ok(fetched),
                Err(error @ (DownloadError::Disk { .. } | DownloadError::Cancelled { .. })) => {
                    return Err(error);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Makes neither the file nor a part of it be there, durably.
    pub fn remove(&self, content_tree: &ContentTreeId) -> io::Result<()> {
        crashsafe::remove_durable(self.disk, &part_file(self.layout, content_tree))?;
        crashsafe::remove_durable(self.disk, &whole_file(self.layout, content_tree))
    }

    fn already_there(&self, content: &Content) -> Result<Option<Fetched>, DownloadError> {
        let path = whole_file(self.layout, &content.content_tree);
        let disk_error = |source| DownloadError::Disk { content_tree: content.content_tree, source };
        if self.disk.metadata(&path).map_err(disk_error)?.is_none() {
            return Ok(None);
        }
        let (size_bytes, hasher) = self.hash(content, &path)?;
        let sha256 = hex(hasher);
        if content.sha256.is_empty() || content.sha256 == sha256 {
            return Ok(Some(Fetched { path, size_bytes, sha256 }));
        }
        // The controller means other content under this id now.
        crashsafe::remove_durable(self.disk, &path).map_err(disk_error)?;
        Ok(None)
    }

    fn fetch_verified(&self, content: &Content, url: &str) -> Result<Fetched, DownloadError> {
        let mut resumed = self.prepare_part(content)?;
        loop {
            let (size_bytes, hasher) = self.fill_part(content, url)?;
            let found = hex(hasher);
            if content.sha256.is_empty() || content.sha256 == found {
                return self.accept(content, size_bytes, found);
            }
            self.drop_part(content)?;
            if !resumed {
                return Err(DownloadError::Mismatch {
                    content_tree: content.content_tree,
                    url: url.into(),
                    expected: content.sha256.clone(),
                    found,
                });
            }
            // The part may have been torn by a power cut or be of older content: judged only when fetched whole.
            resumed = false;
        }
    }

    /// True if there is a part to go on from.
    fn prepare_part(&self, content: &Content) -> Result<bool, DownloadError> {
        if content.sha256.is_empty() {
            self.drop_part(content)?;
        }
        Ok(self.part_size(content)? > 0)
    }

    /// Fetches until the content ends; each break that brought something new is followed by another opening.
    fn fill_part(&self, content: &Content, url: &str) -> Result<(u64, Sha256), DownloadError> {
        let part = part_file(self.layout, &content.content_tree);
        let (mut at_bytes, mut hasher) = match self.part_size(content)? {
            0 => (0, Sha256::new()),
            _ => self.hash(content, &part)?,
        };
        if at_bytes > 0 && hex(hasher.clone()) == content.sha256 {
            return Ok((at_bytes, hasher));
        }
        for _ in 0..MOST_OPENINGS {
            let opened = match self.fetcher.open(url, at_bytes) {
                // The part holds more than the content, or something else: begin again.
                Err(FetchError::NothingMore { .. }) if at_bytes > 0 => {
                    self.drop_part(content)?;
                    (at_bytes, hasher) = (0, Sha256::new());
                    continue;
                }
                opened => opened
                    .map_err(|source| DownloadError::Fetch { content_tree: content.content_tree, source })?,
            };
            if opened.starts_at_bytes != at_bytes {
                self.drop_part(content)?;
                (at_bytes, hasher) = (0, Sha256::new());
            }
            let before_bytes = at_bytes;
            match self.receive(content, url, opened, &part, &mut at_bytes, &mut hasher) {
                Ok(()) => return Ok((at_bytes, hasher)),
                Err(DownloadError::Broke { .. } | DownloadError::Short { .. }) if at_bytes > before_bytes => {
                }
                Err(error) => return Err(error),
            }
        }
        Err(DownloadError::Broke {
            content_tree: content.content_tree,
            url: url.into(),
            at_bytes,
            source: io::ErrorKind::ConnectionAborted.into(),
        })
    }

    /// Writes what comes behind `at_bytes`, which with `hasher` follows what was written.
    fn receive(
        &self,
        content: &Content,
        url: &str,
        opened: Opened,
        part: &Path,
        at_bytes: &mut u64,
        hasher: &mut Sha256,
    ) -> Result<(), DownloadError> {
        let Opened { total_bytes, mut body, .. } = opened;
        self.refuse_too_large(content, url, total_bytes.unwrap_or(0))?;
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            self.stop_if_cancelled(content)?;
            let (filled, broke) = fill(&mut body, &mut block);
            self.refuse_too_large(content, url, *at_bytes + filled as u64)?;
            if filled > 0 {
                self.write(content, part, *at_bytes, &block[..filled])?;
                hasher.update(&block[..filled]);
                *at_bytes += filled as u64;
            }
            let (content_tree, url) = (content.content_tree, url.to_owned());
            if let Some(source) = broke {
                return Err(DownloadError::Broke { content_tree, url, at_bytes: *at_bytes, source });
            }
            if filled < block.len() {
                return match total_bytes {
                    Some(total_bytes) if total_bytes > *at_bytes => {
                        Err(DownloadError::Short { content_tree, url, at_bytes: *at_bytes, total_bytes })
                    }
                    _ => Ok(()),
                };
            }
            (self.report)(Progress::Fetching { percent: percent(*at_bytes, total_bytes.unwrap_or(0)) });
        }
    }

    fn write(
        &self,
        content: &Content,
        part: &Path,
        at_bytes: u64,
        bytes: &[u8],
    ) -> Result<(), DownloadError> {
        self.disk
            .write_at(part, at_bytes, bytes)
            .map_err(|source| DownloadError::Disk { content_tree: content.content_tree, source })
    }

    /// The verified part under its final name, durably.
    fn accept(&self, content: &Content, size_bytes: u64, sha256: String) -> Result<Fetched, DownloadError> {
        let part = part_file(self.layout, &content.content_tree);
        let path = whole_file(self.layout, &content.content_tree);
        let renamed = (|| {
            if size_bytes == 0 {
                self.disk.write_at(&part, 0, b"")?;
            }
            self.disk.sync_file(&part)?;
            self.disk.rename(&part, &path)?;
            self.disk.sync_dir(&self.layout.downloads_dir())
        })();
        match renamed {
            Ok(()) => Ok(Fetched { path, size_bytes, sha256 }),
            Err(source) => Err(DownloadError::Disk { content_tree: content.content_tree, source }),
        }
    }

    fn hash(&self, content: &Content, path: &Path) -> Result<(u64, Sha256), DownloadError> {
        let disk_error = |source| DownloadError::Disk { content_tree: content.content_tree, source };
        let size_bytes = self.disk.metadata(path).map_err(disk_error)?.map_or(0, |found| found.size_bytes);
        let mut hasher = Sha256::new();
        let mut at_bytes = 0;
        loop {
            self.stop_if_cancelled(content)?;
            let block = self.disk.read_at(path, at_bytes, BLOCK_BYTES).map_err(disk_error)?;
            if block.is_empty() {
                return Ok((at_bytes, hasher));
            }
            hasher.update(&block);
            at_bytes += block.len() as u64;
            (self.report)(Progress::Verifying { percent: percent(at_bytes, size_bytes) });
        }
    }

    fn part_size(&self, content: &Content) -> Result<u64, DownloadError> {
        match self.disk.metadata(&part_file(self.layout, &content.content_tree)) {
            Ok(found) => Ok(found.map_or(0, |found| found.size_bytes)),
            Err(source) => Err(DownloadError::Disk { content_tree: content.content_tree, source }),
        }
    }

    fn drop_part(&self, content: &Content) -> Result<(), DownloadError> {
        crashsafe::remove_durable(self.disk, &part_file(self.layout, &content.content_tree))
            .map_err(|source| DownloadError::Disk { content_tree: content.content_tree, source })
    }

    /// Nothing is kept of content that is too large.
    fn refuse_too_large(&self, content: &Content, url: &str, size_bytes: u64) -> Result<(), DownloadError> {
        if content.max_size_bytes == 0 || size_bytes <= content.max_size_bytes {
            return Ok(());
        }
        self.drop_part(content)?;
        Err(DownloadError::TooLarge {
            content_tree: content.content_tree,
            url: url.into(),
            max_size_bytes: content.max_size_bytes,
        })
    }

    fn stop_if_cancelled(&self, content: &Content) -> Result<(), DownloadError> {
        match (self.is_cancelled)() {
            true => Err(DownloadError::Cancelled { content_tree: content.content_tree }),
            false => Ok(()),
        }
    }
}

/// Reads until the block is full, the body ends or breaks.
fn fill(body: &mut dyn Read, block: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < block.len() {
        match body.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

fn percent(at_bytes: u64, total_bytes: u64) -> u8 {
    match total_bytes {
        0 => 0,
        total => (u128::from(at_bytes) * 100 / u128::from(total)).min(100) as u8,
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
