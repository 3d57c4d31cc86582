//! Small images with a past: made by the library's create, worked on by a guest, with snapshots.

use qcow2::format::header::Compression;
use qcow2::storage::{RecordingStorage, SparseImage};
use qcow2::{Bitmaps, CommitOptions, Image, NewImage, NewSnapshot};

use super::guest::{Guest, Outcome};
use super::layout::{COPIED, Layout, OFFSET, be64, bytes, put64};
use super::qemu::{self, Workshop};
use super::{Random, oracle};

/// An image and what to call it.
#[derive(Clone, Debug)]
pub struct Fixture {
    pub name: String,
    pub image: SparseImage,
}

impl Fixture {
    /// The image opened by the library, on a storage that logs.
    pub fn open(&self) -> (RecordingStorage, Image) {
        let storage = RecordingStorage::from_image(self.image.clone());
        let image = Image::open(Box::new(storage.clone())).expect(&self.name);
        storage.clear_operations();
        (storage, image)
    }
}

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    pub cluster_bytes: u64,
    pub version: u32,
    pub refcount_bits: u32,
}

impl Format {
    pub const fn v3(cluster_bytes: u64, refcount_bits: u32) -> Self {
        Self { cluster_bytes, version: 3, refcount_bits }
    }

    pub const fn v2(cluster_bytes: u64) -> Self {
        Self { cluster_bytes, version: 2, refcount_bits: 16 }
    }
}

/// How an image came to be.
#[derive(Clone, Copy, Debug)]
pub struct Past {
    pub format: Format,
    /// Virtual size in bytes.
    pub size: u64,
    /// Clusters that the guest writes before the first snapshot and after each.
    pub writes: u64,
    pub snapshots: usize,
    /// The guest takes clusters here and there instead of the first free one.
    pub scattered: bool,
    /// Zero clusters of both kinds, and discards.
    pub zeros: bool,
}

impl Past {
    fn name(&self) -> String {
        let Format { cluster_bytes, version, refcount_bits } = self.format;
        format!(
            "v{version}, {cluster_bytes} byte clusters, {refcount_bits} bit counts, {} snapshots{}{}",
            self.snapshots,
            if self.scattered { ", scattered" } else { "" },
            if self.zeros { ", zeros" } else { "" },
        )
    }

    /// Makes the image. What is written depends on `random` only.
    pub fn build(&self, random: &mut Random) -> Fixture {
        let mut image = empty(self.format, self.size);
        self.work(&mut image, random);
        for number in 0..self.snapshots {
            image = snapshot(image, &format!("s{number}"));
            self.work(&mut image, random);
        }
        Fixture { name: self.name(), image }
    }

    /// Lets the guest work for a while.
    pub fn work(&self, image: &mut SparseImage, random: &mut Random) {
        let end = image.len() / self.format.cluster_bytes;
        let mut guest = Guest::boot(image).unwrap();
        let clusters = self.size.div_ceil(self.format.cluster_bytes);
        for _ in 0..self.writes {
            if self.scattered {
                guest.search_from(random.below(end * 2));
            }
            let offset = random.below(clusters) * self.format.cluster_bytes;
            let kind = if self.zeros { random.below(10) } else { 9 };
            let outcome = match kind {
                0 if self.format.version == 3 => guest.write_zeros(offset),
                1 => guest.discard(offset),
                _ => guest.write(offset, &pattern(self.format.cluster_bytes, random)),
            };
            assert_eq!(outcome.unwrap(), Outcome::Done, "{}: refcount table full", self.name());
        }
    }
}

/// A cluster that looks like no other, sector by sector.
pub fn pattern(length: u64, random: &mut Random) -> Vec<u8> {
    let mut data = Vec::new();
    while (data.len() as u64) < length {
        let byte = (random.next() | 1).to_le_bytes()[0];
        data.extend(std::iter::repeat_n(byte, 504));
        data.extend(random.next().to_le_bytes());
    }
    data.truncate(usize::try_from(length).unwrap());
    data
}

/// A new image of the library's making.
pub fn empty(format: Format, size: u64) -> SparseImage {
    let storage = RecordingStorage::new();
    let new = NewImage {
        size,
        cluster_bytes: format.cluster_bytes,
        version: format.version,
        refcount_bits: format.refcount_bits,
        lazy_refcounts: false,
        extended_l2: false,
        compression: Compression::Zlib,
    };
    qcow2::create(&storage, &new).unwrap();
    storage.cached()
}

