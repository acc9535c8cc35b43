//! The Unix socket the API listens on: who may have it, and who may connect.
//!
//! ```text
//!   lock <socket>.lock ──held by another──────────────────▶ InUse
//!      └─▶ something at the path? ──answers──────────────▶ InUse
//!                                 ──not a socket─────────▶ NotASocket
//!                                 ──nobody listens───────▶ stale: replaced
//!      └─▶ bind beside it, mode 0660, rename into place
//! ```
//!
//! It is bound under another name and renamed, so that nobody can connect before its mode is right, and so that a
//! client meets the old socket or the new one and never none.

#![allow(clippy::disallowed_methods, reason = "sockets and their modes are not in the Disk seam")]

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use holdfast_persist::{Disk, DiskLock, RealDisk};

/// The node's user and group.
const SOCKET_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o750;

/// A socket that listens. Dropping it removes it and lets go of its lock.
#[derive(Debug)]
pub struct ApiSocket {
    path: PathBuf,
    inode: u64,
    listener: UnixListener,
    _lock: DiskLock,
}

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another node listens on the socket {}", path.display())]
    InUse { path: PathBuf },
    #[error("{} is in the way of the socket: it is not one", path.display())]
    NotASocket { path: PathBuf },
    #[error("cannot listen on the socket {}", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

impl ApiSocket {
    /// Listens at this path; a missing last directory is made, mode 0750. A stale socket is replaced, one that
    /// somebody listens on never. After a crash a stale socket and its lock file are left, which do no harm.
    pub fn bind(path: &Path) -> Result<ApiSocket, SocketError> {
        let unusable = |source| SocketError::Unusable { path: path.to_path_buf(), source };
        ensure_directory(path).map_err(unusable)?;
        let lock = RealDisk.lock_exclusive(&beside(path, ".lock")).map_err(|e| match e.kind() {
            ErrorKind::WouldBlock => SocketError::InUse { path: path.to_path_buf() },
            _ => unusable(e),
        })?;
        refuse_if_taken(path)?;
        let listener = bind_and_rename(path).map_err(unusable)?;
        let inode = fs::symlink_metadata(path).map_err(unusable)?.ino();
        Ok(ApiSocket { path: path.to_path_buf(), inode, listener, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For the server: to be used within a tokio runtime.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        // Only if it is still this one: somebody may have removed it and put another node's there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn ensure_directory(socket: &Path) -> io::Result<()> {
    let Some(directory) = socket.parent() else { return Ok(()) };
    match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        created => created,
    }
}

fn refuse_if_taken(path: &Path) -> Result<(), SocketError> {
    let path_buf = || path.to_path_buf();
    let found = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        found => found.map_err(|source| SocketError::Unusable { path: path_buf(), source })?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path_buf() });
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(SocketError::Unusable { path: path_buf(), source }),
        Ok(_) => Err(SocketError::InUse { path: path_buf() }),
    }
}

fn bind_and_rename(path: &Path) -> io::Result<UnixListener> {
    let fresh = beside(path, "~");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, Permissions::from_mode(SOCKET_MODE))?;
    fs::rename(&fresh, path)?;
    Ok(listener)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}
