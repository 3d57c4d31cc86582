//! Takes a chain piece by piece into a new file: shares blocks where that can be, else copies.

use std::io;
use std::ops::Range;

use super::chain::Chain;
use super::piece::What;
use super::sink::{Shared, Sink};
use super::target::{BLOCK_BYTES, Target};
use crate::clone::reflink::explain;
use crate::error::{Error, Result};
use crate::os::{filesystem, reflink};
use crate::storage::Storage;

/// What is read at a time.
const STEP_BYTES: u64 = 1 << 20;

/// What is shared at a time, so that the caller hears from us.
const SHARE_BYTES: u64 = 1 << 30;

/// Shorter pieces are copied: sharing one takes longer than its bytes do.
const SHARE_AT_LEAST: u64 = 32 << 10;

/// What a transfer did.
#[derive(Debug)]
pub(super) struct Moved {
    pub copied_bytes: u64,
    pub shared_bytes: u64,
    /// Why nothing is shared, where there was data.
    pub reason: Option<String>,
}

/// Told how far through the disk the transfer is.
type Progress<'a> = dyn FnMut(u64) + 'a;

pub(super) struct Transfer<'a, T> {
    chain: &'a mut Chain,
    sink: Sink<'a, T>,
    /// What the file system of the target shares at once.
    block_bytes: u64,
    /// For each file of the chain, whether sharing has not failed yet.
    may_share: Vec<bool>,
    reason: Option<String>,
}

/// Bytes of a disk that one file has.
struct Stored {
    /// Position of the file in the chain.
    file: usize,
    /// Where they are in it.
    offset: u64,
    /// Where they are on the disk.
    guest: Range<u64>,
}

impl<'a, T: Target> Transfer<'a, T> {
    /// One of all of `chain` into `sink`, into which nothing has gone yet.
    pub(super) fn new(chain: &'a mut Chain, sink: Sink<'a, T>) -> Result<Self> {
        let target = sink.staged().file();
        // btrfs wants both to be excluded from copy-on-write, or neither, before the first block.
        // Where there is no such attribute, nothing is lost.
        if reflink::is_nocow(chain.file(0).file()) {
            let _ = reflink::set_nocow(target);
        }
        let block_bytes = reflink::block_bytes(target)
            .map_err(|error| Error::from(error).about(sink.staged().target()))?;
        let may_share = vec![true; chain.len()];
        Ok(Self { chain, sink, block_bytes, may_share, reason: None })
    }

