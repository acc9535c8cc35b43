//! What stands on a virtual disk, as the model knows it and as a digest.
//!
//! A disk is blocks of 4 KiB, each filled with one byte. The digest covers every chunk of 64 KiB that is not all zero,
//! with its place, so that neither holes nor the disk's size cost anything.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub const BLOCK_BYTES: u64 = 4096;
pub const CHUNK_BYTES: u64 = 64 * 1024;
static ZEROS: [u8; CHUNK_BYTES as usize] = [0; CHUNK_BYTES as usize];
const BLOCKS_PER_CHUNK: u64 = CHUNK_BYTES / BLOCK_BYTES;

/// One write of a guest: blocks from `first` on, all filled with `fill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    pub first: u64,
    pub blocks: u64,
    pub fill: u8,
}

/// The blocks that were written to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Content {
    blocks: BTreeMap<u64, u8>,
    /// Asked for after every kill, and changed only by a write.
    #[serde(skip)]
    digest: OnceCell<String>,
}

impl Content {
    pub fn write(&mut self, write: Write) {
        self.digest.take();
        self.blocks.extend((write.first..write.first + write.blocks).map(|block| (block, write.fill)));
    }

    pub fn digest(&self) -> &str {
        self.digest.get_or_init(|| self.hash())
    }

    fn hash(&self) -> String {
        let mut chunks: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        for (block, fill) in &self.blocks {
            let chunk =
                chunks.entry(block / BLOCKS_PER_CHUNK).or_insert_with(|| vec![0; CHUNK_BYTES as usize]);
            let at = (block % BLOCKS_PER_CHUNK * BLOCK_BYTES) as usize;
            chunk[at..at + BLOCK_BYTES as usize].fill(*fill);
        }
        let mut hash = ChunkHash::default();
        for (number, chunk) in &chunks {
            hash.add(*number, chunk);
        }
        hash.finish()
    }
}

/// Takes a disk's chunks in their order; those of zeros only count as holes.
#[derive(Debug, Default)]
pub struct ChunkHash {
    hasher: Sha256,
}

impl ChunkHash {
    pub fn add(&mut self, number: u64, chunk: &[u8]) {
        if chunk != &ZEROS[..chunk.len()] {
            self.hasher.update(number.to_le_bytes());
            self.hasher.update(chunk);
        }
    }

    pub fn finish(self) -> String {
        self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
