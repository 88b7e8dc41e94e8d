//! The dm-verity hash tree of format version 1, with the parameters of the published tool: SHA-256, blocks of 4096 bytes,
//! a fixed salt. Source: the Linux kernel's `Documentation/admin-guide/device-mapper/verity.rst`, cryptsetup's
//! description of the on-disk format (its wiki, page DMVerity), and `veritysetup format`'s output.
//!
//! Each block of the data is hashed; the hashes fill blocks of the next level, which are hashed again, until one hash is
//! left: the root hash. All in one pass: each level keeps the one block that it fills.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Bytes of a block of data and of a block of hashes.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;
/// Hashes in a block.
const HASHES_PER_BLOCK: u64 = (BLOCK_BYTES / HASH_BYTES) as u64;
/// The salt that the published tool gives to `veritysetup` (`scripts/build-model`), hashed before each block.
pub const SALT: [u8; 17] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x10, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f];
/// The superblock's UUID, 645ac31f-7610-42e1-8434-9d733699eac0, from the same place.
pub const UUID: [u8; 16] =
    [0x64, 0x5a, 0xc3, 0x1f, 0x76, 0x10, 0x42, 0xe1, 0x84, 0x34, 0x9d, 0x73, 0x36, 0x99, 0xea, 0xc0];
/// Version of the superblock, and of the hash format: 1 puts the salt before the block.
const VERSION: u32 = 1;

/// The hash of everything: the last part of a model's name. As text, 64 hexadecimal digits in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash(pub [u8; HASH_BYTES]);

/// Text that is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a model's hash is 64 hexadecimal digits in lower case")]
pub struct NoHash;

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for RootHash {
    type Err = NoHash;

    fn from_str(text: &str) -> Result<Self, NoHash> {
        let digit = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(NoHash),
        };
        let mut hash = [0; HASH_BYTES];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != HASH_BYTES || !rest.is_empty() {
            return Err(NoHash);
        }
        for (byte, [high, low]) in hash.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(hash))
    }
}

/// The hash of one block.
#[must_use]
pub fn block_hash(block: &[u8; BLOCK_BYTES]) -> [u8; HASH_BYTES] {
    Sha256::new().chain_update(SALT).chain_update(block).finalize().into()
}

