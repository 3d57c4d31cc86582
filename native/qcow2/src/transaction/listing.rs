//! A shorter list of snapshots on a full disk, and its commit.

use std::ops::Range;

use crate::error::{Kind, Result};
use crate::format::header::SECTOR_BYTES;
use crate::image::Image;
use crate::refcounts::EditedSector;

use super::{CommitOptions, Committed, adopt, ensure_settled, flush, switch};

/// A shorter list of snapshots that needs no new block of the file system.
#[derive(Debug)]
pub(crate) enum Listing {
    /// The same table, of which only the first `count` entries are read.
    Shorter {
        /// Entries that stay.
        count: usize,
    },
    /// One sector of the table is replaced, which moves the entry that goes to the end; then as
    /// [`Listing::Shorter`].
    Reordered {
        /// Entries that stay.
        count: usize,
        /// The sector.
        edit: Box<EditedSector>,
    },
    /// A table in clusters that nobody references and that own blocks. Their counts are raised in
    /// place first, one sector at a time: a crash then leaves them as leaks.
    Elsewhere {
        /// Entries that stay.
        count: usize,
        /// The table.
        table: Vec<u8>,
        /// Where it goes.
        clusters: Range<u64>,
        /// The counts of these clusters.
        edits: Vec<EditedSector>,
    },
}

/// Commits a header that lists fewer snapshots and changes nothing else: what a removed one used
/// stays counted, so it leaks until a recount.
pub(crate) fn commit_listing(
    image: &mut Image,
    listing: &Listing,
    options: &mut CommitOptions<'_>,
) -> Result<Committed> {
    let mut done = Committed::default();
    ensure_settled(image, &mut done)?;
    let mut header = image.header.clone();
    let (count, edited) = match listing {
        Listing::Shorter { count } => (*count, Vec::new()),
        Listing::Reordered { count, edit } => (*count, vec![&**edit]),
        Listing::Elsewhere { count, clusters, edits, .. } => {
            header.snapshots_offset = clusters.start << header.cluster_bits;
            (*count, edits.iter().collect())
        }
    };
    header.snapshot_count = u32::try_from(count).expect("at most 65 536");
    if count == 0 {
        header.snapshots_offset = 0;
    }
    options.ask(&image.header, &header)?;
    let written = (|| {
        for edit in &edited {
            image.storage.write_at(&edit.new, edit.offset)?;
            done.written_bytes += SECTOR_BYTES as u64;
        }
        if !edited.is_empty() {
            flush(image, &mut done)?;
        }
        if let Listing::Elsewhere { table, .. } = listing {
            image.storage.write_at(table, header.snapshots_offset)?;
            done.written_bytes += table.len() as u64;
            flush(image, &mut done)?;
        }
        switch(image, &header, options, &mut done)
    })();
    if let Err(error) = written {
        if error.kind() != Kind::Unsettled {
            // Each old sector is right beside the old header, edited or not.
            for edit in &edited {
                let _ = image.storage.write_at(&edit.old, edit.offset);
            }
            let _ = image.storage.flush();
        }
        return Err(error);
    }
    adopt(image, header);
    Ok(done)
}
