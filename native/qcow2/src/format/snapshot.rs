//! The snapshot table (qcow2 specification, "Snapshots"), lossless.
//!
//! An entry that nobody changes is carried to the byte, unknown extra data included. Names and ids
//! are bytes: QEMU does not promise UTF-8.

use super::header::MAX_SNAPSHOT_TABLE_BYTES;
use super::{be16, be32, be64, until_nul};
use crate::error::{Error, Kind, Result};

/// Bytes of an entry before its extra data.
const FIXED_BYTES: usize = 40;
/// Extra data that QEMU accepts in an entry.
const MAX_EXTRA_BYTES: usize = 1024;
/// Bytes of an id, and of a name, that QEMU shows.
const SHOWN_ID_BYTES: usize = 127;
const SHOWN_NAME_BYTES: usize = 255;
/// Extra data that this writer and QEMU give every entry: 64-bit VM state size, disk size, icount.
const EXTRA_BYTES: usize = 24;

/// One snapshot, as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Host offset of the snapshot's L1 table. Not yet validated.
    pub l1_offset: u64,
    /// Entries in that table.
    pub l1_entries: u32,
    /// Identifier, unique in well-formed images; a decimal number where QEMU made it.
    pub id: Vec<u8>,
    /// The tag that people use.
    pub name: Vec<u8>,
    /// When it was taken: seconds since 1970.
    pub date_sec: u32,
    /// And nanoseconds.
    pub date_nsec: u32,
    /// Guest clock in nanoseconds, 0 for a disk-only snapshot.
    pub vm_clock_nsec: u64,
    /// Size of the VM state in bytes as the 32-bit field has it.
    pub vm_state_size_short: u32,
    /// Extra data as stored: 0 to 1024 bytes, of which the first 24 are known.
    pub extra: Vec<u8>,
}

impl SnapshotEntry {
    /// A disk-only entry with the extra data that qemu-img writes (icount 0 included).
    pub fn disk_only(id: Vec<u8>, name: Vec<u8>, date: (u32, u32), disk_size: u64) -> Self {
        let mut extra = vec![0; EXTRA_BYTES];
        extra[8..16].copy_from_slice(&disk_size.to_be_bytes());
        Self {
            l1_offset: 0,
            l1_entries: 0,
            id,
            name,
            date_sec: date.0,
            date_nsec: date.1,
            vm_clock_nsec: 0,
            vm_state_size_short: 0,
            extra,
        }
    }

    /// The id as QEMU compares it: a string of C.
    pub fn id_text(&self) -> &[u8] {
        until_nul(&self.id)
    }

    /// The name as QEMU compares it: a string of C.
    pub fn name_text(&self) -> &[u8] {
        until_nul(&self.name)
    }

    /// The id as QEMU shows it.
    pub fn shown_id(&self) -> &[u8] {
        let text = self.id_text();
        &text[..text.len().min(SHOWN_ID_BYTES)]
    }

    /// The name as QEMU shows it.
    pub fn shown_name(&self) -> &[u8] {
        let text = self.name_text();
        &text[..text.len().min(SHOWN_NAME_BYTES)]
    }

    /// Size of the VM state in bytes: the 64-bit field when present.
    pub fn vm_state_bytes(&self) -> u64 {
        if self.extra.len() >= 8 {
            be64(&self.extra, 0)
        } else {
            u64::from(self.vm_state_size_short)
        }
    }

    /// Virtual disk size in bytes when it was taken; absent in entries of old writers, which mean
    /// "the size of the disk now".
    pub fn disk_size(&self) -> Option<u64> {
        (self.extra.len() >= 16).then(|| be64(&self.extra, 8))
    }

    /// Instruction count, where recorded.
    pub fn icount(&self) -> Option<u64> {
        (self.extra.len() >= 24).then(|| be64(&self.extra, 16)).filter(|&count| count != u64::MAX)
    }

    /// The id as `strtoul` reads it, which is how QEMU finds the next one: leading white space, a
    /// sign, digits, the rest ignored; too large a number saturates.
    pub fn numeric_id(&self) -> u64 {
        let text = self.id.trim_ascii_start();
        let (negative, digits) = match text.first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let value = digits
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .try_fold(0_u64, |n, b| n.checked_mul(10)?.checked_add(u64::from(b - b'0')));
        match value {
            None => u64::MAX,
            Some(value) if negative => value.wrapping_neg(),
            Some(value) => value,
        }
    }

    /// The same without what makes rows long: their texts and extra data.
    pub(crate) fn bare(&self) -> Self {
        Self { id: Vec::new(), name: Vec::new(), extra: Vec::new(), ..*self }
    }

    /// Widens the extra data to what every rewrite by QEMU gives it. A missing disk size freezes
    /// the current one, a missing icount is "none".
    pub(crate) fn widen(&mut self, disk_size: u64) {
        let present = self.extra.len();
        if present < 8 {
            self.extra = u64::from(self.vm_state_size_short).to_be_bytes().to_vec();
        }
        if present < 16 {
            self.extra.truncate(8);
            self.extra.extend(disk_size.to_be_bytes());
        }
        if present < EXTRA_BYTES {
            self.extra.truncate(16);
            self.extra.extend(u64::MAX.to_be_bytes());
        }
    }
}

