//! Replacing the content of the active disk in one commit.
//!
//! What differs is found first, and gets its place; the commit writes it, when nothing is left that
//! could refuse it. So the source is read twice where it differs.

use std::ops::Range;

use super::{Content, Disk};
use crate::error::{Error, Kind, Result};
use crate::format::header::autoclear;
use crate::format::mapping::{COMPRESSED, COPIED, OFFSET_MASK};
use crate::image::Image;
use crate::plan::{ActiveL1, Goal, Plan, Planner, Slot, TableContent};
use crate::storage::Storage;
use crate::transaction::{CommitOptions, Committed, NewData, Space, commit_with};

/// New data is placed and written in pieces of at most this many bytes.
const BATCH_BYTES: usize = 1 << 20;

impl Image {
    /// Makes the content of the active disk that of `source`, a raw disk of at most the virtual
    /// size; the rest reads as zeros. One commit: a crash leaves the old content or the new one,
    /// whole.
    ///
    /// Only clusters that differ are written, to new places; snapshots keep theirs.
    pub fn write_content(
        &mut self,
        source: &dyn Storage,
        options: &mut CommitOptions<'_>,
    ) -> Result<Committed> {
        self.ensure_changeable()?;
        if source.len()? > self.header.size {
            return Err(Error::new(Kind::InvalidArgument, "The source is larger than the disk"));
        }
        if self.header.autoclear & autoclear::BITMAPS != 0 {
            return Err(Error::new(Kind::HasBitmaps, "Device has active dirty bitmaps"));
        }
        let (planner, goal, clusters) = Replacement::new(self, source)?.goal()?;
        let plan = planner.plan(goal)?;
        commit_with(self, plan, Some(&clusters), options)
    }
}

/// Compares a raw disk with the active one, cluster by cluster, and places what differs.
struct Replacement<'i, 's> {
    image: &'i Image,
    planner: Planner<'i>,
    space: Space,
    content: Content<'i>,
    data: Vec<Range<u64>>,
    clusters: NewClusters<'s>,
}

impl<'i, 's> Replacement<'i, 's> {
    fn new(image: &'i Image, source: &'s dyn Storage) -> Result<Self> {
        Ok(Self {
            image,
            planner: Planner::new(image)?,
            space: Space::of(image, false)?,
            content: image.content(Disk::Active)?,
            data: source.data_ranges(0..source.len()?)?,
            clusters: NewClusters { source, guests: Vec::new(), placed: Vec::new() },
        })
    }

    /// The mapping to commit, and the data that it needs.
    fn goal(mut self) -> Result<(Planner<'i>, Goal, NewClusters<'s>)> {
        let header = &self.image.header;
        let mut active = self.planner.active()?;
        let mut fresh = Vec::new();
        let used = usize::try_from(header.l1_entries_for(header.size)).expect("at most 2^22");
        for (index, slot) in active.iter_mut().enumerate().take(used) {
            let span = header.l1_entry_span();
            let guest = index as u64 * span..((index as u64 + 1) * span).min(header.size);
            if *slot == Slot::NONE && !self.has_data(&guest) {
                continue;
            }
            if let Some(table) = self.replace_table(guest.clone())? {
                *slot = Slot::new(fresh.len());
                fresh.push(table);
                self.clusters.guests.push(guest.start);
            }
        }
        let goal = Goal { active: Some(ActiveL1::Of(active)), fresh, ..Goal::same(header) };
        self.clusters.placed.sort_unstable_by_key(|run| run.start);
        Ok((self.planner, goal, self.clusters))
    }

    fn has_data(&self, guest: &Range<u64>) -> bool {
        let after = self.data.partition_point(|data| data.end <= guest.start);
        self.data.get(after).is_some_and(|data| data.start < guest.end)
    }

