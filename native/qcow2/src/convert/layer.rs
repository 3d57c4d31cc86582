//! One file of a chain.

use std::path::{Path, PathBuf};

use super::data_map::DataMap;
use super::guest_map::GuestMap;
use super::piece::{Piece, What};
use crate::error::Result;
use crate::image::Image;
use crate::lock::ImageLock;
use crate::storage::{FileStorage, Stamp, Storage};

/// A file that is ours to read until this is dropped.
#[derive(Debug)]
pub(super) struct Layer {
    path: PathBuf,
    file: FileStorage,
    /// What the file was when it was opened.
    stamp: Stamp,
    data: DataMap,
    view: View,
    _lock: ImageLock,
}

/// How a disk is found in the file.
#[derive(Debug)]
pub(super) enum View {
    /// It is the file.
    Raw { bytes: u64 },
    /// Its tables tell.
    Qcow2(Box<GuestMap>),
}

impl Layer {
    /// The file `file`, which was opened by `path` and is held by `lock`; `view` sees the disk in
    /// it.
    pub(super) fn new(
        file: FileStorage,
        path: PathBuf,
        lock: ImageLock,
        view: View,
    ) -> Result<Self> {
        let (stamp, data) = (file.stamp()?, DataMap::new(file.len()?));
        Ok(Self { path, file, stamp, data, view, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self) -> &FileStorage {
        &self.file
    }

    /// The image, where it is one.
    pub(super) fn image(&self) -> Option<&Image> {
        match &self.view {
            View::Raw { .. } => None,
            View::Qcow2(map) => Some(map.image()),
        }
    }

    /// Size of the disk in bytes.
    pub(super) fn size(&self) -> u64 {
        match &self.view {
            View::Raw { bytes } => *bytes,
            View::Qcow2(map) => map.size(),
        }
    }

    /// What is at guest offset `at`, which lies inside the disk; ends where the disk ends. What the
    /// file system has as a hole is zeros.
    pub(super) fn piece(&mut self, at: u64) -> Result<Piece> {
        let piece = match &mut self.view {
            View::Raw { bytes } => Piece { bytes: *bytes - at, what: What::Stored { offset: at } },
            View::Qcow2(map) => map.piece(at)?,
        };
        let What::Stored { offset } = piece.what else { return Ok(piece) };
        let (is_data, end) = self.data.at(&self.file, offset)?;
        let piece = piece.cut(end - offset);
        Ok(if is_data { piece } else { Piece::zero(piece.bytes) })
    }

    /// Whether the file is what it was when it was opened.
    pub(super) fn is_unchanged(&self) -> Result<bool> {
        Ok(self.file.stamp()? == self.stamp)
    }
}
