//! The file that is being made: bytes of the disk go in, by writing or by sharing.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::outbox::Outbox;
use super::target::{BLOCK_BYTES, Target};
use crate::error::{Error, Result};
use crate::os::reflink;
use crate::os::tmpfile::Staged;

#[derive(Debug)]
pub(super) struct Sink<'a, T> {
    staged: &'a Staged,
    target: T,
    outbox: Outbox,
    pub copied_bytes: u64,
    pub shared_bytes: u64,
}

/// What became of bytes that were to be shared.
#[derive(Debug)]
pub(super) enum Shared {
    /// That many are.
    Bytes(u64),
    /// None, and nothing has changed.
    Refused(io::Error),
}

impl<'a, T: Target> Sink<'a, T> {
    pub(super) fn new(staged: &'a Staged, target: T) -> Self {
        Self { staged, target, outbox: Outbox::default(), copied_bytes: 0, shared_bytes: 0 }
    }

    pub(super) fn staged(&self) -> &'a Staged {
        self.staged
    }

    /// Stores `bytes` at guest offset `guest`, but for blocks that are zeros.
    pub(super) fn put(&mut self, guest: u64, bytes: &[u8]) -> Result<()> {
        let mut at = guest;
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = usize::try_from(BLOCK_BYTES - at % BLOCK_BYTES).expect("one block");
            let (part, behind) = rest.split_at(count.min(rest.len()));
            let end = at + part.len() as u64;
            if !is_zero(part) {
                let place = self.target.place(at..end);
                self.enter(at..end)?;
                let put = self.outbox.put(self.staged.file(), place.start, part);
                put.map_err(|error| self.about(error.into()))?;
                self.copied_bytes += end - at;
            }
            (at, rest) = (end, behind);
        }
        Ok(())
    }

    /// Makes the first bytes of `guest` share those at `offset` of `source`. All lie on whole
    /// blocks of the file system.
    pub(super) fn share(
        &mut self,
        source: &File,
        offset: u64,
        guest: Range<u64>,
    ) -> Result<Shared> {
        let place = self.target.place(guest.clone());
        let bytes = place.end - place.start;
        let range = offset..offset + bytes;
        if let Err(error) = reflink::clone_range(source, range, self.staged.file(), place.start) {
            return Ok(Shared::Refused(error));
        }
        self.enter(guest.start..guest.start + bytes)?;
        self.shared_bytes += bytes;
        Ok(Shared::Bytes(bytes))
    }

    /// Writes all that is not written yet. Durable it is not.
    pub(super) fn finish(mut self) -> Result<Self> {
        self.outbox.finish(self.staged.file()).map_err(|error| self.about(error.into()))?;
        self.copied_bytes += self.target.finish().map_err(|error| self.about(error))?;
        Ok(self)
    }

    fn enter(&mut self, guest: Range<u64>) -> Result<()> {
        self.target.enter(guest).map_err(|error| self.about(error))
    }

    fn about(&self, error: Error) -> Error {
        error.about(self.staged.target())
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}