    /// Does it, for a disk of `size` bytes.
    pub(super) fn run(mut self, size: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<Moved> {
        let mut at = 0;
        progress(at, size);
        while at < size {
            let (file, piece) = self.chain.piece(at)?;
            let guest = at..at + piece.bytes;
            match piece.what {
                What::Hole | What::Zero => {}
                What::Stored { offset } => {
                    self.take(&Stored { file, offset, guest }, &mut |at| progress(at, size))?;
                }
                What::Compressed { cluster, skip } => {
                    let skip = usize::try_from(skip).expect("inside a cluster");
                    let count = usize::try_from(piece.bytes).expect("inside a cluster");
                    let bytes = self.chain.inflate(file, cluster)?;
                    self.sink.put(at, &bytes[skip..skip + count])?;
                    self.note("the data is compressed");
                }
            }
            at += piece.bytes;
            progress(at, size);
        }
        let has_data = self.sink.copied_bytes > 0;
        let Sink { copied_bytes, shared_bytes, .. } = self.sink.finish()?;
        let reason = self.reason.filter(|_| has_data && shared_bytes == 0);
        Ok(Moved { copied_bytes, shared_bytes, reason })
    }

    /// Takes bytes that a file has: shares them in whole blocks, and copies the rest.
    fn take(&mut self, stored: &Stored, progress: &mut Progress<'_>) -> Result<()> {
        let guest = stored.guest.clone();
        let whole = stored.whole_blocks(self.block_bytes);
        if !self.may_share[stored.file] {
            return self.copy(stored, progress);
        }
        if self.chain.file(stored.file).has_fixed_len() {
            self.note("a block device cannot share blocks");
            return self.copy(stored, progress);
        }
        if whole.end - whole.start < SHARE_AT_LEAST {
            self.note("the data lies in pieces that are too small or not aligned");
            return self.copy(stored, progress);
        }
        self.copy(&stored.part(guest.start..whole.start), progress)?;
        let shared_to = self.share(&stored.part(whole), progress)?;
        self.copy(&stored.part(shared_to..guest.end), progress)
    }

    /// Keeps in mind why something is not shared, unless something else was the reason before.
    fn note(&mut self, reason: &str) {
        self.reason.get_or_insert_with(|| reason.to_owned());
    }

    /// Shares whole blocks. Returns up to where on the disk: if the file system turns out not to do
    /// that, the rest has to be copied.
    fn share(&mut self, stored: &Stored, progress: &mut Progress<'_>) -> Result<u64> {
        let Stored { file, offset, ref guest } = *stored;
        let mut at = guest.start;
        while at < guest.end {
            let source = self.chain.file(file);
            let from = offset + (at - guest.start);
            let part = at..guest.end.min(at + SHARE_BYTES);
            match self.sink.share(source.file(), from, part)? {
                Shared::Bytes(bytes) => at += bytes,
                Shared::Refused(error) => {
                    self.may_share[file] = false;
                    self.reason = Some(self.explain(file, &error)?);
                    break;
                }
            }
            progress(at);
        }
        Ok(at)
    }

    /// Why blocks could not be shared, in words; errors that say something else than "cannot" pass.
    fn explain(&self, file: usize, error: &io::Error) -> Result<String> {
        let staged = self.sink.staged();
        match error.raw_os_error() {
            Some(code @ (libc::EINVAL | libc::EPERM | libc::ETXTBSY)) => {
                let name = filesystem::name(staged.file());
                let error = Error::from(io::Error::from_raw_os_error(code));
                Ok(format!("{name} does not share these blocks: {error}"))
            }
            _ => explain(error, self.chain.file(file), staged),
        }
    }

    /// Copies what is not zeros.
    fn copy(&mut self, stored: &Stored, progress: &mut Progress<'_>) -> Result<()> {
        let Stored { file, offset, ref guest } = *stored;
        let mut buffer = Vec::new();
        let mut at = guest.start;
        while at < guest.end {
            let end = guest.end.min((at / STEP_BYTES + 1) * STEP_BYTES);
            buffer.resize(usize::try_from(end - at).expect("one step"), 0);
            self.chain.read_at(file, &mut buffer, offset + (at - guest.start))?;
            self.sink.put(at, &buffer)?;
            at = end;
            progress(at);
        }
        Ok(())
    }
}

impl Stored {
    /// The bytes at `guest`, which is a part of these.
    fn part(&self, guest: Range<u64>) -> Self {
        let offset = self.offset + (guest.start - self.guest.start);
        Self { file: self.file, offset, guest }
    }

    /// Where on the disk the bytes begin and end on blocks of `block` bytes, in their file and,
    /// since a block of the target holds them, there too. Empty where they do not.
    fn whole_blocks(&self, block: u64) -> Range<u64> {
        let Self { offset, ref guest, .. } = *self;
        let start = guest.start.next_multiple_of(block);
        let end = guest.end - guest.end % block;
        let is_alike = offset % block == guest.start % block && BLOCK_BYTES.is_multiple_of(block);
        if is_alike && start < end { start..end } else { guest.start..guest.start }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_those_that_both_files_can_share() {
        for (offset, guest, whole) in [
            (65_536, 4096..65_536, 4096..65_536),
            (65_636, 100..20_000, 4096..16_384),
            (65_536, 100..20_000, 100..100),
            (512, 512..4096, 512..512),
            (512, 512..8192, 4096..8192),
        ] {
            let stored = Stored { file: 0, offset, guest };
            assert_eq!(stored.whole_blocks(4096), whole, "{offset}");
        }
    }
}
