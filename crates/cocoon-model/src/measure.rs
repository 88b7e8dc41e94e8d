//! Reads an archive once and hashes it: while one piece is hashed by several threads, it is written out and the next is
//! read.

use std::io::{self, Seek, Write};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::thread;

use crate::error::ModelError;
use crate::output::Output;
use crate::verity::{BLOCK_BYTES, HASH_BYTES, RootHash, TreeBuilder, TreeFile, block_hash};
use crate::{Progress, Watch};

/// Bytes that are hashed at a time; two such pieces are in memory.
const PIECE_BYTES: usize = 8 * 1024 * 1024;
/// Most threads that hash. More would wait for the disk.
const MAX_THREADS: usize = 8;

/// Where the bytes of an archive come from.
pub(crate) trait Source {
    /// How many there are.
    fn total(&self) -> u64;

    /// Puts the next bytes into a buffer; 0 at the end only.
    fn fill(&mut self, into: &mut [u8]) -> Result<usize, ModelError>;
}

#[derive(Debug)]
pub(crate) enum Error {
    Model(ModelError),
    /// The hash tree cannot be written.
    Tree(io::Error),
}

impl From<ModelError> for Error {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}

pub(crate) struct Measuring<W> {
    tree: Option<TreeFile<W>>,
}

impl<W: Write + Seek> Measuring<W> {
    pub(crate) fn new() -> Self {
        Self { tree: None }
    }

    /// Writes the hash tree, too.
    pub(crate) fn tree(&mut self, tree: TreeFile<W>) {
        self.tree = Some(tree);
    }

    /// Reads and hashes everything; `copy` gets the bytes.
    pub(crate) fn run(
        self,
        source: &mut dyn Source,
        mut copy: Option<&mut Output>,
        watch: &mut Watch<'_>,
    ) -> Result<RootHash, Error> {
        let total = source.total();
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        let mut tree = TreeBuilder::new(self.tree);
        let mut piece = Vec::new();
        let mut next = Vec::new();
        let mut done = 0_u64;
        read(source, &mut piece)?;
        while !piece.is_empty() {
            let hashes = hash_beside(&piece, threads, || {
                if let Some(output) = &mut copy {
                    output.write_piece(&piece)?;
                }
                read(source, &mut next)
            })?;
            for hash in hashes {
                tree.push(hash).map_err(Error::Tree)?;
            }
            done += piece.len() as u64;
            if watch(Progress { done, total }) == ControlFlow::Break(()) {
                return Err(ModelError::Cancelled.into());
            }
            std::mem::swap(&mut piece, &mut next);
        }
        tree.finish().map_err(Error::Tree)
    }
}

/// Fills a piece as far as there are bytes.
fn read(source: &mut dyn Source, piece: &mut Vec<u8>) -> Result<(), ModelError> {
    piece.resize(PIECE_BYTES, 0);
    let mut filled = 0;
    while let Some(rest) = piece.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match source.fill(rest)? {
            0 => break,
            read => filled += read,
        }
    }
    piece.truncate(filled);
    Ok(())
}

/// The hashes of a piece's blocks, computed by threads while this one does something else.
fn hash_beside(
    piece: &[u8],
    threads: usize,
    beside: impl FnOnce() -> Result<(), ModelError>,
) -> Result<Vec<[u8; HASH_BYTES]>, ModelError> {
    // Sources give whole blocks: lengths are looked at before.
    let (blocks, _) = piece.as_chunks::<BLOCK_BYTES>();
    let share = blocks.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let started = blocks.chunks(share).map(|blocks| {
            let work = move || hash_all(blocks);
            // Where the system gives no thread, this one does it all.
            (blocks, thread::Builder::new().spawn_scoped(scope, work).ok())
        });
        let started: Vec<_> = started.collect();
        let outcome = beside();
        let mut hashes = Vec::with_capacity(blocks.len());
        for (blocks, thread) in started {
            // A thread that panicked has no hashes; this one then meets the same panic.
            let done = thread.and_then(|thread| thread.join().ok());
            hashes.extend(done.unwrap_or_else(|| hash_all(blocks)));
        }
        outcome.map(|()| hashes)
    })
}

fn hash_all(blocks: &[[u8; BLOCK_BYTES]]) -> Vec<[u8; HASH_BYTES]> {
    blocks.iter().map(block_hash).collect()
}
