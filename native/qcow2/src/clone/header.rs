//! The one thing in a header that depends on where the image lies: a relative backing file name.
//!
//! The backing file is not looked at, nor is any directory that only its name leads to.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::image::Image;
use crate::os::identity::Identity;

/// The backing file's name as a clone at `target` has to spell it; none where it can stay.
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
    let moved = absolute(std::fs::canonicalize(&from)?, name).into_os_string().into_vec();
    if image.header.with_backing_file(&moved).is_none() {
        return Err(Error::new(
            Kind::UnsupportedFeature,
            "the backing file's name is relative, and its absolute form does not fit the header",
        )
        .with_hint("clone into the directory of the source"));
    }
    Ok(Some(moved))
}

/// Where `name` leads from `directory`, a real path: without `.`, and without the `..` at its
/// start, since a real path goes through no link. A `..` further in stays: whether the name before
/// it is a link only a look at it would tell.
fn absolute(mut directory: PathBuf, name: &[u8]) -> PathBuf {
    let steps = Path::new(OsStr::from_bytes(name)).components();
    let mut steps = steps.filter(|&step| step != Component::CurDir).peekable();
    while steps.next_if_eq(&Component::ParentDir).is_some() {
        directory.pop();
    }
    directory.extend(steps);
    directory
}

/// Enters `name` where the old one stood, and returns the bytes written. The file is not published
/// yet.
pub(super) fn write_backing(image: &Image, file: &File, name: &[u8]) -> Result<u64> {
    let mut written = 0;
    for (offset, bytes) in image.header.with_backing_file(name).into_iter().flatten() {
        file.write_all_at(&bytes, offset)?;
        written += bytes.len() as u64;
    }
    Ok(written)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_name_becomes_absolute_without_detours_that_are_none() {
        for (name, expected) in [
            ("base", "/real/images/base"),
            ("./base", "/real/images/base"),
            ("../base", "/real/base"),
            ("./.././../base", "/base"),
            ("../../../base", "/base"),
            ("sub/./base", "/real/images/sub/base"),
            ("sub//base", "/real/images/sub/base"),
            ("../sub/../base", "/real/sub/../base"),
        ] {
            let moved = absolute(PathBuf::from("/real/images"), name.as_bytes());
            assert_eq!(moved.to_str(), Some(expected), "{name}");
        }
    }
}