fn invalid(reason: impl Into<String>, offset: u64) -> Error {
    Error::new(Kind::InvalidSnapshotTable, reason).at(offset)
}

/// What a table may have that the format does not allow, and that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowDefect {
    /// A row has more than 1024 bytes of extra data.
    TooMuchExtra {
        /// Position of the row.
        index: u32,
        /// What it says that it has.
        bytes: u32,
    },
    /// The table has more than 64 MiB.
    TooBig {
        /// Rows that do not fit, and what follows them.
        count: u32,
    },
}

/// Reads a table of `count` entries that begins at `table_offset` in a file of `file_bytes` bytes.
/// `read` fills a buffer from a host offset.
///
/// Memory and work are bounded by `file_bytes`, and by 64 MiB, never by `count`. Returns the
/// entries and the table's length in bytes, which ends at the last name's last byte.
pub fn read_table(
    count: u32,
    table_offset: u64,
    file_bytes: u64,
    read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<(Vec<SnapshotEntry>, u64)> {
    let mut entries = Vec::new();
    let bytes = for_rows(count, table_offset, file_bytes, read, refuse, |_, entry| {
        entries.push(entry);
        Ok(())
    })?;
    Ok((entries, bytes))
}

/// The error for a defect at a host offset.
pub(crate) fn refuse(defect: RowDefect, at: u64) -> Result<()> {
    Err(match defect {
        RowDefect::TooMuchExtra { index, .. } => {
            invalid(format!("Too much extra metadata in snapshot table entry {index}"), at)
                .with_hint("You can force-remove this extra metadata with qemu-img check -r all")
        }
        RowDefect::TooBig { count } => invalid("Snapshot table is too big", at).with_hint(format!(
            "You can force-remove all {count} overhanging snapshots with qemu-img check -r all"
        )),
    })
}

/// Shows one entry after the other to `visit`, with its host offset. Defects that can be left out
/// go to `tolerate` and are left out if it does not fail. Returns the table's length in bytes.
///
/// A table may have 64 MiB; who wants a part of it keeps that part.
pub(crate) fn for_rows(
    count: u32,
    table_offset: u64,
    file_bytes: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
    mut tolerate: impl FnMut(RowDefect, u64) -> Result<()>,
    mut visit: impl FnMut(u64, SnapshotEntry) -> Result<()>,
) -> Result<u64> {
    let mut end = table_offset;
    for index in 0..count {
        let at = end.next_multiple_of(8);
        let mut fixed = [0; FIXED_BYTES];
        if at.checked_add(FIXED_BYTES as u64).is_none_or(|end| end > file_bytes) {
            return Err(invalid("Snapshot table exceeds the file", at));
        }
        read(&mut fixed, at)?;
        let row = Row { at, fixed };
        if row.extra_bytes() < row.extra_claimed() as usize {
            tolerate(RowDefect::TooMuchExtra { index, bytes: row.extra_claimed() }, at)?;
        }
        if row.end() > file_bytes {
            return Err(invalid("Snapshot table exceeds the file", at));
        }
        if row.end() - table_offset > MAX_SNAPSHOT_TABLE_BYTES {
            tolerate(RowDefect::TooBig { count: count - index }, at)?;
            break;
        }
        end = row.end();
        visit(at, row.entry(&mut read)?)?;
    }
    Ok(end - table_offset)
}

/// The entry at a host offset where [`for_rows`] found one.
pub(crate) fn read_row(
    at: u64,
    mut read: impl FnMut(&mut [u8], u64) -> Result<()>,
) -> Result<SnapshotEntry> {
    let mut fixed = [0; FIXED_BYTES];
    read(&mut fixed, at)?;
    Row { at, fixed }.entry(read)
}

/// The part of an entry that says how long the others are.
struct Row {
    at: u64,
    fixed: [u8; FIXED_BYTES],
}

impl Row {
    fn id_bytes(&self) -> usize {
        be16(&self.fixed, 12).into()
    }

    fn name_bytes(&self) -> usize {
        be16(&self.fixed, 14).into()
    }

    /// Extra data as the entry has them.
    fn extra_claimed(&self) -> u32 {
        be32(&self.fixed, 36)
    }

    /// Of these, what is read.
    fn extra_bytes(&self) -> usize {
        MAX_EXTRA_BYTES.min(self.extra_claimed() as usize)
    }

    fn names_at(&self) -> u64 {
        self.extra_at().saturating_add(u64::from(self.extra_claimed()))
    }

    fn extra_at(&self) -> u64 {
        self.at + FIXED_BYTES as u64
    }

    fn end(&self) -> u64 {
        self.names_at().saturating_add((self.id_bytes() + self.name_bytes()) as u64)
    }

    fn entry(&self, mut read: impl FnMut(&mut [u8], u64) -> Result<()>) -> Result<SnapshotEntry> {
        let fixed = &self.fixed;
        let mut extra = vec![0; self.extra_bytes()];
        let mut names = vec![0; self.id_bytes() + self.name_bytes()];
        read(&mut extra, self.extra_at())?;
        read(&mut names, self.names_at())?;
        // Each as long as it is: what is split off leaves its space with the other.
        let (id, name) = names.split_at(self.id_bytes());
        Ok(SnapshotEntry {
            l1_offset: be64(fixed, 0),
            l1_entries: be32(fixed, 8),
            id: id.to_vec(),
            name: name.to_vec(),
            date_sec: be32(fixed, 16),
            date_nsec: be32(fixed, 20),
            vm_clock_nsec: be64(fixed, 24),
            vm_state_size_short: be32(fixed, 32),
            extra,
        })
    }
}

/// Encodes a table. Entries start at multiples of 8; the result ends with the last name's last
/// byte, padded to 8.
pub fn encode_table(entries: &[SnapshotEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(usize::try_from(table_bytes(entries)).expect("in memory"));
    for entry in entries {
        encode_row(entry, &mut out);
    }
    out
}

/// More snapshots, or more to say about them, than the format holds.
pub(crate) fn too_many() -> Error {
    Error::new(Kind::TooManySnapshots, "File too large")
        .with_hint("an image holds 65536 snapshots and 64 MiB about them: delete one first")
}

/// How many bytes that are.
fn table_bytes(entries: &[SnapshotEntry]) -> u64 {
    entries.iter().map(row_bytes).sum()
}

/// How many bytes one entry has, with its padding.
pub(crate) fn row_bytes(entry: &SnapshotEntry) -> u64 {
    let bytes = FIXED_BYTES + entry.extra.len() + entry.id.len() + entry.name.len();
    bytes.next_multiple_of(8) as u64
}

/// Encodes one entry behind `out`, of which the length is a multiple of 8, and pads it.
pub(crate) fn encode_row(entry: &SnapshotEntry, out: &mut Vec<u8>) {
    let len16 = |bytes: &[u8]| u16::try_from(bytes.len()).expect("checked when made or read");
    out.extend(entry.l1_offset.to_be_bytes());
    out.extend(entry.l1_entries.to_be_bytes());
    out.extend(len16(&entry.id).to_be_bytes());
    out.extend(len16(&entry.name).to_be_bytes());
    out.extend(entry.date_sec.to_be_bytes());
    out.extend(entry.date_nsec.to_be_bytes());
    out.extend(entry.vm_clock_nsec.to_be_bytes());
    out.extend(entry.vm_state_size_short.to_be_bytes());
    out.extend(u32::from(len16(&entry.extra)).to_be_bytes());
    out.extend(&entry.extra);
    out.extend(&entry.id);
    out.extend(&entry.name);
    out.resize(out.len().next_multiple_of(8), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &[u8]) -> SnapshotEntry {
        SnapshotEntry::disk_only(id.to_vec(), b"name".to_vec(), (1, 2), 512)
    }

    #[test]
    fn ids_count_as_strtoul_counts_them() {
        let table: [(&[u8], u64); 8] = [
            (b"7", 7),
            (b"12abc", 12),
            (b"", 0),
            (b"x", 0),
            (b" 5", 5),
            (b"-1", u64::MAX),
            (b"18446744073709551615", u64::MAX),
            (b"99999999999999999999", u64::MAX),
        ];
        for (id, expected) in table {
            assert_eq!(entry(id).numeric_id(), expected, "{:?}", String::from_utf8_lossy(id));
        }
    }

    #[test]
    fn a_table_survives_decode_and_encode_to_the_byte() {
        let mut odd = entry(b"2");
        odd.extra = (0..100).collect();
        odd.name = vec![0xff, 0, 0xfe];
        let mut old = entry(b"3");
        old.extra = Vec::new();
        let entries = vec![entry(b"1"), odd, old];
        let bytes = encode_table(&entries);
        let read = |buf: &mut [u8], at: u64| {
            let at = usize::try_from(at).unwrap();
            buf.copy_from_slice(&bytes[at..at + buf.len()]);
            Ok(())
        };
        let (decoded, _) = read_table(3, 0, bytes.len() as u64, read).unwrap();
        assert_eq!(decoded, entries);
    }

    #[test]
    fn widening_keeps_what_is_there_and_freezes_the_disk_size() {
        for present in [0, 8, 16, 24, 40] {
            let mut entry = entry(b"1");
            entry.vm_state_size_short = 7;
            entry.extra = vec![9; present];
            entry.widen(4096);
            assert_eq!(entry.extra.len(), present.max(24));
            let word = u64::from_be_bytes([9; 8]);
            assert_eq!(entry.vm_state_bytes(), if present < 8 { 7 } else { word });
            assert_eq!(entry.disk_size(), Some(if present < 16 { 4096 } else { word }));
            assert_eq!(entry.icount(), (present >= 24).then_some(word));
        }
    }
}
