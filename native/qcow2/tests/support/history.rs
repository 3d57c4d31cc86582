//! Images that nobody thought of, each from a seed: over all cluster sizes, refcount widths and
//! both versions, with what other writers leave in them. In memory, without a process for each.

use std::collections::BTreeSet;

use qcow2::format::header::Compression;
use qcow2::storage::{RecordingStorage, SparseImage};
use qcow2::{Bitmaps, CommitOptions, Committed, Image, Kind, NewImage, NewSnapshot};

use super::fixtures::{self, Fixture, Format, pattern};
use super::guest::{Guest, Outcome};
use super::layout::{Layout, put64};
use super::pack::pack;
use super::plant::Keys;
use super::{Random, oracle, plant};

/// What is special about an image, for the tallies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    Zlib,
    Zstd,
    ExtendedL2,
    Zeros,
    Scattered,
    VmState,
    ManySizes,
    Bitmaps,
    Luks,
    UnknownExtension,
    UnknownFeatures,
    ShortRows,
    Leaks,
    Branched,
}

impl Feature {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zlib => "compressed clusters, zlib",
            Self::Zstd => "compressed clusters, zstd",
            Self::ExtendedL2 => "extended L2 entries",
            Self::Zeros => "zero clusters and discards",
            Self::Scattered => "scattered clusters",
            Self::VmState => "VM state above the end of the disk",
            Self::ManySizes => "snapshots of several disk sizes",
            Self::Bitmaps => "persistent bitmaps",
            Self::Luks => "LUKS header",
            Self::UnknownExtension => "unknown header extension",
            Self::UnknownFeatures => "unknown feature bits",
            Self::ShortRows => "snapshot rows of old writers",
            Self::Leaks => "leaks to begin with",
            Self::Branched => "an apply and a delete in the past",
        }
    }
}

/// An image with a past.
#[derive(Clone, Debug)]
pub struct Scene {
    pub fixture: Fixture,
    pub format: Format,
    pub features: BTreeSet<Feature>,
}

impl Scene {
    /// The image of a seed.
    pub fn of(random: &mut Random, keys: Keys) -> Self {
        let maker = Maker::new(random, keys);
        maker.make(random)
    }

    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// Lets a guest work, and gives snapshots that the operations made names of their own, so that
    /// the next operation finds theirs free.
    pub fn go_on(&mut self, step: usize, random: &mut Random) {
        let image = &mut self.fixture.image;
        for taken in [&b"new"[..], b"renamed"] {
            let view = oracle::view(image).unwrap();
            if view.snapshots.iter().any(|snapshot| snapshot.name == taken) {
                let name = format!("k{step}");
                *image = fixtures::changed(image.clone(), |i| {
                    i.rename_snapshot(taken, name.as_bytes(), &mut CommitOptions::default())
                        .map(drop)
                });
            }
        }
        let layout = Layout::read(image).unwrap();
        let clusters = layout.size.div_ceil(layout.cluster());
        let writes = random.below(if layout.cluster() > 16_384 { 3 } else { 12 });
        work(image, &self.features, clusters, writes, random);
    }
}

/// What an image shall become.
struct Maker {
    format: Format,
    features: BTreeSet<Feature>,
    keys: Keys,
    /// Guest clusters, the VM state's included.
    clusters: u64,
    writes: u64,
    snapshots: u64,
}

impl Maker {
    fn new(random: &mut Random, keys: Keys) -> Self {
        // Small clusters make many states of few bytes; large ones are there, seldom.
        let cluster_bits = *random.pick(&[
            9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 12, 12, 12, 12, 12, 12,
            13, 13, 14, 14, 14, 14, 15, 16, 16,
        ]);
        let cluster_bits = if random.chance(1) { 17 + random.below(5) } else { cluster_bits };
        let format = if random.chance(20) {
            Format::v2(1 << cluster_bits)
        } else {
            Format::v3(1 << cluster_bits, *random.pick(&[1, 2, 4, 8, 16, 16, 16, 32, 64]))
        };
        let mut features = BTreeSet::new();
        let mut toss = |feature, percent| {
            if random.chance(percent) {
                features.insert(feature);
            }
        };
        toss(Feature::Zeros, 40);
        toss(Feature::Scattered, 40);
        toss(Feature::Zlib, 20);
        toss(Feature::VmState, if cluster_bits <= 13 { 10 } else { 0 });
        toss(Feature::UnknownExtension, 6);
        toss(Feature::Branched, 20);
        if format.version == 2 {
            toss(Feature::ShortRows, 30);
        } else {
            toss(Feature::ManySizes, 15);
            toss(Feature::Bitmaps, 10);
            toss(Feature::Luks, 6);
            toss(Feature::UnknownFeatures, 6);
            toss(Feature::Zstd, 15);
            toss(Feature::ExtendedL2, if cluster_bits >= 14 { 50 } else { 0 });
        }
        toss(Feature::Leaks, 10);
        if features.contains(&Feature::Zstd) {
            features.remove(&Feature::Zlib);
        }
        if features.contains(&Feature::Luks) {
            // Encrypted clusters are not compressed.
            features.retain(|f| !matches!(f, Feature::Zlib | Feature::Zstd));
        }
        let is_large = cluster_bits > 14;
        let clusters = match random.below(4) {
            0 if !is_large => 200 + random.below(3000),
            _ => random.below(if is_large { 20 } else { 300 }),
        };
        let snapshots = match format.refcount_bits {
            1 => random.below(2),
            2 => random.below(3),
            _ => random.below(5),
        };
        let writes = random.below(if is_large { 6 } else { 30 });
        Self { format, features, keys, clusters, writes, snapshots }
    }

