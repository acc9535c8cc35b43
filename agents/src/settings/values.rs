//! Each setting's value from its text. An error is the end of a sentence: what was expected.

use std::path::PathBuf;
use std::time::Duration;

use holdfast_types::DeviceId;
use tracing_subscriber::EnvFilter;

use crate::domainmgr::vmm::Accel;
use crate::wire::link::HttpLink;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The kernel's limit for the path of a Unix socket (107), less the letter of the name it is first bound under.
const SOCKET_PATH_MAX_BYTES: usize = 106;

const POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
const DURATION_MAX: Duration = Duration::from_secs(24 * 3600);

pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("a path is expected".into());
    }
    std::path::absolute(text).map_err(|e| format!("a path is expected ({e})"))
}

pub fn socket(text: &str) -> Result<PathBuf, String> {
    let path = path(text)?;
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_MAX_BYTES {
        return Err(format!(
            "a path of at most {SOCKET_PATH_MAX_BYTES} bytes is expected, this has {length}"
        ));
    }
    Ok(path)
}

pub fn controller(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err("TLS is not spoken yet, an http:// address is expected".into());
    }
    let rest = text.strip_prefix("http://").unwrap_or_default();
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("an address such as http://controller:8080 is expected".into());
    }
    let address = text.trim_end_matches('/');
    // The link has the last word on what an address is.
    HttpLink::new(address, uuid::Uuid::nil()).map_err(|refused| refused.to_string())?;
    Ok(address.to_string())
}

pub fn device(text: &str) -> Result<DeviceId, String> {
    text.parse().map_err(|_| "a UUID of 36 characters is expected".to_string())
}

pub fn accelerator(text: &str) -> Result<Accel, String> {
    text.parse().map_err(|_| "one of auto, kvm, tcg is expected".into())
}

/// How ZFS is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZfsChoice {
    /// By the library where this program was built with it, otherwise by the command.
    Auto,
    Library,
    Command,
    /// Not at all: volumes are files, also on a ZFS file system.
    Off,
}

pub fn zfs(text: &str) -> Result<ZfsChoice, String> {
    match text {
        "auto" => Ok(ZfsChoice::Auto),
        "library" if !cfg!(feature = "libzetta") => Err("this program was built without the library".into()),
        "library" => Ok(ZfsChoice::Library),
        "command" => Ok(ZfsChoice::Command),
        "off" => Ok(ZfsChoice::Off),
        _ => Err("one of auto, library, command, off is expected".into()),
    }
}

pub fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("one of text, json is expected".into()),
    }
}

pub fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::builder()
        .parse(text)
        .map(|_| text.to_string())
        .map_err(|e| format!("a level (error, warn, info, debug, trace) or a filter is expected ({e})"))
}

pub fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "a whole number is expected".into())
}

pub fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "a time such as 500ms, 10s or 2m is expected".to_string();
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let found = number.checked_mul(unit_ms).map(Duration::from_millis);
    found.filter(|found| *found <= DURATION_MAX).ok_or_else(|| "at most 24h is expected".into())
}

pub fn poll_interval(text: &str) -> Result<Duration, String> {
    let found = duration(text)?;
    if found < POLL_INTERVAL_MIN {
        return Err(format!("at least {} ms is expected", POLL_INTERVAL_MIN.as_millis()));
    }
    Ok(found)
}

pub fn size(text: &str) -> Result<u64, String> {
    let expected = || "a size such as 512KiB, 16MiB or 1GiB is expected".to_string();
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let unit_bytes: u64 = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    number.checked_mul(unit_bytes).ok_or_else(expected)
}

fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("24h", 86_400_000)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for text in ["", "10", "s", "-1s", "1.5s", "10 s", "25h", "99999999999999999999s", "1d"] {
            duration(text).expect_err(text);
        }
        poll_interval("1ms").expect_err("a busy node");
    }

    #[test]
    fn sizes_may_have_a_unit() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("2KiB", 2048), ("16MiB", 16 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "MiB", "16M", "16 MiB", "-1", "99999999999999GiB"] {
            size(text).expect_err(text);
        }
    }

    #[test]
    fn an_address_has_a_host() {
        for text in ["http://127.0.0.1:8080", "http://controller/", "http://[::1]:80/base"] {
            controller(text).expect(text);
        }
        for text in ["", "controller:8080", "http://", "http:///x", "ftp://x", "http://a b"] {
            controller(text).expect_err(text);
        }
    }

    #[test]
    fn a_socket_must_fit_the_kernels_limit() {
        socket("/run/holdfast.sock").unwrap();
        let refused = socket(&format!("/{}", "x".repeat(106))).unwrap_err();
        assert_eq!(refused, "a path of at most 106 bytes is expected, this has 107");
    }

    #[test]
    fn a_log_filter_is_checked() {
        log_filter("info,holdfast_agents=debug").unwrap();
        log_filter("holdfast=loud").unwrap_err();
    }
}
