//! The verdict on one state after a power cut: opens, clean, old or new, and it stays so when a
//! guest goes on working.

use std::sync::Arc;

use qcow2::Image;
use qcow2::storage::{RecordingStorage, SparseImage};

use super::Random;
use super::guest::{Guest, Outcome};
use super::layout::Layout;
use super::oracle::{self, Known, View};

/// What a state may show. The first that matches counts.
#[derive(Clone, Debug)]
pub struct Allowed {
    pub views: Vec<View>,
    /// Leaks are allowed (delete on a full disk, between its steps).
    pub leaks: bool,
}

/// What is wrong with a state, by how bad it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It cannot be opened or read.
    Unreadable(String),
    /// Content or snapshots are none of those allowed.
    Mixed(String),
    /// A snapshot changed when the guest wrote to the active disk.
    SnapshotChanged(String),
    /// The active disk does not read what the guest wrote.
    WriteLost(String),
    /// References and counts do not agree.
    Inconsistent(String),
    /// Space is counted and unused.
    Leaks(u64),
}

/// Judges a state; returns which of the allowed views it shows.
pub fn judge(image: &SparseImage, allowed: &Allowed, random: &mut Random) -> Result<usize, Damage> {
    let most_leaks = if allowed.leaks { u64::MAX } else { 0 };
    judge_beside(image, &Known::nothing(), &allowed.views, most_leaks, random)
}

/// The same of a variant of an image that is known, where so many clusters may leak.
pub fn judge_beside(
    image: &SparseImage,
    known: &Known,
    allowed: &[View],
    most_leaks: u64,
    random: &mut Random,
) -> Result<usize, Damage> {
    if let Err(error) = Image::open(Box::new(RecordingStorage::from_image(image.clone()))) {
        return Err(Damage::Unreadable(error.to_string()));
    }
    let view = oracle::view_beside(image, known).map_err(Damage::Unreadable)?;
    let shown = allowed
        .iter()
        .position(|allowed| *allowed == view)
        .ok_or_else(|| Damage::Mixed(difference(&view, allowed)))?;
    // Before the books: a snapshot that a guest can change is worse than a wrong count.
    let booted = boot_beside(image, known, &view, random)?;
    clean(image, most_leaks)?;
    library_clean(image, most_leaks)?;
    clean(&booted, most_leaks)?;
    Ok(shown)
}

fn clean(image: &SparseImage, most_leaks: u64) -> Result<(), Damage> {
    let audit = oracle::audit(image).map_err(Damage::Inconsistent)?;
    if let Some(error) = audit.errors.first() {
        let more = audit.errors.len() - 1;
        return Err(Damage::Inconsistent(format!("{error}, and {more} more")));
    }
    if audit.leaks > most_leaks { Err(Damage::Leaks(audit.leaks)) } else { Ok(()) }
}

/// The library's own check has to find nothing either.
fn library_clean(image: &SparseImage, most_leaks: u64) -> Result<(), Damage> {
    let storage = RecordingStorage::from_image(image.clone());
    let mut problems = Vec::new();
    let report = Image::open(Box::new(storage))
        .and_then(|image| {
            qcow2::check::check(&image, &mut |problem| problems.push(problem.clone()))
        })
        .map_err(|error| Damage::Unreadable(format!("check: {error}")))?;
    if report.corruptions + report.check_errors > 0 || report.leaks > most_leaks {
        return Err(Damage::Inconsistent(format!("check: {report:?} {:?}", problems.first())));
    }
    Ok(())
}

/// Lets a guest write to the active disk, then compares: the disk has what it wrote, and every
/// snapshot is as it was. Returns the image afterwards.
pub fn boot(
    image: &SparseImage,
    before: &View,
    random: &mut Random,
) -> Result<SparseImage, Damage> {
    boot_beside(image, &Known::nothing(), before, random)
}

