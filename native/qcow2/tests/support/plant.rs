//! What other writers leave in an image, planted byte by byte: bitmaps, keys, extensions of whom
//! nobody knows, rows of old versions, leaks. What is planted is sound to QEMU; leaks apart, its
//! check finds nothing.

use qcow2::storage::SparseImage;

use super::Random;
use super::fixtures::pattern;
use super::guest::Guest;
use super::layout::{Layout, be16, be32, be64, bytes, put64};
use super::oracle::ENCRYPTION;
use super::qemu;

/// Header extension of persistent bitmaps.
const BITMAPS: u32 = 0x2385_2875;
/// Header fields: encryption method, features.
const CRYPT_METHOD_AT: u64 = 32;
const COMPATIBLE_AT: u64 = 80;
const AUTOCLEAR_AT: u64 = 88;
const HEADER_BYTES_AT: u64 = 100;

/// Appends a header extension. Returns whether the first cluster has room for it.
pub fn extension(image: &mut SparseImage, kind: u32, data: &[u8]) -> bool {
    let layout = Layout::read(image).unwrap();
    let header_bytes = if layout.version == 3 { u64::from(be32(image, 100)) } else { 72 };
    let end = layout
        .extensions
        .last()
        .map_or(header_bytes, |(_, at, length)| at + length.next_multiple_of(8));
    let padded = (data.len() as u64).next_multiple_of(8);
    if end + 8 + padded + 8 > layout.cluster() {
        return false;
    }
    let mut whole = [kind.to_be_bytes(), u32::try_from(data.len()).unwrap().to_be_bytes()].concat();
    whole.extend(data);
    // The padding, and the end of the list.
    whole.resize(usize::try_from(8 + padded + 8).unwrap(), 0);
    image.write(&whole, end);
    true
}

/// An extension whose owner may refer to clusters in ways that nobody else knows. Also where
/// version 2 has nothing else: from byte 72 on.
pub fn unknown_extension(image: &mut SparseImage, random: &mut Random) -> bool {
    let length = 1 + random.below(40);
    extension(image, 0x7700_0000 | (random.next() & 0xffff) as u32, &pattern(length, random))
}

/// What means nothing to us: a feature bit to be kept, one to be cleared by every writer, or both; or
/// fields at the end of a longer header, where there is room.
pub fn unknown_features(image: &mut SparseImage, random: &mut Random) {
    let bits = match random.below(4) {
        0 => &[COMPATIBLE_AT][..],
        1 => &[AUTOCLEAR_AT],
        2 if longer_header(image) => &[],
        _ => &[COMPATIBLE_AT, AUTOCLEAR_AT],
    };
    for &at in bits {
        put64(image, at, be64(image, at) | 1 << 40);
    }
}

/// Sixteen bytes of fields after those that are known. Returns whether there was room.
fn longer_header(image: &mut SparseImage) -> bool {
    const FIELDS: u64 = 16;
    let layout = Layout::read(image).unwrap();
    let length = u64::from(be32(image, HEADER_BYTES_AT));
    let mut ends = layout.extensions.iter().map(|(_, at, bytes)| at + bytes.next_multiple_of(8));
    let end = ends.next_back().unwrap_or(length);
    let names_backing_file = be64(image, 8) != 0;
    if names_backing_file || length < 112 || end + 8 + FIELDS > layout.cluster() {
        return false;
    }
    image.write(&bytes(image, length, end + 8 - length), length + FIELDS);
    image.write(&[7; 16], length);
    image.write(&u32::try_from(length + FIELDS).unwrap().to_be_bytes(), HEADER_BYTES_AT);
    true
}

