//! What the core found and did, as it crosses.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use qcow2::format::snapshot::SnapshotEntry;
use qcow2::{Committed, Error, PlannedCommit};

use crate::pieces::{PIECE_ROWS, Pieces};
use crate::session::Reading;
use crate::types::{self, Bytes, CommitReport, Failure, PlannedSnapshot, SnapshotInfo, Stage};

/// What a commit cost, as it crosses.
pub(crate) fn commit_report(done: Committed) -> CommitReport {
    CommitReport {
        written_bytes: Bytes(done.written_bytes),
        flushes: done.flushes,
        punched_bytes: Bytes(done.punched_bytes),
        punch_failure: done.punch_failure.map(|error| Error::from(error).reason().to_owned()),
        recount_failure: done.recount_failure.map(|error| error.reason().to_owned()),
    }
}

/// What a commit will do, as it crosses.
pub(crate) fn planned_commit(planned: &PlannedCommit<'_>) -> types::PlannedCommit {
    types::PlannedCommit {
        before: hex(&planned.before),
        after: hex(&planned.after),
        snapshot: planned.snapshot.map(|entry| PlannedSnapshot {
            id: String::from_utf8_lossy(&entry.id).into_owned(),
            name: String::from_utf8_lossy(&entry.name).into_owned(),
            date_sec: entry.date_sec,
            date_nsec: entry.date_nsec,
        }),
    }
}

/// What the header and its tables refuse, qemu-img refuses when it opens the image.
pub(crate) fn opening(mut failure: Failure) -> Failure {
    failure.stage = Stage::Open;
    failure
}

/// The snapshots of an image, as they cross: what makes rows long is not shown, and not kept. `tell`
/// gets all but the last piece. What is wrong with the table is found before that.
pub(crate) fn describe_snapshots(
    reading: &Reading<'_>,
    tell: &mut dyn FnMut(Vec<SnapshotInfo>) -> qcow2::Result<()>,
) -> qcow2::Result<Vec<SnapshotInfo>> {
    let image = reading.image;
    if image.header().snapshot_count as usize > PIECE_ROWS {
        image.for_listed_snapshots(|_| Ok(()))?;
    }
    let mut pieces = Pieces::new(reading, tell);
    image.for_listed_snapshots(|entry| {
        let text_bytes = entry.shown_id().len() + entry.shown_name().len();
        pieces.push(describe_snapshot(&entry), text_bytes)
    })?;
    Ok(pieces.finish())
}

/// A table entry, as it crosses.
fn describe_snapshot(entry: &SnapshotEntry) -> SnapshotInfo {
    let (id, id_json) = text(entry.shown_id());
    let (name, name_json) = text(entry.shown_name());
    SnapshotInfo {
        id,
        id_json,
        name,
        name_json,
        vm_state_size: Bytes(entry.vm_state_bytes()),
        date_sec: entry.date_sec,
        date_nsec: entry.date_nsec,
        vm_clock_sec: Bytes(entry.vm_clock_nsec / 1_000_000_000),
        vm_clock_nsec: u32::try_from(entry.vm_clock_nsec % 1_000_000_000).expect("below 10^9"),
        icount: entry.icount().map(|count| count.to_string()),
        disk_size: entry.disk_size().map(Bytes),
    }
}

/// A text that should be UTF-8, and as JSON where it is not.
fn text(bytes: &[u8]) -> (String, Option<String>) {
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(text) => (text.to_owned(), None),
        Cow::Owned(replaced) => (replaced, Some(json(bytes))),
    }
}

/// A JSON string in which each byte that is not UTF-8 is a lone surrogate, U+DC80 for 0x80 and so on.
/// Names may have 16 MiB together: an engine reads this at once, and bytes only one by one.
fn json(bytes: &[u8]) -> String {
    let mut text = String::from('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                '\0'..' ' => push(&mut text, format_args!("\\u{:04x}", u32::from(character))),
                _ => text.push(character),
            }
        }
        for byte in chunk.invalid() {
            push(&mut text, format_args!("\\udc{byte:02x}"));
        }
    }
    text.push('"');
    text
}

/// Two lower-case digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        push(&mut text, format_args!("{byte:02x}"));
        text
    })
}

fn push(text: &mut String, more: fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf_8_are_lone_surrogates_and_all_else_is_what_it_is() {
        for (bytes, expected) in [
            (&b"b\xffd"[..], "b\\udcffd"),
            (b"\xc3\xa9\xf0\x9f\x98\x80\xc3", "\u{e9}\u{1f600}\\udcc3"),
            (b"\"\\\0\x1f\x7f\x80", "\\\"\\\\\\u0000\\u001f\x7f\\udc80"),
            (b"\xc0\xaf\xed\xa0\x80", "\\udcc0\\udcaf\\udced\\udca0\\udc80"),
            (b"\xe0\x80\xf4\x90\x80\x80", "\\udce0\\udc80\\udcf4\\udc90\\udc80\\udc80"),
            (b"\xf0\x9f\x98a\xef\xbf\xbd", "\\udcf0\\udc9f\\udc98a\u{fffd}"),
        ] {
            assert_eq!(text(bytes).1, Some(format!("\"{expected}\"")));
        }
        assert_eq!(text("\u{e9}\"\u{fffd}".as_bytes()), ("\u{e9}\"\u{fffd}".to_owned(), None));
    }
}
