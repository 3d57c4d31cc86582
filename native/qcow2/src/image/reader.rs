//! Reads the image as `qemu-img` sees it: whatever lies beyond the end of the file is zeros, up to
//! where no file can reach.

use crate::error::{Error, Kind, Result};
use crate::format::header::{CHANGING_BYTES, MAX_FILE_BYTES};
use crate::storage::Storage;

/// An image's bytes. Any offset may be asked for; none is trusted.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub storage: &'a dyn Storage,
    pub file_bytes: u64,
    hides_fields: bool,
}

impl<'a> Reader<'a> {
    pub fn new(storage: &'a dyn Storage, file_bytes: u64) -> Self {
        Self { storage, file_bytes, hides_fields: false }
    }

    /// The same, with zeros where the header has what a commit may change.
    pub fn without_fields(self) -> Self {
        Self { hides_fields: true, ..self }
    }

    /// Fills `buf` from `offset`.
    pub fn fill(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.saturating_add(buf.len() as u64) > MAX_FILE_BYTES {
            return Err(Error::new(Kind::Io, "Input/output error").at(offset));
        }
        let available = self.file_bytes.saturating_sub(offset);
        let present = buf.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let (inside, outside) = buf.split_at_mut(present);
        if !inside.is_empty() {
            self.storage.read_at(inside, offset)?;
        }
        outside.fill(0);
        if self.hides_fields {
            let length = buf.len() as u64;
            let at = |position: u64| {
                let within = position.saturating_sub(offset).min(length);
                usize::try_from(within).expect("within a buffer")
            };
            buf[at(CHANGING_BYTES.start)..at(CHANGING_BYTES.end)].fill(0);
        }
        Ok(())
    }
}