/// Two persistent bitmaps of the disk as it is: one with data, one all ones and zeros. Returns
/// whether there was room.
pub fn bitmaps(image: &mut SparseImage, random: &mut Random) -> bool {
    let layout = Layout::read(image).unwrap();
    let cluster = layout.cluster();
    // Of a disk of size 0 there is nothing to say.
    if layout.size == 0 {
        return false;
    }
    let data = pattern(cluster, random);
    let mut directory = Vec::new();
    let mut guest = Guest::boot(image).unwrap();
    for (name, granularity_bits) in [("daily", 9 + random.below(8)), ("weekly", 16)] {
        let bits = layout.size.div_ceil(1 << granularity_bits);
        let entries = bits.div_ceil(8).div_ceil(cluster);
        let clusters = (entries * 8).div_ceil(cluster).max(1);
        let Some(table) = guest.allocate(clusters).unwrap() else { return false };
        let mut words = Vec::new();
        for _ in 0..entries {
            let word = if name == "daily" && random.chance(60) {
                let Some(at) = guest.allocate(1).unwrap() else { return false };
                guest.image().write(&data, at);
                at
            } else {
                random.below(2)
            };
            words.extend(word.to_be_bytes());
        }
        words.resize(usize::try_from(clusters * cluster).unwrap(), 0);
        guest.image().write(&words, table);
        directory.extend(table.to_be_bytes());
        directory.extend(u32::try_from(entries).unwrap().to_be_bytes());
        directory.extend(0_u32.to_be_bytes());
        directory.extend([1, u8::try_from(granularity_bits).unwrap()]);
        directory.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        directory.extend(0_u32.to_be_bytes());
        directory.extend(name.as_bytes());
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    let length = directory.len() as u64;
    let Some(at) = guest.allocate(length.div_ceil(cluster)).unwrap() else { return false };
    directory.resize(usize::try_from(length.next_multiple_of(cluster)).unwrap(), 0);
    image.write(&directory, at);
    let mut data = [2_u32.to_be_bytes(), [0; 4]].concat();
    data.extend(length.to_be_bytes());
    data.extend(at.to_be_bytes());
    if !extension(image, BITMAPS, &data) {
        return false;
    }
    put64(image, AUTOCLEAR_AT, be64(image, AUTOCLEAR_AT) | 1);
    true
}

/// What an encrypted image has for keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// A few clusters of noise.
    Noise,
    /// A LUKS header that opens with [`qemu::SECRET`], if qemu-img is there to make one.
    Usable,
}

/// A LUKS header: clusters that only a header extension names. Returns whether there was room.
pub fn keys(image: &mut SparseImage, keys: Keys, random: &mut Random) -> bool {
    let layout = Layout::read(image).unwrap();
    // QEMU's is not a whole number of clusters either.
    let length = (layout.cluster() * (1 + random.below(3)) - 512 * random.below(2)).max(512);
    let header = if keys == Keys::Usable { qemu::luks_header() } else { None };
    let length = header.map_or(length, |header| header.len() as u64);
    let mut guest = Guest::boot(image).unwrap();
    let Some(at) = guest.allocate(length.div_ceil(layout.cluster())).unwrap() else { return false };
    image.write(&pattern(length.next_multiple_of(layout.cluster()), random), at);
    image.write(header.unwrap_or_default(), at);
    if !extension(image, ENCRYPTION, &[at.to_be_bytes(), length.to_be_bytes()].concat()) {
        return false;
    }
    image.write(&2_u32.to_be_bytes(), CRYPT_METHOD_AT);
    true
}

/// Clusters that are counted and unused, and clusters that are counted too often, as an interrupted
/// `qemu-img snapshot -d` leaves them. Returns whether there are any.
pub fn leaks(image: &mut SparseImage, random: &mut Random) -> bool {
    let layout = Layout::read(image).unwrap();
    let clusters = image.len() / layout.cluster();
    let mut any = false;
    for _ in 0..=random.below(5) {
        let cluster = random.below(clusters);
        let count = layout.refcount(image, cluster);
        // A cluster of count 1 may carry COPIED, and then its count is right or an error.
        if count == 1 || count == layout.max_refcount() {
            continue;
        }
        any |= layout.set_refcount(image, cluster, count + 1).is_ok();
    }
    any
}

/// Where each row of the snapshot table begins.
pub fn rows(image: &SparseImage) -> Vec<u64> {
    let layout = Layout::read(image).unwrap();
    let mut at = layout.snapshots_offset;
    let mut rows = Vec::new();
    for _ in 0..layout.snapshot_count {
        at = at.next_multiple_of(8);
        rows.push(at);
        let names = u64::from(be16(image, at + 12)) + u64::from(be16(image, at + 14));
        at += 40 + u64::from(be32(image, at + 36)) + names;
    }
    rows
}

/// The newest snapshot says that it has VM state.
pub fn vm_state_bytes(image: &mut SparseImage, length: u32) {
    if let Some(&row) = rows(image).last() {
        image.write(&length.to_be_bytes(), row + 32);
        put64(image, row + 40, length.into());
    }
}

/// Rows with less extra data than today: none, or no disk size. As writers of version 2 made them.
pub fn short_rows(image: &mut SparseImage, random: &mut Random) {
    let layout = Layout::read(image).unwrap();
    let mut table: Vec<u8> = Vec::new();
    for at in rows(image) {
        let extra = u64::from(be32(image, at + 36));
        let names = u64::from(be16(image, at + 12)) + u64::from(be16(image, at + 14));
        let kept = extra.min(*random.pick(&[0, 8, 16, 24]));
        table.resize(table.len().next_multiple_of(8), 0);
        table.extend(bytes(image, at, 36));
        table.extend(u32::try_from(kept).unwrap().to_be_bytes());
        table.extend(bytes(image, at + 40, kept));
        table.extend(bytes(image, at + 40 + extra, names));
    }
    let whole = table.len().next_multiple_of(usize::try_from(layout.cluster()).unwrap());
    table.resize(whole, 0);
    image.write(&table, layout.snapshots_offset);
}