fn boot_beside(
    image: &SparseImage,
    known: &Known,
    before: &View,
    random: &mut Random,
) -> Result<SparseImage, Damage> {
    let mut after = image.clone();
    let mut expected = before.clone();
    let mut guest = Guest::boot(&mut after).map_err(Damage::Unreadable)?;
    for (offset, length) in places(guest.layout(), before, random) {
        let data: Vec<u8> = (0..length).map(|_| (random.next() | 1).to_le_bytes()[0]).collect();
        match guest.write(offset, &data).map_err(Damage::Inconsistent)? {
            Outcome::NoSpace => break,
            Outcome::Done => change(&mut expected, guest.layout().cluster(), offset, &data),
        }
    }
    let view = oracle::view_beside(&after, known).map_err(Damage::Unreadable)?;
    if view.snapshots != expected.snapshots {
        return Err(Damage::SnapshotChanged(difference(&view, &[expected])));
    }
    if view != expected {
        return Err(Damage::WriteLost(difference(&view, &[expected])));
    }
    Ok(after)
}

/// Guest offsets and lengths to write: inside old data, at unused places, in every L2 table.
fn places(layout: &Layout, view: &View, random: &mut Random) -> Vec<(u64, usize)> {
    let cluster = layout.cluster();
    let clusters = view.size / cluster;
    if clusters == 0 {
        return Vec::new();
    }
    let mut chosen: Vec<u64> = Vec::new();
    let used: Vec<u64> = view.active.keys().copied().filter(|&c| c < clusters).collect();
    if !used.is_empty() {
        chosen.extend((0..10).map(|_| *random.pick(&used)));
        // What only snapshots map now may have been the active disk's before.
    }
    for snapshot in &view.snapshots {
        chosen.extend(snapshot.content.keys().copied().filter(|&c| c < clusters).take(2));
    }
    chosen.extend((0..4).map(|_| random.below(clusters)));
    let tables = clusters.div_ceil(layout.l2_entries());
    chosen.extend((0..tables.min(6)).map(|_| random.below(tables) * layout.l2_entries()));
    random.shuffle(&mut chosen);
    chosen
        .into_iter()
        .map(|guest_cluster| {
            let within = random.below(cluster / 512) * 512;
            let length = 512.min(cluster - within);
            (guest_cluster * cluster + within, usize::try_from(length).unwrap())
        })
        .collect()
}

/// Does to the expected content what a guest write does to the disk.
pub fn change(view: &mut View, cluster: u64, offset: u64, data: &[u8]) {
    let size = usize::try_from(cluster).unwrap();
    let entry = view.active.entry(offset / cluster).or_insert_with(|| Arc::from(vec![0; size]));
    let mut content = entry.to_vec();
    let within = usize::try_from(offset % cluster).unwrap();
    content[within..within + data.len()].copy_from_slice(data);
    *entry = Arc::from(content);
    if entry.iter().all(|&b| b == 0) {
        view.active.remove(&(offset / cluster));
    }
}

/// Where a view differs from those that were allowed, in a few words.
pub fn difference(view: &View, allowed: &[View]) -> String {
    let against = |other: &View| {
        let mut words = Vec::new();
        if view.size != other.size {
            words.push(format!("size {} not {}", view.size, other.size));
        }
        let changed = clusters_between(&view.active, &other.active);
        if !changed.is_empty() {
            words.push(format!("active clusters {changed:x?}"));
        }
        let names = |v: &View| {
            v.snapshots
                .iter()
                .map(|s| String::from_utf8_lossy(&s.name).into_owned())
                .collect::<Vec<_>>()
        };
        if view.above_the_end != other.above_the_end {
            words.push("VM state above the end".to_owned());
        }
        if view.keys != other.keys {
            words.push("keys".to_owned());
        }
        if names(view) != names(other) {
            words.push(format!("snapshots {:?} not {:?}", names(view), names(other)));
        }
        for (ours, theirs) in view.snapshots.iter().zip(&other.snapshots) {
            if ours != theirs {
                let name = String::from_utf8_lossy(&ours.name);
                let changed = clusters_between(&ours.content, &theirs.content);
                words.push(format!("snapshot {name:?} differs, clusters {changed:x?}"));
            }
        }
        words.join(", ")
    };
    allowed.iter().map(against).collect::<Vec<_>>().join(" | ")
}

fn clusters_between(a: &oracle::Content, b: &oracle::Content) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        a.keys().chain(b.keys()).copied().filter(|c| a.get(c) != b.get(c)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.truncate(8);
    numbers
}