/// The image after the library has taken a snapshot.
pub fn snapshot(image: SparseImage, name: &str) -> SparseImage {
    let new =
        NewSnapshot { name: name.as_bytes(), least_id: 0, date_sec: 1_700_000_000, date_nsec: 5 };
    changed(image, |image| image.create_snapshot(&new, &mut CommitOptions::default()).map(drop))
}

/// The image after the library has done something to it.
pub fn changed(
    image: SparseImage,
    change: impl FnOnce(&mut Image) -> qcow2::Result<()>,
) -> SparseImage {
    let storage = RecordingStorage::from_image(image);
    let mut image = Image::open(Box::new(storage.clone())).unwrap();
    change(&mut image).unwrap();
    storage.cached()
}

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The matrix: every cluster size, version and refcount width of the tests, each with a past.
pub fn matrix() -> Vec<Past> {
    let past = |format, size, writes, snapshots| Past {
        format,
        size,
        writes,
        snapshots,
        scattered: false,
        zeros: false,
    };
    let scattered = |past: Past| Past { scattered: true, ..past };
    let zeros = |past: Past| Past { zeros: true, ..past };
    vec![
        // An L1 table of three sectors.
        scattered(zeros(past(Format::v3(512, 16), 6 * MIB, 40, 2))),
        past(Format::v2(512), 300 * KIB, 30, 1),
        scattered(zeros(past(Format::v3(512, 2), 200 * KIB, 20, 2))),
        past(Format::v3(512, 4), 200 * KIB, 30, 3),
        past(Format::v3(512, 64), 200 * KIB, 10, 0),
        zeros(past(Format::v3(4096, 4), 8 * MIB, 15, 3)),
        scattered(past(Format::v3(4096, 8), 2 * MIB + 512, 15, 1)),
        past(Format::v3(4096, 16), 8 * MIB, 15, 0),
        scattered(past(Format::v2(4096), 4 * MIB, 15, 3)),
        zeros(past(Format::v3(4096, 32), 4 * MIB, 15, 2)),
        scattered(past(Format::v3(4096, 64), 4 * MIB, 15, 1)),
        // One snapshot more than one bit can count is refused; an empty disk costs nothing.
        past(Format::v3(4096, 1), MIB, 8, 0),
        zeros(past(Format::v3(65_536, 16), 600 * MIB + 3 * KIB, 6, 2)),
        past(Format::v2(65_536), 64 * MIB, 4, 1),
    ]
}

/// Images with something special about them.
pub fn specials(random: &mut Random) -> Vec<Fixture> {
    let mut fixtures = vec![
        resized(random),
        vm_state(random),
        stale_flags(random),
        one_bit(random),
        nearly_full_table(random),
        branched(random),
    ];
    if qemu::is_installed() {
        fixtures.push(compressed(512, "zlib", random));
        fixtures.push(compressed(16_384, "zlib", random));
        fixtures.push(compressed(4096, "zstd", random));
        fixtures.push(bitmaps(random));
        fixtures.push(old_rows(random));
    }
    fixtures
}

/// All of them.
pub fn all(random: &mut Random) -> Vec<Fixture> {
    let mut fixtures: Vec<_> = matrix().iter().map(|past| past.build(random)).collect();
    fixtures.extend(specials(random));
    fixtures
}

/// Small images, on which every operation makes few calls.
pub fn with_few_calls(random: &mut Random) -> Vec<Fixture> {
    let past = |format, snapshots| Past {
        format,
        size: 128 << 10,
        writes: 8,
        snapshots,
        scattered: true,
        zeros: format.version == 3,
    };
    let pasts =
        [past(Format::v3(512, 16), 2), past(Format::v2(4096), 1), past(Format::v3(4096, 64), 0)];
    pasts.iter().map(|past| past.build(random)).collect()
}

/// Disks that were written anew after each snapshot: deleting one gives much back. Some clusters
/// are free and still own blocks, as QEMU leaves them.
pub fn overwritten(random: &mut Random) -> Vec<Fixture> {
    let formats =
        [Format::v3(512, 16), Format::v3(4096, 16), Format::v2(4096), Format::v3(16_384, 8)];
    let mut fixtures = Vec::new();
    for format in formats {
        for snapshots in 1..4 {
            let mut image = empty(format, 64 * format.cluster_bytes);
            for number in 0..=snapshots {
                let mut guest = Guest::boot(&mut image).unwrap();
                for cluster in 0..60 {
                    let data = pattern(format.cluster_bytes, random);
                    guest.write(cluster * format.cluster_bytes, &data).unwrap();
                }
                if number == snapshots {
                    for cluster in 40..60 {
                        guest.discard(cluster * format.cluster_bytes).unwrap();
                    }
                } else {
                    image = snapshot(image, &format!("s{number}"));
                }
            }
            let Format { cluster_bytes, version, .. } = format;
            let name =
                format!("overwritten v{version}, {cluster_bytes} bytes, {snapshots} snapshots");
            fixtures.push(Fixture { name, image });
        }
    }
    fixtures
}

