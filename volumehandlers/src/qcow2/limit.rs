//! How long one process may take ([003] J1): a limit that grows with the work, never a fixed two minutes.
//!
//! ```text
//!   metadata (snapshot -c/-a/-d, info, resize):  60 s + 10 s per GiB of the file
//!   content  (convert, check):                   60 s +  1 s per 4 MiB of the file
//! ```
//!
//! A metadata step touches the reference count and the table entry of every mapped cluster: about 10 bytes per
//! 64 KiB, 160 KiB per GiB. Ten seconds for those is a hundred times slower than the slowest eMMC measured. A
//! content step reads and writes everything; 4 MiB/s is a failing SD card. What is slower than that hangs.

use std::time::Duration;

const BASE: Duration = Duration::from_secs(60);
const GIB: u64 = 1 << 30;
const SLOWEST_BYTES_PER_SECOND: u64 = 4 << 20;

pub fn for_metadata(file_bytes: u64) -> Duration {
    BASE + Duration::from_secs(10 * file_bytes.div_ceil(GIB))
}

pub fn for_content(file_bytes: u64) -> Duration {
    BASE + Duration::from_secs(file_bytes.div_ceil(SLOWEST_BYTES_PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_grows_with_the_image() {
        assert_eq!(for_metadata(0), Duration::from_secs(60));
        assert_eq!(for_metadata(128 * GIB), Duration::from_secs(60 + 1280));
        assert_eq!(for_content(GIB), Duration::from_secs(60 + 256));
    }
}