/// The root hash of all that a reader gives, which must be whole blocks. For tests and small data: one thread.
///
/// # Errors
/// What the reader says; [`io::ErrorKind::UnexpectedEof`] for no block at all or a part of one.
pub fn root_hash(mut reader: impl Read) -> io::Result<RootHash> {
    let mut tree = TreeBuilder::<io::Cursor<Vec<u8>>>::new(None);
    let mut block = [0; BLOCK_BYTES];
    loop {
        // `read_exact` would not tell an end from a part.
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match reader.read(rest)? {
                0 if filled == 0 => return tree.finish(),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        tree.push(block_hash(&block))?;
    }
}

/// One level of the tree: the block that fills, and how many are full.
#[derive(Debug, Default)]
struct Level {
    block: Vec<u8>,
    full: u64,
}

/// Builds the tree from the hashes of the data's blocks, in order.
#[derive(Debug)]
pub struct TreeBuilder<W> {
    levels: Vec<Level>,
    file: Option<TreeFile<W>>,
}

impl<W: Write + Seek> TreeBuilder<W> {
    /// `file`: where the blocks of hashes go; without it only the root hash is computed.
    #[must_use]
    pub fn new(file: Option<TreeFile<W>>) -> Self {
        Self { levels: Vec::new(), file }
    }

    /// Takes the hash of the next block of data.
    ///
    /// # Errors
    /// The hash file cannot be written.
    pub fn push(&mut self, hash: [u8; HASH_BYTES]) -> io::Result<()> {
        self.push_at(0, hash)
    }

    fn push_at(&mut self, mut at: usize, mut hash: [u8; HASH_BYTES]) -> io::Result<()> {
        loop {
            // At most nine levels: each has a 128th of the blocks below.
            if at == self.levels.len() {
                self.levels.push(Level::default());
            }
            let Some(level) = self.levels.get_mut(at) else { return Ok(()) };
            level.block.extend_from_slice(&hash);
            if level.block.len() < BLOCK_BYTES {
                return Ok(());
            }
            hash = self.close_block(at)?;
            at += 1;
        }
    }

    /// Writes the block that fills at a level, and gives its hash.
    fn close_block(&mut self, at: usize) -> io::Result<[u8; HASH_BYTES]> {
        let mut block = [0; BLOCK_BYTES];
        let Some(level) = self.levels.get_mut(at) else { return Ok([0; HASH_BYTES]) };
        // What is missing of a last block is zeros.
        level.block.iter().zip(&mut block).for_each(|(from, to)| *to = *from);
        level.block.clear();
        if let Some(file) = &mut self.file {
            file.write(at, level.full, &block)?;
        }
        level.full += 1;
        Ok(block_hash(&block))
    }

    /// Closes all levels.
    ///
    /// # Errors
    /// As [`Self::push`]; [`io::ErrorKind::UnexpectedEof`] where there was no block at all, or fewer than the hash file
    /// was laid out for.
    pub fn finish(mut self) -> io::Result<RootHash> {
        let mut at = 0;
        loop {
            let Some(level) = self.levels.get(at) else { return Err(io::ErrorKind::UnexpectedEof.into()) };
            // A level that has only ever had one hash is above the tree.
            if level.full == 0 && level.block.len() == HASH_BYTES {
                let root = <[u8; HASH_BYTES]>::try_from(level.block.as_slice()).map_err(io::Error::other)?;
                if let Some(file) = &mut self.file {
                    file.finish(at)?;
                }
                return Ok(RootHash(root));
            }
            if !level.block.is_empty() {
                let hash = self.close_block(at)?;
                self.push_at(at + 1, hash)?;
            }
            at += 1;
        }
    }
}

/// The hash file as `veritysetup format` writes it: the superblock in a block of its own, then the levels of the tree
/// from the root down.
#[derive(Debug)]
pub struct TreeFile<W> {
    out: W,
    /// Of each level from the data up: where it begins in the file, and how many blocks it has.
    levels: Vec<(u64, u64)>,
    /// Blocks that were written.
    written: u64,
}

impl<W: Write + Seek> TreeFile<W> {
    /// Lays the file out for so many blocks of data, and writes the superblock.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(mut out: W, data_blocks: u64) -> io::Result<Self> {
        let mut sizes = Vec::new();
        let mut blocks = data_blocks;
        while blocks > 1 {
            blocks = blocks.div_ceil(HASHES_PER_BLOCK);
            sizes.push(blocks);
        }
        let mut place = BLOCK_BYTES as u64;
        let mut levels = Vec::new();
        for blocks in sizes.into_iter().rev() {
            levels.push((place, blocks));
            place += blocks * BLOCK_BYTES as u64;
        }
        levels.reverse();
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&superblock(data_blocks))?;
        Ok(Self { out, levels, written: 0 })
    }

    fn write(&mut self, level: usize, index: u64, block: &[u8; BLOCK_BYTES]) -> io::Result<()> {
        let place = self.levels.get(level).filter(|(_, blocks)| index < *blocks);
        let (start, _) =
            place.ok_or_else(|| io::Error::other("more data than the hash tree was laid out for"))?;
        self.out.seek(SeekFrom::Start(start + index * BLOCK_BYTES as u64))?;
        self.out.write_all(block)?;
        self.written += 1;
        Ok(())
    }

    /// Makes sure that the tree is whole.
    fn finish(&mut self, levels: usize) -> io::Result<()> {
        let expected: u64 = self.levels.iter().map(|(_, blocks)| blocks).sum();
        if levels != self.levels.len() || self.written != expected {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.out.flush()
    }
}

/// The first block of a hash file: 512 bytes and zeros. Numbers are little-endian.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "4096 and 17")]
pub fn superblock(data_blocks: u64) -> [u8; BLOCK_BYTES] {
    let block_bytes = (BLOCK_BYTES as u32).to_le_bytes();
    let parts: [(usize, &[u8]); 10] = [
        (0, b"verity\0\0"),
        (8, &VERSION.to_le_bytes()),
        (12, &VERSION.to_le_bytes()),
        (16, &UUID),
        (32, b"sha256"),
        (64, &block_bytes),
        (68, &block_bytes),
        (72, &data_blocks.to_le_bytes()),
        (80, &(SALT.len() as u16).to_le_bytes()),
        (88, &SALT),
    ];
    let mut block = [0; BLOCK_BYTES];
    for (place, bytes) in parts {
        block.iter_mut().skip(place).zip(bytes).for_each(|(to, from)| *to = *from);
    }
    block
}
