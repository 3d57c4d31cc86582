//! Which file an image names as its backing, as QEMU reads the name, and what format that file has.
//!
//! The name is a stranger's text. It counts only as a plain path with a stated format: nothing that
//! opens a protocol, and nothing that would have to be guessed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Format;
use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, extension};

/// A file that an image names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub path: PathBuf,
    pub format: Format,
}

/// The backing file of the image at `image`; none where it has none.
pub(super) fn named_by(header: &Header, image: &Path) -> Result<Option<Named>> {
    // Without a name, as qemu-img leaves it when it takes one away, there is no backing file.
    let Some(name) = header.backing_file.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let path = resolve(name, image)?;
    let Some(format) = header.extension(extension::BACKING_FORMAT) else {
        let reason = "the format of the backing file is not stated, and formats are never guessed";
        return Err(Error::new(Kind::UnsupportedFeature, reason).with_hint(
            "state it in the image, for example with `qemu-img rebase -u -F qcow2 -b NAME IMAGE`",
        ));
    };
    let format = match format {
        b"qcow2" => Format::Qcow2,
        b"raw" => Format::Raw,
        other => {
            let reason = format!("the backing file has the format {}", quoted(other));
            return Err(Error::new(Kind::UnsupportedFeature, reason)
                .with_hint("only qcow2 and raw files can be read"));
        }
    };
    Ok(Some(Named { path, format }))
}

/// The path that `name` means in the image at `image`: relative to the directory of that path, as
/// it was spelled.
fn resolve(name: &[u8], image: &Path) -> Result<PathBuf> {
    let refuse = |what: &str| {
        let reason = format!("the backing file's name {} {what}", quoted(name));
        Err(Error::new(Kind::UnsupportedFeature, reason)
            .with_hint("only a file that the image names by its path is opened"))
    };
    if name.contains(&0) {
        return refuse("contains NUL");
    }
    if name.starts_with(b"json:") {
        return refuse("is a JSON description");
    }
    // QEMU takes what stands before a colon, without a slash before it, for a protocol.
    let until_slash = name.split(|&byte| byte == b'/').next().unwrap_or_default();
    if until_slash.contains(&b':') {
        return refuse("begins with a protocol");
    }
    let name = Path::new(OsStr::from_bytes(name));
    Ok(image.parent().unwrap_or(Path::new("")).join(name))
}

/// A stranger's text, safe to print.
fn quoted(text: &[u8]) -> String {
    format!("\"{}\"", String::from_utf8_lossy(text).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_relative_to_the_directory_of_the_image_that_has_it() {
        for (image, name, path) in [
            ("/vm/top.qcow2", "base.qcow2", "/vm/base.qcow2"),
            ("/vm/top.qcow2", "../base", "/vm/../base"),
            ("/vm/top.qcow2", "/base", "/base"),
            ("top.qcow2", "base", "base"),
            ("vm/top.qcow2", "./with:colon", "vm/./with:colon"),
            ("vm/top.qcow2", "sub/with:colon", "vm/sub/with:colon"),
        ] {
            let resolved = resolve(name.as_bytes(), Path::new(image)).unwrap();
            assert_eq!(resolved, Path::new(path));
        }
    }

    #[test]
    fn what_is_no_plain_path_is_refused_by_name() {
        for (name, reason) in [
            (&b"json:{}"[..], "the backing file's name \"json:{}\" is a JSON description"),
            (b"nbd://host", "the backing file's name \"nbd://host\" begins with a protocol"),
            (b"file:base", "the backing file's name \"file:base\" begins with a protocol"),
            (b":", "the backing file's name \":\" begins with a protocol"),
            (b"a\0b", "the backing file's name \"a\\0b\" contains NUL"),
            (b"\x1b[2J:", "the backing file's name \"\\u{1b}[2J:\" begins with a protocol"),
        ] {
            let error = resolve(name, Path::new("/vm/top.qcow2")).unwrap_err();
            assert_eq!((error.kind(), error.reason()), (Kind::UnsupportedFeature, reason));
            let hint = "only a file that the image names by its path is opened";
            assert_eq!(error.hint.as_deref(), Some(hint));
        }
    }
}
