//! The one thing in a header that depends on where the image lies: a relative backing file name.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::os::identity::Identity;

/// The backing file's name as a clone at `target` has to spell it; none where it can stay. The
/// backing file itself is not looked at.
pub(super) fn relocated_backing(
    image: &Image,
    source: Option<&Path>,
    target: &Path,
) -> Result<Option<Vec<u8>>> {
    let (Some(name), Some(source)) = (&image.header.backing_file, source) else { return Ok(None) };
    // QEMU takes what stands before a colon, without a slash before it, for a protocol.
    let until_slash = name.split(|&b| b == b'/').next().unwrap_or_default();
    if name.starts_with(b"/") || until_slash.contains(&b':') {
        return Ok(None);
    }
    let (from, to) = (parent(source), parent(target));
    if Identity::of_path(&from).is_some() && Identity::of_path(&from) == Identity::of_path(&to) {
        return Ok(None);
    }
    let directory = std::path::absolute(&from)?;
    let moved = directory.join(Path::new(OsStr::from_bytes(name))).into_os_string();
    let moved = moved.as_bytes().to_vec();
    if image.header.with_backing_file(&moved).is_none() {
        return Err(Error::new(
            Kind::UnsupportedFeature,
            "The backing file's name is relative, and its absolute form does not fit the header",
        )
        .with_hint("clone into the directory of the source"));
    }
    Ok(Some(moved))
}

/// Enters `name` where the old one stood. The file is not published yet.
pub(super) fn write_backing(image: &Image, file: &File, name: &[u8]) -> Result<()> {
    for (offset, bytes) in image.header.with_backing_file(name).into_iter().flatten() {
        file.write_all_at(&bytes, offset)?;
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