    /// The L2 table for `guest` with new entries where the content differs; none if nowhere.
    fn replace_table(&mut self, guest: Range<u64>) -> Result<Option<Vec<u64>>> {
        let header = &self.image.header;
        let cluster_bytes = header.cluster_bytes();
        let size = usize::try_from(cluster_bytes).expect("at most 2 MiB");
        let mut table = vec![0; usize::try_from(header.l2_entries()).expect("in a cluster")];
        let (mut new, mut old) = (vec![0; size], vec![0; size]);
        let mut waiting = Vec::new();
        let mut changed = false;
        for (index, at) in guest.step_by(size).enumerate() {
            let entry = self.content.entry(at)? & !COPIED;
            table[index] = entry;
            let has_data = self.has_data(&(at..at + cluster_bytes));
            if !has_data && entry == 0 {
                continue;
            }
            new.fill(0);
            if has_data {
                self.clusters.source.read_at(&mut new, at)?;
            }
            self.content.read_at(&mut old, at)?;
            if new == old {
                continue;
            }
            changed = true;
            if new.iter().all(|&byte| byte == 0) {
                table[index] = 0;
                continue;
            }
            waiting.push(index);
            if waiting.len() * size >= BATCH_BYTES {
                self.place(&mut waiting, &mut table)?;
            }
        }
        self.place(&mut waiting, &mut table)?;
        Ok(changed.then_some(table))
    }

    /// Finds one free run for the clusters of these entries, and enters them.
    fn place(&mut self, indices: &mut Vec<usize>, table: &mut [u64]) -> Result<()> {
        if indices.is_empty() {
            return Ok(());
        }
        let storage = self.image.storage();
        let refcounts = self.planner.refcounts();
        let count = indices.len() as u64;
        let start = self.space.find(storage, refcounts, count)?;
        refcounts.take(storage, start..start + count)?;
        self.clusters.placed.push(start..start + count);
        for (cluster, index) in (start..).zip(indices.drain(..)) {
            table[index] = cluster << self.image.header.cluster_bits;
        }
        Ok(())
    }
}

/// Clusters that the fresh tables of a plan name and that nobody has written yet.
struct NewClusters<'a> {
    source: &'a dyn Storage,
    /// Where each fresh table begins in the guest's disk, in the order of the plan.
    guests: Vec<u64>,
    /// Host clusters, ascending.
    placed: Vec<Range<u64>>,
}

impl NewClusters<'_> {
    fn is_placed(&self, cluster: u64) -> bool {
        let next = self.placed.partition_point(|run| run.end <= cluster);
        self.placed.get(next).is_some_and(|run| run.start <= cluster)
    }
}

impl NewData for NewClusters<'_> {
    fn clusters(&self) -> &[Range<u64>] {
        &self.placed
    }

    fn write(&self, plan: &Plan, storage: &dyn Storage) -> Result<u64> {
        let bits = plan.header.cluster_bits;
        let size = 1_usize << bits;
        let tables = plan.moved.iter().filter_map(|table| match &table.content {
            TableContent::Fresh(entries) => Some(entries),
            TableContent::At(_) | TableContent::Mended { .. } => None,
        });
        let mut written_bytes = 0;
        // What is collected, and the host offset that it goes to.
        let (mut buffer, mut start) = (Vec::new(), 0);
        let mut put = |buffer: &mut Vec<u8>, start: u64| -> Result<()> {
            if !buffer.is_empty() {
                storage.write_at(buffer, start)?;
            }
            written_bytes += buffer.len() as u64;
            buffer.clear();
            Ok(())
        };
        for (entries, &first) in tables.zip(&self.guests) {
            for (&entry, guest) in entries.iter().zip((first..).step_by(size)) {
                let host = entry & OFFSET_MASK;
                if entry & COMPRESSED != 0 || !self.is_placed(host >> bits) {
                    continue;
                }
                if host != start + buffer.len() as u64 || buffer.len() >= BATCH_BYTES {
                    put(&mut buffer, start)?;
                    start = host;
                }
                let end = buffer.len();
                buffer.resize(end + size, 0);
                self.source.read_at(&mut buffer[end..], guest)?;
            }
        }
        put(&mut buffer, start)?;
        Ok(written_bytes)
    }
}
