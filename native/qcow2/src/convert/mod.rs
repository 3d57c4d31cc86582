//! Conversion: a raw disk becomes an image, an image becomes a raw disk, a chain becomes one image.
//!
//! A source is a *chain*: the file that was asked for and, only if that was asked for too, the
//! files that it names as its backing. It is only read, and nobody can write to it meanwhile. Every
//! guest offset has a *piece* in it: zeros, bytes of one of the files, or part of a compressed
//! cluster. The pieces are taken in the order of the disk; what can share its blocks with the
//! target does, the rest goes through memory, and what reads as zeros is not stored. Memory does
//! not grow with the disk, but for the L1 table of the target (8 bytes for 512 MiB).
//!
//! The target is a new file without a name until it is whole and durable. Nothing is ever replaced.
//!
//! | file | knows |
//! |---|---|
//! | `chain` | the files, and what shows through |
//! | `backing` | which file an image names |
//! | `layer`, `guest_map`, `data_map` | one file: its tables, its holes |
//! | `transfer` | which pieces are shared and which copied |
//! | `sink`, `outbox`, `target` | the new file: what goes in, how, and where |

mod backing;
mod chain;
mod data_map;
mod guest_map;
mod inflated;
mod layer;
mod outbox;
mod piece;
mod sink;
mod target;
#[cfg(test)]
mod tests;
mod transfer;
mod words;

use std::path::Path;

use crate::clone::Used;
use crate::error::{Error, Result};
use crate::os::tmpfile::{Durability, Staged};
use sink::Sink;
use target::{NewDisk, RawDisk};
use transfer::{Moved, Transfer};

pub use chain::{Chain, LockFile};

/// What a file is, as whoever names it says. Never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An image.
    Qcow2,
    /// The bytes of the disk themselves.
    Raw,
}

/// What happens where an image has a backing file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// The image is refused, and the file that it names is not opened.
    #[default]
    Refuse,
    /// The files of the chain are opened, and their content becomes part of the target.
    Flatten,
}

/// What is to be converted.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The file.
    pub path: &'a Path,
    /// What it is.
    pub format: Format,
    /// The snapshot (an id, else a name) whose content is meant; none: the active disk.
    pub snapshot: Option<&'a [u8]>,
    /// What happens where it has a backing file.
    pub backing: Backing,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Converted {
    /// Whether any blocks are shared.
    pub used: Used,
    /// Why none are, where there was data.
    pub reason: Option<String>,
    /// Bytes written to the target, its metadata included.
    pub copied_bytes: u64,
    /// Bytes of the target that were made to share the blocks of a source.
    pub shared_bytes: u64,
    /// The size of the disk.
    pub virtual_size: u64,
}

/// Makes `target`, durably, a disk of the content of `chain`: an image has version 3, clusters of
/// 64 KiB and no snapshots; a raw disk has holes where the disk reads as zeros.
///
/// `progress` is told how far through the disk the conversion is, and the size of the disk, both in
/// bytes.
///
/// Fails with [`Kind::TargetExists`](crate::Kind::TargetExists) before anything is copied if the
/// name is taken, and with [`Kind::Busy`](crate::Kind::Busy) if a source changed meanwhile. After
/// any error there is no target.
pub fn convert(
    chain: &mut Chain,
    target: &Path,
    format: Format,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted> {
    let virtual_size = chain.size();
    let staged = Staged::new(target, chain.target_mode()?)
        .map_err(|error| Error::from(error).about(target))?;
    let moved = match format {
        Format::Raw => {
            let disk = RawDisk::new(staged.file(), virtual_size);
            let disk = disk.map_err(|error| error.about(target))?;
            Transfer::new(chain, Sink::new(&staged, disk))?.run(virtual_size, progress)?
        }
        Format::Qcow2 => {
            let disk = NewDisk::new(staged.file(), virtual_size)?;
            Transfer::new(chain, Sink::new(&staged, disk))?.run(virtual_size, progress)?
        }
    };
    chain.ensure_unchanged()?;
    staged.publish(Durability::Now).map_err(|error| Error::from(error).about(target))?;
    let Moved { copied_bytes, shared_bytes, reason } = moved;
    let used = if shared_bytes > 0 { Used::Reflink } else { Used::Copy };
    Ok(Converted { used, reason, copied_bytes, shared_bytes, virtual_size })
}
