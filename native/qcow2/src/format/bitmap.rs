//! Persistent bitmaps (qcow2 specification, "Bitmaps extension", "Bitmaps"), for accounting only.
//!
//! Knows which clusters bitmaps own and what they are called; what they say is never read. Reasons
//! are QEMU's words, because QEMU refuses to open an image whose bitmaps break these rules.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::header::{Header, MAX_FILE_BYTES, autoclear, extension};
use super::mapping::OFFSET_MASK;
use super::{be16, be32, be64};
use crate::error::{Error, Kind, Result, corrupt};

/// The bitmap is in use, or was when its user crashed: its content is not to be trusted.
pub const IN_USE: u32 = 1;
/// The bitmap records writes by itself when the image is opened.
pub const AUTO: u32 = 1 << 1;

const EXTENSION_BYTES: usize = 24;
const ENTRY_BYTES: usize = 24;
const MAX_BITMAPS: u32 = 65_535;
const MAX_NAME_BYTES: usize = 1023;
/// One KiB a bitmap.
const MAX_DIRECTORY_BYTES: u64 = MAX_BITMAPS as u64 * 1024;
/// Bitmap data that one table may name.
const MAX_DATA_BYTES: u64 = 512 << 20;
const DIRTY_TRACKING: u8 = 1;
/// Bit 0 of a table entry: without an offset, the bits are all ones.
const ALL_ONES: u64 = 1;
const TABLE_ENTRY_RESERVED: u64 = !(OFFSET_MASK | ALL_ONES);
/// Entries of a table that are read at once.
const CHUNK_ENTRIES: usize = 8192;

/// Fills a buffer from a host offset; what lies beyond the end of the file reads as zeros.
pub type Read<'a> = &'a mut dyn FnMut(&mut [u8], u64) -> Result<()>;

/// One bitmap, as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitmapInfo {
    /// Its name; bytes, QEMU does not promise UTF-8.
    pub name: Vec<u8>,
    /// log2 of the guest bytes that one bit stands for, 9 to 31.
    pub granularity_bits: u32,
    /// [`IN_USE`] and [`AUTO`].
    pub flags: u32,
    /// Host offset of its table, a multiple of the cluster size and not zero.
    pub table_offset: u64,
    /// Entries in that table, each naming one cluster of bits.
    pub table_entries: u32,
}

/// Where the bitmap directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// Host offset, a multiple of the cluster size.
    pub offset: u64,
    /// Length in bytes, at most 1 KiB a bitmap.
    pub bytes: u64,
    /// Bitmaps in it.
    pub count: u32,
}

fn invalid(reason: impl Into<String>, offset: u64) -> Error {
    Error::new(Kind::InvalidHeader, reason).at(offset)
}

/// The directory's place; none without bitmaps, and none where the autoclear bit is clear: somebody
/// who does not know bitmaps changed the image, and what they owned is nobody's.
pub fn directory(header: &Header) -> Result<Option<Directory>> {
    header.extension(extension::BITMAPS).map_or(Ok(None), |data| read_directory(header, data))
}

/// The directory's place as the extension's data have it; none where the autoclear bit is clear.
pub(super) fn read_directory(header: &Header, data: &[u8]) -> Result<Option<Directory>> {
    if data.len() != EXTENSION_BYTES {
        return Err(invalid("bitmaps_ext: Invalid extension length", 0));
    }
    if header.autoclear & autoclear::BITMAPS == 0 {
        return Ok(None);
    }
    let (count, bytes, offset) = (be32(data, 0), be64(data, 8), be64(data, 16));
    if be32(data, 4) != 0 {
        return Err(invalid("bitmaps_ext: Reserved field is not zero", 0));
    }
    if count > MAX_BITMAPS {
        return Err(invalid(
            format!(
                "bitmaps_ext: Image has {count} bitmaps, exceeding the QEMU supported maximum of \
                 {MAX_BITMAPS}"
            ),
            0,
        ));
    }
    if count == 0 {
        return Err(invalid("found bitmaps extension with zero bitmaps", 0));
    }
    if !offset.is_multiple_of(header.cluster_bytes()) {
        return Err(invalid("bitmaps_ext: invalid bitmap directory offset", offset));
    }
    if bytes > MAX_DIRECTORY_BYTES {
        return Err(invalid(
            format!(
                "bitmaps_ext: bitmap directory size ({bytes}) exceeds the maximum supported size \
                 ({MAX_DIRECTORY_BYTES})"
            ),
            offset,
        ));
    }
    if bytes == 0 {
        return Err(invalid("Requested bitmap directory size is zero", offset));
    }
    Ok(Some(Directory { offset, bytes, count }))
}