/// Snapshots of three sizes of the disk: an apply changes the size too.
fn resized(random: &mut Random) -> Fixture {
    let format = Format::v3(512, 16);
    let mut past =
        Past { format, size: 64 * KIB, writes: 20, snapshots: 0, scattered: true, zeros: false };
    let mut image = empty(format, past.size);
    past.work(&mut image, random);
    for (number, size) in [200 * KIB, 5 * MIB].into_iter().enumerate() {
        image = snapshot(image, &format!("s{number}"));
        image = changed(image, |i| i.grow(size, &mut CommitOptions::default()).map(drop));
        past.size = size;
        past.work(&mut image, random);
    }
    Fixture { name: "snapshots of three sizes".into(), image }
}

/// A disk with VM state above its end, active and in a snapshot, as `savevm` and `snapshot -a`
/// leave it.
fn vm_state(random: &mut Random) -> Fixture {
    let format = Format::v3(4096, 16);
    let past =
        Past { format, size: 6 * MIB, writes: 30, snapshots: 0, scattered: false, zeros: false };
    let mut image = empty(format, past.size);
    past.work(&mut image, random);
    // The upper two thirds become VM state.
    put64(&mut image, 24, 2 * MIB);
    image = snapshot(image, "s0");
    let lower = Past { size: 2 * MIB, writes: 8, ..past };
    lower.work(&mut image, random);
    image = snapshot(image, "s1");
    lower.work(&mut image, random);
    Fixture { name: "VM state".into(), image }
}

/// COPIED set in tables that only snapshots name, where it means nothing: an apply must not believe
/// it.
fn stale_flags(random: &mut Random) -> Fixture {
    let past = Past {
        format: Format::v3(4096, 16),
        size: 4 * MIB,
        writes: 20,
        snapshots: 2,
        scattered: false,
        zeros: false,
    };
    let mut image = past.build(random).image;
    let layout = Layout::read(&image).unwrap();
    let first = layout.snapshots_offset;
    let (l1, entries) = (be64(&image, first), u64::from(super::layout::be32(&image, first + 8)));
    for slot in 0..entries {
        let l2 = be64(&image, l1 + slot * 8) & OFFSET;
        if l2 == 0 {
            continue;
        }
        put64(&mut image, l1 + slot * 8, l2 | COPIED);
        if layout.refcount(&image, l2 >> layout.cluster_bits) > 2 {
            continue;
        }
        let is_active = (0..layout.l1_entries)
            .any(|slot| be64(&image, layout.l1_offset + slot * 8) & OFFSET == l2);
        for index in (0..layout.l2_entries()).filter(|_| !is_active) {
            let entry = be64(&image, l2 + index * 8);
            if entry & OFFSET != 0 {
                put64(&mut image, l2 + index * 8, entry | COPIED);
            }
        }
    }
    Fixture { name: "stale COPIED flags in a snapshot".into(), image }
}

/// One-bit counts: the only snapshot possible is one of an empty disk.
fn one_bit(random: &mut Random) -> Fixture {
    let format = Format::v3(512, 1);
    let past =
        Past { format, size: 300 * KIB, writes: 20, snapshots: 0, scattered: true, zeros: false };
    let mut image = snapshot(empty(format, past.size), "s0");
    past.work(&mut image, random);
    Fixture { name: "one-bit counts over an empty snapshot".into(), image }
}

/// A refcount table with hardly a free entry: the next commit needs a larger one.
fn nearly_full_table(random: &mut Random) -> Fixture {
    let format = Format::v3(512, 64);
    let mut image = empty(format, 4 * MIB);
    let mut guest = Guest::boot(&mut image).unwrap();
    for cluster in 0.. {
        let outcome = guest.write(cluster * 512, &pattern(512, random)).unwrap();
        if outcome == Outcome::NoSpace {
            break;
        }
    }
    // A few clusters are free again, too few for a snapshot.
    for cluster in [3, 4, 900] {
        guest.discard(cluster * 512).unwrap();
    }
    Fixture { name: "nearly full refcount table".into(), image }
}

