//! Texts: read, made, replaced, continued.

use std::fs::File;
use std::io::{self, Read as _, Write as _};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::path::{Place, Root};
use crate::system::{sync_directory, uninterrupted};
use crate::types::{
    Done, FailureCode, Outcome, StoreCreateRequest, StoreReadReport, StoreReadRequest, StoreText,
    StoreWriteRequest,
};

/// No text of the store comes near it.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// Reads the text of each file.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_read(request: StoreReadRequest) -> Outcome<StoreReadReport> {
    let root = Root::open(&request.root)?;
    let read = |path: &String| match root.place(path).and_then(|place| read(&place)) {
        Ok(text) => StoreText { text: Some(text), failure: None },
        Err(failure) => StoreText { text: None, failure: Some(failure) },
    };
    Ok(StoreReadReport { files: request.paths.iter().map(read).collect() })
}

fn read(place: &Place) -> Outcome<String> {
    let file = place.open(OFlags::RDONLY)?;
    let len = file.metadata().map_err(|error| place.failure(error))?.len();
    let capacity = usize::try_from(len.min(MAX_TEXT_BYTES)).expect("16 MiB fit");
    let mut bytes = Vec::with_capacity(capacity + 1);
    file.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes).map_err(|error| place.failure(error))?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(place.refusal(FailureCode::TooLarge, "it is larger than 16 MiB"));
    }
    String::from_utf8(bytes)
        .map_err(|_| place.refusal(FailureCode::NotText, "it is not UTF-8 text"))
}

/// Makes a file that is not there. If that fails on the way, it is not there afterwards.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_create(request: StoreCreateRequest) -> Outcome<Done> {
    let place = Root::open(&request.root)?.place(&request.path)?;
    let file = create(&place)?;
    let written = (|| {
        (&file).write_all(request.text.as_bytes())?;
        if request.durable == Some(true) {
            file.sync_all()?;
            sync_directory(place.directory())?;
        }
        Ok(())
    })();
    written.map(|()| Done {}).map_err(|error: io::Error| {
        let _ = unlink(&place);
        place.failure(error)
    })
}

/// Makes a file hold another text, durably.
///
/// The text is complete and flushed under a temporary name, `.NAME.new`, before it takes the name;
/// a crash before that leaves the temporary file, which the next replacement removes.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_replace(request: StoreWriteRequest) -> Outcome<Done> {
    let place = Root::open(&request.root)?.place(&request.path)?;
    let temporary = place.beside(format!(".{}.new", place.name()))?;
    match unlink(&temporary) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(temporary.failure(errno)),
    }
    let file = create(&temporary)?;
    let replaced = (|| {
        (&file).write_all(request.text.as_bytes())?;
        file.sync_all()?;
        let directory = place.directory();
        Ok(rustix::fs::renameat(directory, temporary.name(), directory, place.name())?)
    })();
    replaced.map_err(|error: io::Error| {
        let _ = unlink(&temporary);
        place.failure(error)
    })?;
    sync_directory(place.directory()).map(|()| Done {}).map_err(|error| {
        // The old text is gone from view; which of the two the medium has, nobody knows.
        let failure = place.failure(error);
        let reason = format!("{}, and a power cut may bring the old text back", failure.reason);
        place.refusal(FailureCode::Unsettled, &reason)
    })
}

/// Adds a text at the end of a file, in one write, so that other texts are not mixed with it;
/// nothing of it where there is no space for all.
#[allow(clippy::needless_pass_by_value, reason = "every operation owns its request")]
pub fn store_append(request: StoreWriteRequest) -> Outcome<Done> {
    let place = Root::open(&request.root)?.place(&request.path)?;
    let file = place.open(OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)?;
    append(&file, request.text.as_bytes()).map(|()| Done {}).map_err(|error| place.failure(error))
}

fn append(file: &File, text: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    let count = uninterrupted(|| rustix::io::write(file, text))?;
    if count == text.len() {
        return Ok(());
    }
    file.set_len(before)?;
    Err(Errno::NOSPC.into())
}

/// A file of a name that nothing has.
fn create(place: &Place) -> Outcome<File> {
    place.open(OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
}

fn unlink(place: &Place) -> rustix::io::Result<()> {
    rustix::fs::unlinkat(place.directory(), place.name(), AtFlags::empty())
}
