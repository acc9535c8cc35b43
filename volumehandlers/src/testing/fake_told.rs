//! How the fake image tool tells what it found, and what went wrong, in the words of the seam.

use holdfast_persist::disk::is_no_space;

use super::fake_image::FakeSnapshot;
use crate::error::ToolError;
use crate::tool::ImageSnapshot;
use crate::zvol::ZfsError;

pub(super) fn listed(snapshot: FakeSnapshot) -> ImageSnapshot {
    ImageSnapshot {
        id: snapshot.id,
        name: snapshot.name,
        created_at: snapshot.created_at,
        size_bytes: Some(snapshot.size_bytes),
        vm_state_size_bytes: 0,
    }
}

pub(super) fn not_found(name: &str) -> ToolError {
    refused(format!("snapshot {name} not found"))
}

pub(super) fn refused(stderr: String) -> ToolError {
    ToolError::Failed { program: "fake qemu-img".to_owned(), status: "exit status: 1".to_owned(), stderr }
}

pub(super) fn failed(error: std::io::Error) -> ToolError {
    match error.kind() {
        std::io::ErrorKind::NotFound => ToolError::Missing { stderr: error.to_string() },
        _ if is_no_space(&error) => ToolError::NoSpace { stderr: error.to_string() },
        _ => refused(error.to_string()),
    }
}

/// What a program hears of a device when it reads or writes it.
pub(super) fn of_device(error: ZfsError) -> ToolError {
    let stderr = error.to_string();
    match error {
        ZfsError::Missing { .. } | ZfsError::NoPool { .. } => ToolError::Missing { stderr },
        ZfsError::NoSpace { .. } | ZfsError::Quota { .. } => ToolError::NoSpace { stderr },
        _ => refused(stderr),
    }
}