    fn make(mut self, random: &mut Random) -> Scene {
        let layout = Layout::read(&self.empty(512)).unwrap();
        let span = layout.l2_entries();
        let mut image;
        let mut clusters = self.clusters;
        if self.has(Feature::VmState) {
            // What lies above the new end is VM state, table by table.
            let tables = 1 + random.below(3);
            image = self.empty((tables + 1 + random.below(2)) * span * layout.cluster());
            let above = tables * span + random.below(50);
            for cluster in above..above + 1 + random.below(6) {
                self.write(&mut image, cluster, random);
            }
            clusters = tables * span - random.below(span);
            put64(&mut image, 24, clusters * layout.cluster());
        } else {
            // Of the last cluster the disk may have a part.
            let missing =
                if clusters > 0 && layout.cluster() > 512 { 512 * random.below(2) } else { 0 };
            image = self.empty(clusters * layout.cluster() - missing);
        }
        self.plant_early(&mut image, random);
        self.work(&mut image, clusters, random);
        for number in 0..self.snapshots {
            // A disk whose clusters cannot be counted twice has no snapshot.
            let Some(taken) = self.snapshot(&image, number) else { break };
            image = taken;
            if number == 0 && self.has(Feature::VmState) {
                plant::vm_state_bytes(&mut image, 4096);
            }
            if self.has(Feature::ManySizes) && !self.has(Feature::Bitmaps) && random.chance(60) {
                let grown = clusters + 1 + random.below(span * 2);
                let size = grown * layout.cluster();
                clusters = grown;
                image = fixtures::changed(image, |i| {
                    i.grow(size, &mut CommitOptions::default()).map(drop)
                });
            }
            self.work(&mut image, clusters, random);
        }
        if self.has(Feature::Branched) {
            self.branch(&mut image, random);
        }
        self.plant_late(&mut image, random);
        let audit = oracle::audit(&image).unwrap();
        assert_eq!(audit.errors, [""; 0], "{}", self.name());
        let name = self.name();
        Scene { fixture: Fixture { name, image }, format: self.format, features: self.features }
    }

    fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    fn name(&self) -> String {
        let Format { cluster_bytes, version, refcount_bits } = self.format;
        let features: Vec<_> = self.features.iter().map(|f| f.name()).collect();
        format!(
            "v{version}, {cluster_bytes} byte clusters, {refcount_bits} bit counts, {} clusters, \
             {} snapshots, {}",
            self.clusters,
            self.snapshots,
            features.join(", ")
        )
    }

    fn empty(&self, size: u64) -> SparseImage {
        let storage = RecordingStorage::new();
        let new = NewImage {
            size,
            cluster_bytes: self.format.cluster_bytes,
            version: self.format.version,
            refcount_bits: self.format.refcount_bits,
            lazy_refcounts: false,
            compression: if self.has(Feature::Zstd) {
                Compression::Zstd
            } else {
                Compression::Zlib
            },
            extended_l2: self.has(Feature::ExtendedL2),
        };
        qcow2::create(&storage, &new).unwrap();
        storage.cached()
    }

    /// The image with one snapshot more; none where its clusters cannot be counted once more.
    fn snapshot(&self, image: &SparseImage, number: u64) -> Option<SparseImage> {
        let name = format!("s{number}");
        let name = name.as_bytes();
        let new = NewSnapshot { name, least_id: 0, date_sec: 1_700_000_000, date_nsec: 5 };
        self.changed(image, |i| i.create_snapshot(&new, &mut CommitOptions::default()))
    }

