//! The files that make up a disk, from the one that was asked for to the last of its backing files.

use std::collections::HashSet;
use std::path::Path;

use super::backing::{Named, named_by};
use super::guest_map::GuestMap;
use super::inflated::Inflated;
use super::layer::{Layer, View};
use super::piece::{CompressedCluster, Piece, What};
use super::{Backing, Format, Source};
use crate::content::Disk;
use crate::error::{Error, Kind, Result};
use crate::image::{Image, lookup};
use crate::lock::ImageLock;
use crate::storage::{Access, FileStorage, Storage};

/// Files in a chain at most.
const MAX_FILES: usize = 64;

/// Takes the lock under which a file can be read, [`Intent::Share`](crate::lock::Intent::Share).
pub type LockFile<'a> = dyn FnMut(&FileStorage) -> Result<ImageLock> + 'a;

/// The open files of a source. Nobody can write to them until this is dropped.
#[derive(Debug)]
pub struct Chain {
    /// At least one; each shows through the holes of the one before.
    layers: Vec<Layer>,
    inflated: Inflated,
}

impl Chain {
    /// Opens the file of `source` and, if it is to be flattened, those that it is backed by, each
    /// named in the one before. `lock` is asked for each before anything is read from it.
    ///
    /// What cannot be read is refused by name, and an error says which file it is about. No file is
    /// opened that the request does not cover: not the backing file of an image that is not to be
    /// flattened, and none whose name is no plain path or whose format is not stated.
    pub fn open(source: &Source<'_>, lock: &mut LockFile<'_>) -> Result<Self> {
        let mut layers = Vec::new();
        let mut passed = HashSet::new();
        let (mut path, mut format) = (source.path.to_owned(), source.format);
        let mut snapshot = source.snapshot;
        loop {
            let about = |error: Error| error.about(&path);
            let file = FileStorage::open(&path, Access::Read).map_err(about)?;
            // Before it is locked: a second lock of ours could wait for the first.
            if !passed.insert(file.identity()) {
                let reason = "the chain of backing files comes back to this file";
                return Err(about(Error::new(Kind::UnsupportedFeature, reason)));
            }
            let lock = lock(&file).map_err(about)?;
            let (view, next) =
                view(&file, &path, format, snapshot, source.backing).map_err(about)?;
            layers.push(Layer::new(file, path.clone(), lock, view).map_err(about)?);
            let Some(next) = next else { break };
            if layers.len() == MAX_FILES {
                let reason = format!("the chain of backing files is longer than {MAX_FILES}");
                return Err(about(Error::new(Kind::UnsupportedFeature, reason)));
            }
            (path, format, snapshot) = (next.path, next.format, None);
        }
        Ok(Self { layers, inflated: Inflated::default() })
    }

    /// The paths of all files that are read, in the order in which they were opened.
    pub fn opened(&self) -> impl Iterator<Item = &Path> {
        self.layers.iter().map(Layer::path)
    }

    /// Size of the disk in bytes, in whole sectors.
    pub(super) fn size(&self) -> u64 {
        // A file is smaller than 2^63 bytes, and what an L1 table can map than 2^62.
        self.layers[0].size().next_multiple_of(512)
    }

    /// Permission bits for a file of the same content: the source's, and its owner can use it.
    pub(super) fn target_mode(&self) -> Result<u32> {
        let file = self.layers[0].file();
        Ok(if file.has_fixed_len() { 0o600 } else { file.mode()? & 0o666 | 0o600 })
    }

    /// What is at guest offset `at` below [`size`](Self::size), and in which file. Never a hole.
    pub(super) fn piece(&mut self, at: u64) -> Result<(usize, Piece)> {
        let mut bytes = self.size() - at;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            // Behind the end of a file that shows through are zeros, whatever is below.
            if at >= layer.size() {
                break;
            }
            let piece = layer.piece(at).map_err(|error| error.about(layer.path()))?.cut(bytes);
            if piece.what != What::Hole {
                return Ok((index, piece));
            }
            bytes = piece.bytes;
        }
        Ok((0, Piece::zero(bytes)))
    }

    /// File `index`.
    pub(super) fn file(&self, index: usize) -> &FileStorage {
        self.layers[index].file()
    }

    /// Files in the chain.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// Fills `buf` from host offset `offset` of file `index`.
    pub(super) fn read_at(&self, index: usize, buf: &mut [u8], offset: u64) -> Result<()> {
        let layer = &self.layers[index];
        let read = layer.file().read_at(buf, offset);
        read.map_err(|error| Error::from(error).about(layer.path()))
    }

    /// The content of a compressed cluster of file `index`, which is an image.
    pub(super) fn inflate(&mut self, index: usize, cluster: CompressedCluster) -> Result<&[u8]> {
        let layer = &self.layers[index];
        let image = layer.image().expect("compressed clusters are an image's");
        self.inflated.get(index, image, cluster).map_err(|error| error.about(layer.path()))
    }

    /// Refuses what was read if it is no longer what the files are.
    pub(super) fn ensure_unchanged(&self) -> Result<()> {
        for layer in &self.layers {
            if !layer.is_unchanged()? {
                let reason = "the file changed while it was read";
                return Err(Error::new(Kind::Busy, reason).about(layer.path()));
            }
        }
        Ok(())
    }
}

/// How the disk is found in `file`, and the next file of the chain.
fn view(
    file: &FileStorage,
    path: &Path,
    format: Format,
    snapshot: Option<&[u8]>,
    backing: Backing,
) -> Result<(View, Option<Named>)> {
    if format == Format::Raw {
        if snapshot.is_some() {
            return Err(Error::new(Kind::InvalidArgument, "a raw disk has no snapshots"));
        }
        return Ok((View::Raw { bytes: file.len()? }, None));
    }
    let image = Image::open(Box::new(file.try_clone()?))?;
    let disk = match snapshot {
        None => Disk::Active,
        Some(selector) => Disk::Snapshot(image.find_snapshot(selector, lookup::by_id_or_name)?),
    };
    let map = GuestMap::new(image, disk)?;
    let has_backing = map.image().header.backing_file.as_ref().is_some_and(|name| !name.is_empty());
    if has_backing && backing == Backing::Refuse {
        let reason = "the image has a backing file, which is not opened unasked";
        return Err(Error::new(Kind::UnsupportedFeature, reason)
            .with_hint("with `--flatten` its files are opened, and the content of all is taken"));
    }
    let next = named_by(&map.image().header, path)?;
    Ok((View::Qcow2(Box::new(map)), next))
}
