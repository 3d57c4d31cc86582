//! What the guest sees of the active disk or a snapshot; `replacement` gives the active disk other
//! content.
//!
//! Nothing here opens a backing file or decrypts: such images are refused by name.

mod replacement;

use std::io::Read;

use ruzstd::decoding::StreamingDecoder;

use crate::error::{Error, Kind, Result, corrupt};
use crate::format::header::{Compression, Encryption};
use crate::format::mapping::{self, Mapping};
use crate::image::Image;

/// Largest window of a Zstandard frame that is decoded, as its specification recommends; four times
/// the largest cluster.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// Which content of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// What a guest would see now.
    Active,
    /// The snapshot at this position of the table.
    Snapshot(usize),
}

/// Reads guest content. Keeps one L2 table and one decompressed cluster.
#[derive(Debug)]
pub struct Content<'a> {
    image: &'a Image,
    size: u64,
    l1: Vec<u64>,
    l1_offset: u64,
    /// L1 index and entries of the table read last.
    table: Option<(usize, Vec<u64>)>,
    /// L2 entry and content of the cluster decompressed last.
    inflated: Option<(u64, Vec<u8>)>,
}

impl Image {
    /// Opens guest content for reading.
    pub fn content(&self, disk: Disk) -> Result<Content<'_>> {
        self.ensure_mapped_here()?;
        if self.header.backing_file.is_some() {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has a backing file, which is not opened unasked",
            ));
        }
        if self.header.extended_l2() {
            return Err(Error::new(
                Kind::UnsupportedFeature,
                "The image has extended L2 entries, whose content is not read here",
            ));
        }
        if self.header.encryption != Encryption::None {
            return Err(Error::new(Kind::UnsupportedFeature, "The image is encrypted"));
        }
        let (size, l1_offset, entries) = match disk {
            Disk::Active => (self.header.size, self.header.l1_offset, self.header.l1_entries),
            Disk::Snapshot(index) => {
                let entry = self.snapshot(index)?;
                let size = entry.disk_size().unwrap_or(self.header.size);
                (size, entry.l1_offset, entry.l1_entries)
            }
        };
        let l1 = self.read_l1(l1_offset, entries)?;
        Ok(Content { image: self, size, l1, l1_offset, table: None, inflated: None })
    }
}

impl Content<'_> {
    /// Virtual size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` from guest offset `offset`; what lies beyond the disk's end reads as zeros.
    pub fn read_at(&mut self, buf: &mut [u8], offset: u64) -> Result<()> {
        let cluster_bytes = self.image.header.cluster_bytes();
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let inside = at % cluster_bytes;
            let count = usize::try_from(cluster_bytes - inside).expect("at most 2 MiB");
            let (piece, tail) = rest.split_at_mut(count.min(rest.len()));
            self.read_piece(piece, at - inside, usize::try_from(inside).expect("at most 2 MiB"))?;
            at += piece.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Whether data is mapped at guest offset `guest`; elsewhere the disk reads as zeros.
    pub fn is_allocated(&mut self, guest: u64) -> Result<bool> {
        let entry = self.entry(guest)?;
        Ok(!matches!(self.decode(entry, guest)?, Mapping::Unallocated | Mapping::Zero { .. }))
    }

    fn read_piece(&mut self, piece: &mut [u8], cluster: u64, inside: usize) -> Result<()> {
        let entry = if cluster < self.size { self.entry(cluster)? } else { 0 };
        match self.decode(entry, cluster)? {
            Mapping::Unallocated | Mapping::Zero { .. } => piece.fill(0),
            Mapping::Standard { offset } => {
                self.image.storage.read_at(piece, offset + inside as u64)?;
            }
            Mapping::Compressed { offset, length } => {
                if self.inflated.as_ref().is_none_or(|(known, _)| *known != entry) {
                    self.inflated = Some((entry, self.image.inflate(offset, length)?));
                }
                let (_, bytes) = self.inflated.as_ref().expect("just set");
                piece.copy_from_slice(&bytes[inside..inside + piece.len()]);
            }
        }
        let end = cluster + inside as u64 + piece.len() as u64;
        if end > self.size {
            let valid = self.size.saturating_sub(cluster + inside as u64);
            let valid = usize::try_from(valid).unwrap_or(usize::MAX).min(piece.len());
            piece[valid..].fill(0);
        }
        Ok(())
    }

    fn decode(&self, entry: u64, guest: u64) -> Result<Mapping> {
        let header = &self.image.header;
        Mapping::decode(entry, header.cluster_bits, header.version, guest)
    }

    /// The L2 entry for guest offset `guest`.
    fn entry(&mut self, guest: u64) -> Result<u64> {
        let header = &self.image.header;
        let slot = usize::try_from(guest / header.l1_entry_span()).unwrap_or(usize::MAX);
        let index = usize::try_from((guest % header.l1_entry_span()) >> header.cluster_bits)
            .expect("inside a table");
        let Some(&l1_entry) = self.l1.get(slot) else { return Ok(0) };
        let at = self.l1_offset + slot as u64 * 8;
        let Some(offset) = mapping::l2_offset(l1_entry, header.cluster_bits, at)? else {
            return Ok(0);
        };
        if self.table.as_ref().is_none_or(|(known, _)| *known != slot) {
            let bytes = self.image.read_table_bytes(offset, header.cluster_bytes(), "L2 table")?;
            self.table = Some((slot, mapping::decode_table(&bytes)));
        }
        Ok(self.table.as_ref().expect("just set").1[index])
    }
}

impl Image {
    /// Decompresses the cluster whose data begins at host offset `offset` and takes at most
    /// `length` bytes. Input and output are bounded by the entry and the cluster size, memory by a
    /// window that no writer exceeds.
    pub(crate) fn inflate(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let bad = |_| corrupt(format!("Compressed cluster at {offset:#x} is damaged"), offset);
        if offset >= self.file_bytes {
            return Err(corrupt(
                format!("Compressed cluster at {offset:#x} is outside the image"),
                offset,
            ));
        }
        let mut input = vec![0; usize::try_from(length).expect("at most two clusters")];
        self.storage.read_at(&mut input, offset)?;
        let size = usize::try_from(self.header.cluster_bytes()).expect("at most 2 MiB");
        let mut output = vec![0; size];
        match self.header.compression {
            Compression::Zlib => {
                flate2::read::DeflateDecoder::new(input.as_slice())
                    .read_exact(&mut output)
                    .map_err(bad)?;
            }
            Compression::Zstd => {
                StreamingDecoder::new_with_max_window_size(input.as_slice(), MAX_WINDOW_BYTES)
                    .map_err(|_| std::io::Error::other("zstd"))
                    .and_then(|mut decoder| decoder.read_exact(&mut output))
                    .map_err(bad)?;
            }
        }
        Ok(output)
    }
}
