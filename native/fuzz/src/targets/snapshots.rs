//! The snapshot table: what was read is written to the same bytes, and reads the same.

use qcow2::format::snapshot::{SnapshotEntry, encode_table, read_table};
use qcow2::lookup;

use super::within_memory;

/// The first two bytes are the count, the rest is a file with the table at a multiple of 8.
pub fn snapshots(bytes: &[u8]) {
    let Some((&[high, low], file)) = bytes.split_first_chunk() else { return };
    let count = u32::from(high) << 8 | u32::from(low);
    within_memory(bytes.len(), || {
        let Ok((entries, length)) = read(count, file) else { return };
        assert_eq!(entries.len(), count as usize);
        assert!(length <= file.len() as u64);
        let encoded = encode_table(&entries);
        assert_eq!(encoded.len() as u64, length.next_multiple_of(8));
        let (again, _) = read(count, &encoded).expect("its own table");
        assert_eq!(again, entries, "a table changes when it is written");
        for entry in &entries {
            let _ = (entry.numeric_id(), entry.disk_size(), entry.vm_state_bytes(), entry.icount());
            assert!(entry.shown_id().len() <= 127 && entry.shown_name().len() <= 255);
        }
        // Each has to be compared with each by some, so that a few have to do.
        for entry in entries.iter().take(8) {
            if let Ok(index) = lookup::by_id_or_name(&entries, entry.id_text()) {
                assert_eq!(entries[index].id_text(), entry.id_text());
            }
            let _ = lookup::by_name(&entries, entry.name_text());
            let _ = lookup::by_id(&entries, entry.id_text());
        }
    });
}

fn read(count: u32, file: &[u8]) -> qcow2::Result<(Vec<SnapshotEntry>, u64)> {
    read_table(count, 0, file.len() as u64, |buf, at| {
        // It promises to ask for nothing outside.
        let at = usize::try_from(at).expect("inside the file");
        buf.copy_from_slice(&file[at..at + buf.len()]);
        Ok(())
    })
}
