//! The mapping of an image, read plainly: which L2 tables each disk in it names, and where the
//! clusters are. For the demo and the benchmark, on images that they made themselves.

use qcow2::format::mapping::{OFFSET_MASK, decode_table};
use qcow2::{Error, Image};

/// The active disk or a snapshot.
pub struct Disk {
    /// The snapshot's name; none for the active disk.
    pub snapshot: Option<String>,
    /// Its L1 table.
    pub l1: Vec<u64>,
}

/// The active disk, then every snapshot in the order of the table.
pub fn disks(image: &Image) -> Result<Vec<Disk>, Error> {
    let header = image.header();
    let mut disks = Vec::new();
    let l1 = read_table(image, header.l1_offset, u64::from(header.l1_entries))?;
    disks.push(Disk { snapshot: None, l1 });
    for entry in image.snapshots()? {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        let l1 = read_table(image, entry.l1_offset, u64::from(entry.l1_entries))?;
        disks.push(Disk { snapshot: Some(name), l1 });
    }
    Ok(disks)
}

/// The L2 table that an L1 entry names; empty if it names none.
pub fn l2_table(image: &Image, l1_entry: u64) -> Result<Vec<u64>, Error> {
    match l1_entry & OFFSET_MASK {
        0 => Ok(Vec::new()),
        offset => read_table(image, offset, image.header().l2_entries()),
    }
}

/// A table of 64-bit entries.
pub fn read_table(image: &Image, offset: u64, entries: u64) -> Result<Vec<u64>, Error> {
    let mut bytes = vec![0; usize::try_from(entries * 8).expect("a table fits memory")];
    image.storage().read_at(&mut bytes, offset)?;
    Ok(decode_table(&bytes))
}
