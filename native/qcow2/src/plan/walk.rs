//! Reading L2 tables: each once, in the order of the file, however often it is named.

use crate::error::Result;
use crate::format::header::Header;
use crate::format::mapping::{COPIED, Mapping};
use crate::image::Image;
use crate::refcounts::{Change, Refcounts};
use crate::storage::Storage;

use super::uses::Use;

/// Neighbouring L2 tables are read together up to this many bytes.
const READ_BYTES: u64 = 1 << 20;

/// Reads the wanted tables in the order of the file, neighbours together, and shows each to
/// `visit`.
pub(super) fn for_tables(
    image: &Image,
    uses: &[Use],
    wanted: impl Fn(&Use) -> bool,
    mut visit: impl FnMut(usize, &[u8]) -> Result<()>,
) -> Result<()> {
    let cluster_bytes = image.header.cluster_bytes();
    let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
    let mut buffer = Vec::new();
    let mut index = 0;
    while index < uses.len() {
        if !wanted(&uses[index]) {
            index += 1;
            continue;
        }
        let start = uses[index].offset;
        let mut count = 1;
        while index + count < uses.len()
            && uses[index + count].offset == start + count as u64 * cluster_bytes
            && (count as u64 + 1) * cluster_bytes <= READ_BYTES
            && wanted(&uses[index + count])
        {
            count += 1;
        }
        buffer.resize(count * size, 0);
        image.storage.read_at(&mut buffer, start)?;
        for (nth, table) in buffer.chunks_exact(size).enumerate() {
            visit(index + nth, table)?;
        }
        index += count;
    }
    Ok(())
}

/// Registers everything that the entries of one L2 table own, consecutive clusters as one run.
/// Returns whether any entry carries COPIED.
pub(super) fn reference_entries(
    storage: &dyn Storage,
    refcounts: &mut Refcounts,
    table: &[u8],
    header: &Header,
    table_offset: u64,
    change: Change,
) -> Result<bool> {
    let bits = header.cluster_bits;
    let mut any_copied = false;
    let mut run = 0..0;
    for (position, entry) in header.l2_words(table) {
        if entry == 0 {
            continue;
        }
        any_copied |= entry & COPIED != 0;
        let mapping = header.mapping(entry, table_offset + position)?;
        let Some((offset, length)) = mapping.owned(bits) else { continue };
        let clusters = offset >> bits..(offset + length).div_ceil(1 << bits);
        if clusters.start == run.end && matches!(mapping, Mapping::Standard { .. }) {
            run.end = clusters.end;
        } else {
            refcounts.reference_data(storage, run, change)?;
            run = clusters;
        }
    }
    refcounts.reference_data(storage, run, change)?;
    Ok(any_copied)
}