/// A past with an apply and a delete in it: tables are shared in odd ways.
fn branched(random: &mut Random) -> Fixture {
    let past = Past {
        format: Format::v3(512, 8),
        size: 200 * KIB,
        writes: 15,
        snapshots: 3,
        scattered: true,
        zeros: true,
    };
    let mut image = past.build(random).image;
    image = changed(image, |i| {
        i.apply_snapshot(b"s0", Bitmaps::Refuse, &mut CommitOptions::default()).map(drop)
    });
    past.work(&mut image, random);
    image = changed(image, |i| i.delete_snapshot(b"s1", &mut CommitOptions::default()).map(drop));
    past.work(&mut image, random);
    image = snapshot(image, "s3");
    Fixture { name: "branched".into(), image }
}

/// Compressed clusters, several of them in one host cluster, below two snapshots.
fn compressed(cluster_bytes: u64, kind: &str, random: &mut Random) -> Fixture {
    let workshop = Workshop::new();
    let size = cluster_bytes * 30;
    let mut raw = SparseImage::default();
    for cluster in (0..30).filter(|cluster| cluster % 5 != 3) {
        // Half noise, half repetition: compresses to about half.
        let mut data = pattern(cluster_bytes, random);
        let half = data.len() / 2;
        data[..half].iter_mut().for_each(|b| *b = random.next().to_le_bytes()[0]);
        data[half..].fill(7);
        raw.write(&data, cluster * cluster_bytes);
    }
    raw.set_len(size);
    let raw = workshop.put("raw", &raw);
    let target = workshop.path("compressed.qcow2");
    let options = format!("cluster_size={cluster_bytes},compression_type={kind}");
    qemu::img_ok(&[
        "convert",
        "-q",
        "-c",
        "-f",
        "raw",
        "-O",
        "qcow2",
        "-o",
        &options,
        raw.to_str().unwrap(),
        target.to_str().unwrap(),
    ]);
    let mut image = SparseImage::load(&target).unwrap();
    let past = Past {
        format: Format::v3(cluster_bytes, 16),
        size,
        writes: 8,
        snapshots: 0,
        scattered: false,
        zeros: true,
    };
    for name in ["s0", "s1"] {
        past.work(&mut image, random);
        image = snapshot(image, name);
    }
    past.work(&mut image, random);
    Fixture { name: format!("compressed with {kind}, {cluster_bytes} byte clusters"), image }
}

/// Persistent bitmaps, which count clusters of their own.
fn bitmaps(random: &mut Random) -> Fixture {
    let past = Past {
        format: Format::v3(4096, 16),
        size: 4 * MIB,
        writes: 10,
        snapshots: 2,
        scattered: false,
        zeros: false,
    };
    let workshop = Workshop::new();
    let path = workshop.put("image.qcow2", &past.build(random).image);
    for name in ["daily", "weekly"] {
        qemu::img_ok(&["bitmap", "--add", path.to_str().unwrap(), name]);
    }
    Fixture { name: "bitmaps".into(), image: SparseImage::load(&path).unwrap() }
}

/// Rows as old writers made them: QEMU's own, and one without extra data.
fn old_rows(random: &mut Random) -> Fixture {
    let past = Past {
        format: Format::v2(4096),
        size: 4 * MIB,
        writes: 10,
        snapshots: 0,
        scattered: false,
        zeros: false,
    };
    let workshop = Workshop::new();
    let path = workshop.put("image.qcow2", &past.build(random).image);
    for name in ["s0", "s1"] {
        qemu::img_ok(&["snapshot", "-c", name, path.to_str().unwrap()]);
    }
    let mut image = SparseImage::load(&path).unwrap();
    past.work(&mut image, random);
    // The last row loses its extra data; the names move up.
    let layout = Layout::read(&image).unwrap();
    let first = layout.snapshots_offset;
    let last = first + (40 + 24 + 1 + 2_u64).next_multiple_of(8);
    let names = bytes(&image, last + 64, 3);
    image.write(&0_u32.to_be_bytes(), last + 36);
    image.write(&names, last + 40);
    let view = oracle::view(&image).unwrap();
    assert_eq!(view.snapshots[1].name, b"s1", "the row is where it was thought to be");
    Fixture { name: "rows of old writers".into(), image }
}