/// Shows all bitmaps of a file of `file_bytes` bytes to `visit`, one by one in the order of the
/// directory, once all are known to keep the rules: a directory may have 64 MiB of names. `visit`
/// gets `read` back.
///
/// Guarantees the limits beside the fields of [`BitmapInfo`], and that QEMU can load the consistent
/// ones. Memory and work are bounded by the directory's bytes in the file, where an entry of zeros
/// is refused, and by the file's length. Fails with [`Kind::InvalidHeader`].
pub(crate) fn for_all(
    header: &Header,
    file_bytes: u64,
    read: Read<'_>,
    visit: &mut dyn FnMut(Read<'_>, BitmapInfo) -> Result<()>,
) -> Result<()> {
    let Some(directory) = directory(header)? else { return Ok(()) };
    // Two digests of 64 bits with keys that nobody knows: names that have both are the same.
    let keys = [RandomState::new(), RandomState::new()];
    let mut names = HashSet::new();
    scan(&directory, header, &mut *read, &mut |_, at, bitmap| {
        if !names.insert(keys.each_ref().map(|key| key.hash_one(&bitmap.name))) {
            return Err(invalid(format!("Bitmap already exists: {}", bitmap.shown_name()), at));
        }
        Ok(())
    })?;
    drop(names);
    // Tables that are longer than the file, taken together, lie on each other. Who reads what they
    // name finds that; here it ends the look at them.
    let mut budget = file_bytes.saturating_add(header.cluster_bytes());
    scan(&directory, header, &mut *read, &mut |read, _, bitmap| {
        if !bitmap.is_consistent() {
            return Ok(());
        }
        // What lies beyond the end of the file is zeros.
        let present = file_bytes.saturating_sub(bitmap.table_offset).min(bitmap.table_bytes());
        if let Some(rest) = budget.checked_sub(present) {
            budget = rest;
            bitmap.for_data_in(present, header, read, &mut |_| Ok(()))?;
        }
        if !bitmap.fits(header) {
            let name = bitmap.shown_name();
            let reason = format!("Could not read bitmap '{name}' from image: Invalid argument");
            return Err(invalid(reason, bitmap.table_offset));
        }
        Ok(())
    })?;
    scan(&directory, header, read, &mut |read, _, bitmap| visit(read, bitmap))
}

/// Shows every entry of the directory, with its host offset, to `visit`.
fn scan(
    directory: &Directory,
    header: &Header,
    read: Read<'_>,
    visit: &mut dyn FnMut(Read<'_>, u64, BitmapInfo) -> Result<()>,
) -> Result<()> {
    let broken = |at| invalid("Broken bitmap directory", at);
    let end = directory.offset.saturating_add(directory.bytes);
    if end > MAX_FILE_BYTES {
        let reason = "Failed to read bitmap directory: Input/output error";
        return Err(invalid(reason, directory.offset));
    }
    let mut count = 0;
    let mut at = directory.offset;
    while at < end {
        let mut fixed = [0; ENTRY_BYTES];
        if end - at < ENTRY_BYTES as u64 {
            return Err(broken(at));
        }
        if count >= directory.count {
            return Err(invalid("More bitmaps found than specified in header extension", at));
        }
        read(&mut fixed, at)?;
        let (name_bytes, extra_bytes) = (usize::from(be16(&fixed, 18)), be32(&fixed, 20));
        // QEMU adds up in 32 bits with a sign, so that very much extra data passes here.
        let bytes = (ENTRY_BYTES + name_bytes) as u64 + u64::from(extra_bytes);
        let is_too_long = at + bytes.next_multiple_of(8) > end;
        if is_too_long && i32::try_from(bytes).is_ok() {
            return Err(broken(at));
        }
        if extra_bytes != 0 {
            return Err(invalid("Bitmap extra data is not supported", at));
        }
        let mut name = vec![0; name_bytes];
        read(&mut name, at + ENTRY_BYTES as u64)?;
        let bitmap = BitmapInfo {
            name,
            granularity_bits: u32::from(fixed[17]),
            flags: be32(&fixed, 12),
            table_offset: be64(&fixed, 0),
            table_entries: be32(&fixed, 8),
        };
        if fixed[16] != DIRTY_TRACKING || !bitmap.keeps_limits(header) {
            return Err(invalid(
                format!("Bitmap '{}' doesn't satisfy the constraints", bitmap.shown_name()),
                at,
            ));
        }
        visit(&mut *read, at, bitmap)?;
        count += 1;
        at += bytes.next_multiple_of(8);
    }
    if count < directory.count {
        return Err(invalid("Less bitmaps found than specified in header extension", at));
    }
    Ok(())
}

/// Every byte range that bitmaps own: the directory, each table, each cluster of bits. Neighbouring
/// clusters of one bitmap are one range. All lie inside a file of `file_bytes` bytes, of which the
/// last cluster may be cut off.
///
/// Fails as [`for_all`] does, and with [`Kind::Corrupt`] where a range is outside the file or the
/// tables together are longer than it.
pub fn owned_ranges(header: &Header, file_bytes: u64, read: Read<'_>) -> Result<Vec<Range<u64>>> {
    let Some(directory) = directory(header)? else { return Ok(Vec::new()) };
    let file_end = file_bytes.next_multiple_of(header.cluster_bytes());
    let inside = |offset: u64, bytes: u64| match offset.checked_add(bytes) {
        Some(end) if offset > 0 && end <= file_end => Ok(offset..end),
        _ => Err(corrupt(format!("Bitmap data at {offset:#x} is outside the image"), offset)),
    };
    let mut ranges = vec![inside(directory.offset, directory.bytes)?];
    let mut budget = file_end;
    for_all(header, file_bytes, read, &mut |read, bitmap| {
        ranges.push(inside(bitmap.table_offset, bitmap.table_bytes())?);
        budget = budget
            .checked_sub(bitmap.table_bytes())
            .ok_or_else(|| corrupt("Bitmap tables overlap", bitmap.table_offset))?;
        let first = ranges.len();
        bitmap.for_data(header, read, &mut |offset| {
            let cluster = inside(offset, header.cluster_bytes())?;
            match ranges[first..].last_mut() {
                Some(last) if last.end == cluster.start => last.end = cluster.end,
                _ => ranges.push(cluster),
            }
            Ok(())
        })
    })?;
    Ok(ranges)
}

impl BitmapInfo {
    /// Length of its table in bytes.
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.table_entries) * 8
    }

    /// Whether its content can be relied on.
    pub fn is_consistent(&self) -> bool {
        self.flags & IN_USE == 0
    }

    fn shown_name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    /// Whether its table has the entries that the disk's size needs.
    fn fits(&self, header: &Header) -> bool {
        let bits = header.size.div_ceil(1 << self.granularity_bits);
        bits.div_ceil(8).div_ceil(header.cluster_bytes()) == u64::from(self.table_entries)
    }

    fn keeps_limits(&self, header: &Header) -> bool {
        let data_bytes = u64::from(self.table_entries) << header.cluster_bits;
        self.table_entries > 0
            && self.table_offset != 0
            && self.table_offset.is_multiple_of(header.cluster_bytes())
            && data_bytes <= MAX_DATA_BYTES
            && (9..=31).contains(&self.granularity_bits)
            && self.flags & !(IN_USE | AUTO) == 0
            && self.name.len() <= MAX_NAME_BYTES
            && (!self.is_consistent()
                || u128::from(header.size) <= u128::from(data_bytes * 8) << self.granularity_bits)
    }

    /// Calls `visit` with the host offset of every cluster of bits, in the table's order. Reads in
    /// pieces; whether the table lies inside the file is for the caller to know.
    ///
    /// Fails with [`Kind::InvalidHeader`] on reserved bits and unaligned offsets.
    pub fn for_data(
        &self,
        header: &Header,
        read: Read<'_>,
        visit: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        self.for_data_in(self.table_bytes(), header, read, visit)
    }

    /// The same for the first `bytes` bytes of the table.
    fn for_data_in(
        &self,
        bytes: u64,
        header: &Header,
        read: Read<'_>,
        visit: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = vec![0; CHUNK_ENTRIES.min(self.table_entries as usize) * 8];
        let mut at = self.table_offset;
        let end = at.saturating_add(bytes.next_multiple_of(8));
        while at < end {
            let wanted = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let chunk = &mut buffer[..wanted];
            read(chunk, at)?;
            for entry in chunk.as_chunks::<8>().0.iter().map(|&bytes| u64::from_be_bytes(bytes)) {
                let offset = entry & OFFSET_MASK;
                let aligned = offset.is_multiple_of(header.cluster_bytes());
                let both = offset != 0 && entry & ALL_ONES != 0;
                if entry & TABLE_ENTRY_RESERVED != 0 || !aligned || both {
                    return Err(invalid("Invalid argument", at).context(&format!(
                        "Could not read bitmap_table table from image for bitmap '{}'",
                        self.shown_name()
                    )));
                }
                if offset != 0 {
                    visit(offset)?;
                }
            }
            at += wanted as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::header::{Compression, NewHeader, encode_new};
    use super::*;

    const CLUSTER: u64 = 0x1_0000;

    /// A header with a bitmaps extension over `count` bitmaps, and a file with their directory in
    /// cluster 5.
    fn image(count: u32, directory: &[u8]) -> (Header, Vec<u8>) {
        let mut file = encode_new(&NewHeader {
            version: 3,
            cluster_bits: 16,
            size: 4 << 20,
            refcount_order: 4,
            lazy_refcounts: false,
            extended_l2: false,
            compression: Compression::Zlib,
            l1_entries: 1,
            l1_offset: 3 * CLUSTER,
            refcount_table_offset: CLUSTER,
            refcount_table_clusters: 1,
        });
        file.truncate(112);
        file[95] = 1;
        file.extend(extension::BITMAPS.to_be_bytes());
        file.extend(24_u32.to_be_bytes());
        file.extend(count.to_be_bytes());
        file.extend([0; 4]);
        file.extend((directory.len() as u64).to_be_bytes());
        file.extend((5 * CLUSTER).to_be_bytes());
        file.resize(10 * 0x1_0000, 0);
        file[5 * 0x1_0000..][..directory.len()].copy_from_slice(directory);
        (Header::parse(&file[..0x1_0000], file.len() as u64).unwrap(), file)
    }

    fn entry(name: &[u8], table: u64) -> Vec<u8> {
        let mut out = table.to_be_bytes().to_vec();
        out.extend(1_u32.to_be_bytes());
        out.extend(AUTO.to_be_bytes());
        out.extend([DIRTY_TRACKING, 16]);
        out.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        out.extend([0; 4]);
        out.extend(name);
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    fn read(file: &[u8]) -> impl FnMut(&mut [u8], u64) -> Result<()> {
        |buf, at| {
            let at = usize::try_from(at).unwrap();
            for (index, byte) in buf.iter_mut().enumerate() {
                *byte = file.get(at + index).copied().unwrap_or(0);
            }
            Ok(())
        }
    }

    fn read_all(header: &Header, file_bytes: u64, read: Read<'_>) -> Result<Vec<BitmapInfo>> {
        let mut bitmaps = Vec::new();
        for_all(header, file_bytes, read, &mut |_, bitmap| {
            bitmaps.push(bitmap);
            Ok(())
        })?;
        Ok(bitmaps)
    }

    #[test]
    fn directory_tables_and_data_are_owned() {
        let directory = [entry(b"a", 6 * CLUSTER), entry(b"longer", 8 * CLUSTER)].concat();
        let (header, mut file) = image(2, &directory);
        file[0x6_0000..0x6_0008].copy_from_slice(&(7 * CLUSTER).to_be_bytes());
        file[0x8_0007] = 1; // all ones, nothing owned
        let ranges = owned_ranges(&header, file.len() as u64, &mut read(&file)).unwrap();
        let expected = [
            0x5_0000..0x5_0000 + directory.len() as u64,
            0x6_0000..0x6_0008,
            0x7_0000..0x8_0000,
            0x8_0000..0x8_0008,
        ];
        assert_eq!(ranges, expected);
        let all = read_all(&header, file.len() as u64, &mut read(&file)).unwrap();
        assert_eq!(all[1].name, b"longer");
        assert_eq!((all[1].granularity_bits, all[1].flags), (16, AUTO));
    }

    #[test]
    fn what_breaks_a_rule_is_refused_with_qemus_words() {
        let good = entry(b"a", 6 * CLUSTER);
        let poked = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        let table = [
            (2, good.clone(), "Less bitmaps found than specified in header extension"),
            (1, [good.clone(), good.clone()].concat(), "More bitmaps found than specified"),
            (2, [good.clone(), good.clone()].concat(), "Bitmap already exists: a"),
            (1, [good.clone(), vec![0; 8]].concat(), "Broken bitmap directory"),
            (1, vec![0; 32], "Bitmap '' doesn't satisfy the constraints"),
            (1, poked(6, 1), "Bitmap 'a' doesn't satisfy the constraints"),
            (1, poked(15, 4), "Bitmap 'a' doesn't satisfy the constraints"),
            (1, poked(16, 2), "Bitmap 'a' doesn't satisfy the constraints"),
            (1, poked(17, 8), "Bitmap 'a' doesn't satisfy the constraints"),
            (1, poked(20, 1), "Broken bitmap directory"),
            (1, poked(20, 0xff), "Bitmap extra data is not supported"),
            (1, poked(23, 7), "Bitmap extra data is not supported"),
            (1, poked(18, 9), "Broken bitmap directory"),
        ];
        for (count, directory, reason) in table {
            let (header, file) = image(count, &directory);
            let length = file.len() as u64;
            let error = read_all(&header, length, &mut read(&file)).unwrap_err();
            assert!(error.reason().starts_with(reason), "{error}, not {reason}");
        }
    }

    /// QEMU reads the table before it compares its length, and cannot open the image at all.
    #[test]
    fn a_table_that_cannot_be_read_is_refused_before_one_that_does_not_fit() {
        let mut directory = entry(b"a", 6 * CLUSTER);
        let reason =
            "Could not read bitmap_table table from image for bitmap 'a': Invalid argument";
        // One entry fits the disk.
        for entries in [1, 2] {
            directory[11] = entries;
            let (header, mut file) = image(1, &directory);
            file[0x6_0000] = 0x40;
            let error = read_all(&header, file.len() as u64, &mut read(&file)).unwrap_err();
            assert_eq!((error.kind(), error.reason()), (Kind::InvalidHeader, reason));
        }
        // What a bitmap in use has is not loaded.
        directory[15] = 1;
        let (header, mut file) = image(1, &directory);
        file[0x6_0000] = 0x40;
        assert_eq!(read_all(&header, file.len() as u64, &mut read(&file)).unwrap().len(), 1);
    }

    #[test]
    fn ranges_outside_the_file_and_bad_table_entries_are_refused() {
        for (value, kind) in [
            ((1 << 63) | (7 * CLUSTER), Kind::InvalidHeader),
            (7 * CLUSTER + 512, Kind::InvalidHeader),
            (7 * CLUSTER + 1, Kind::InvalidHeader),
            (10 * CLUSTER, Kind::Corrupt),
        ] {
            let (header, mut file) = image(1, &entry(b"a", 6 * CLUSTER));
            file[0x6_0000..0x6_0008].copy_from_slice(&u64::to_be_bytes(value));
            let error = owned_ranges(&header, file.len() as u64, &mut read(&file)).unwrap_err();
            assert_eq!(error.kind(), kind, "{value:#x}: {error}");
        }
        let (header, file) = image(1, &entry(b"a", 10 * CLUSTER));
        assert!(owned_ranges(&header, file.len() as u64, &mut read(&file)).is_err());
    }
}