    /// The image after the library has done something to it; none where the counts forbid it.
    fn changed(
        &self,
        image: &SparseImage,
        change: impl FnOnce(&mut Image) -> qcow2::Result<Committed>,
    ) -> Option<SparseImage> {
        let storage = RecordingStorage::from_image(image.clone());
        match change(&mut Image::open(Box::new(storage.clone())).unwrap()) {
            Ok(_) => Some(storage.cached()),
            Err(error) if error.kind() == Kind::RefcountOverflow => None,
            Err(error) => panic!("{}: {error}", self.name()),
        }
    }

    fn write(&self, image: &mut SparseImage, cluster: u64, random: &mut Random) {
        let bytes = self.format.cluster_bytes;
        let mut guest = Guest::boot(image).unwrap();
        guest.write(cluster * bytes, &pattern(bytes.min(4096), random)).unwrap();
    }

    fn work(&self, image: &mut SparseImage, clusters: u64, random: &mut Random) {
        work(image, &self.features, clusters, self.writes, random);
    }

    /// What is there before the guest works and before the first snapshot.
    fn plant_early(&mut self, image: &mut SparseImage, random: &mut Random) {
        let before = image.clone();
        if self.has(Feature::Luks) && !plant::keys(image, self.keys, random) {
            *image = before;
            self.features.remove(&Feature::Luks);
        }
        if self.has(Feature::UnknownExtension) && !plant::unknown_extension(image, random) {
            self.features.remove(&Feature::UnknownExtension);
        }
    }

    /// What nothing that is still to come would leave as it is.
    fn plant_late(&mut self, image: &mut SparseImage, random: &mut Random) {
        if self.has(Feature::ShortRows) {
            plant::short_rows(image, random);
        }
        let before = image.clone();
        if self.has(Feature::Bitmaps) && !plant::bitmaps(image, random) {
            *image = before;
            self.features.remove(&Feature::Bitmaps);
        }
        if self.has(Feature::UnknownFeatures) {
            plant::unknown_features(image, random);
        }
        if self.has(Feature::Leaks) && !plant::leaks(image, random) {
            self.features.remove(&Feature::Leaks);
        }
    }

    /// Back to an older snapshot, and one in the middle goes: tables are shared in odd ways.
    fn branch(&self, image: &mut SparseImage, random: &mut Random) {
        let view = oracle::view(image).unwrap();
        let Some(target) = view.snapshots.first() else { return };
        let options = &mut CommitOptions::default();
        let Some(applied) =
            self.changed(image, |i| i.apply_snapshot(&target.name, Bitmaps::Refuse, options))
        else {
            return;
        };
        *image = applied;
        let clusters = Layout::read(image).unwrap().size / self.format.cluster_bytes;
        self.work(image, clusters, random);
        let Some(doomed) = view.snapshots.get(1) else { return };
        let options = &mut CommitOptions::default();
        if let Some(rest) = self.changed(image, |i| i.delete_snapshot(&doomed.name, options)) {
            *image = rest;
            self.work(image, clusters, random);
        }
    }
}

/// Lets a guest write so many clusters of the first `clusters`, in the ways of these features.
fn work(
    image: &mut SparseImage,
    features: &BTreeSet<Feature>,
    clusters: u64,
    writes: u64,
    random: &mut Random,
) {
    if clusters == 0 {
        return;
    }
    let has = |feature| features.contains(&feature);
    let is_compressed = has(Feature::Zlib) || has(Feature::Zstd);
    let mut guest = Guest::boot(image).unwrap();
    let bytes = guest.layout().cluster();
    let (version, is_zstd) = (guest.layout().version, guest.layout().is_zstd);
    let end = guest.image().len() / bytes;
    for _ in 0..writes {
        if has(Feature::Scattered) {
            guest.search_from(random.below(end * 2));
        }
        let offset = random.below(clusters) * bytes;
        let length = bytes.min(4096);
        let packed = if is_compressed && random.chance(50) {
            let mut data = pattern(bytes, random);
            let noise = usize::try_from(random.below(bytes / 2)).unwrap();
            data[..noise].iter_mut().for_each(|byte| *byte = random.next().to_le_bytes()[0]);
            data[noise..].fill(7);
            pack(&data, is_zstd)
        } else {
            None
        };
        let outcome = match random.below(10) {
            _ if packed.is_some() => {
                let shift = random.below(bytes) * random.below(2);
                guest.write_compressed(offset, &packed.unwrap(), shift)
            }
            0 if version == 3 && has(Feature::Zeros) => guest.write_zeros(offset),
            1 if has(Feature::Zeros) => guest.discard(offset),
            _ => guest.write(offset, &pattern(length, random)),
        };
        // The refcount table is full: then it is.
        if outcome.unwrap() == Outcome::NoSpace {
            break;
        }
    }
}
