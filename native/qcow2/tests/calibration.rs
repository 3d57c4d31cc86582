//! The harness finds what it is there to find.
//!
//! A crash test that never fails proves nothing. So the same replay, judge and guest are fed with
//! the writes of `qemu-img snapshot` itself, logged by QEMU's `blklogwrites` driver, where the
//! damage is known: after a power cut inside `snapshot -a`, a guest's writes change the snapshot;
//! an active L1 table of more than a sector can be torn, and then the disk is neither old nor new;
//! after one inside `-c`, `qemu-img check` finds errors. If any of this is not found here, the
//! harness is too weak.
//!
//! The other half: what the oracle reads is what qemu-img reads, and on what it calls clean or
//! damaged qemu-img agrees.

mod support;

use std::path::Path;

use qcow2::storage::{Operation, SparseImage};
use support::fixtures::{self, Fixture, Format, Past};
use support::guest::Guest;
use support::judge::{Allowed, Damage, judge};
use support::layout::{COPIED, Layout, be64, put64};
use support::oracle;
use support::plant::{self, Keys};
use support::qemu::{self, Workshop};
use support::replay::{Effort, Recording};
use support::{Random, seed};

/// Entry flags of the dm-log-writes format.
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// Reads a log of the dm-log-writes format: a super block with the number of entries and the sector
/// size, then for each entry a sector of header (sector, sectors, flags, bytes of data) and its
/// data. All integers are little endian.
fn parse_log(path: &Path) -> Vec<Operation> {
    let log = std::fs::read(path).unwrap();
    let word = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().unwrap());
    assert_eq!(word(0), 0x006a_7366_7773_6872, "magic of a write log");
    assert_eq!(word(8), 1, "version of the log");
    let entries = word(16);
    let sector = u64::from(u32::from_le_bytes(log[24..28].try_into().unwrap()));
    let mut operations = Vec::new();
    let mut at = usize::try_from(sector).unwrap();
    for _ in 0..entries {
        let (offset, bytes) = (word(at) * sector, word(at + 8) * sector);
        let flags = word(at + 16);
        at += usize::try_from(sector).unwrap();
        assert_eq!(flags & !(FLUSH | FUA | DISCARD), 0, "flags {flags:#x}");
        if flags & FLUSH != 0 {
            operations.push(Operation::Flush);
        }
        if flags & DISCARD != 0 {
            operations.push(Operation::Punch(offset..offset + bytes));
        } else if bytes > 0 {
            let data = &log[at..at + usize::try_from(bytes).unwrap()];
            operations.push(Operation::Write { offset, data: data.into() });
            at += usize::try_from(bytes).unwrap();
        }
        if flags & FUA != 0 {
            // Durable by itself; to call it a flush is in QEMU's favour.
            operations.push(Operation::Flush);
        }
    }
    operations
}

/// What `qemu-img snapshot` writes when it does this to the fixture, and the image afterwards.
fn logged(fixture: &Fixture, action: &[&str], workshop: &Workshop) -> (Recording, SparseImage) {
    let path = workshop.put("image.qcow2", &fixture.image);
    let log = workshop.path("log");
    std::fs::write(&log, []).unwrap();
    let options = format!(
        "driver=qcow2,file.driver=blklogwrites,file.file.driver=file,file.file.filename={},\
         file.log.driver=file,file.log.filename={}",
        path.display(),
        log.display()
    );
    let mut arguments = vec!["snapshot"];
    arguments.extend(action);
    arguments.extend(["--image-opts", &options]);
    qemu::img_ok(&arguments);
    let after = SparseImage::load(&path).unwrap();
    let recording = Recording { base: fixture.image.clone(), operations: parse_log(&log) };
    let mut replayed = None;
    let effort = Effort { samples: 0, enumerate: 0 };
    recording.states(effort, &mut Random::new(0), |state| replayed = Some(state.image));
    assert_eq!(
        oracle::view(&replayed.unwrap()).unwrap(),
        oracle::view(&after).unwrap(),
        "the whole log makes the image that qemu-img made"
    );
    (recording, after)
}

#[derive(Debug, Default)]
struct Findings {
    states: u64,
    sound: u64,
    unreadable: u64,
    mixed: u64,
    snapshot_changed: u64,
    write_lost: u64,
    inconsistent: u64,
    leaks: u64,
}

fn judge_qemu(recording: &Recording, after: &SparseImage, effort: Effort) -> Findings {
    let views = vec![oracle::view(&recording.base).unwrap(), oracle::view(after).unwrap()];
    let allowed = Allowed { views, leaks: false };
    let mut random = Random::named(seed(), "calibration");
    let mut found = Findings::default();
    recording.states(effort, &mut random.clone(), |state| {
        found.states += 1;
        *match judge(&state.image, &allowed, &mut random) {
            Ok(_) => &mut found.sound,
            Err(Damage::Unreadable(_)) => &mut found.unreadable,
            Err(Damage::Mixed(_)) => &mut found.mixed,
            Err(Damage::SnapshotChanged(_)) => &mut found.snapshot_changed,
            Err(Damage::WriteLost(_)) => &mut found.write_lost,
            Err(Damage::Inconsistent(_)) => &mut found.inconsistent,
            Err(Damage::Leaks(_)) => &mut found.leaks,
        } += 1;
    });
    found
}

const PREFIXES: Effort = Effort { samples: 0, enumerate: 0 };
const SAMPLES: Effort = Effort { samples: 150, enumerate: 8 };

fn worked_on_after_a_snapshot(cluster_bytes: u64, size: u64) -> Fixture {
    let past = Past {
        format: Format::v3(cluster_bytes, 16),
        size,
        writes: 60,
        snapshots: 1,
        scattered: false,
        zeros: false,
    };
    past.build(&mut Random::named(seed(), "calibration"))
}

/// The same, with a snapshot that qemu-img took: its L1 table keeps the COPIED flags of the moment
/// before, which a later `snapshot -a` believes. (The library's snapshots carry none.)
fn worked_on_after_a_snapshot_by_qemu(cluster_bytes: u64, size: u64) -> Fixture {
    let past = Past {
        format: Format::v3(cluster_bytes, 16),
        size,
        writes: 60,
        snapshots: 0,
        scattered: false,
        zeros: false,
    };
    let mut random = Random::named(seed(), "calibration");
    let workshop = Workshop::new();
    let path = workshop.put("image.qcow2", &past.build(&mut random).image);
    qemu::img_ok(&["snapshot", "-c", "s0", path.to_str().unwrap()]);
    let mut image = SparseImage::load(&path).unwrap();
    past.work(&mut image, &mut random);
    Fixture { name: "worked on after a snapshot by qemu-img".into(), image }
}

#[test]
fn an_apply_by_qemu_lets_a_guest_change_the_snapshot_after_a_power_cut() {
    if !qemu::is_installed() {
        return;
    }
    let fixture = worked_on_after_a_snapshot_by_qemu(4096, 64 << 20);
    let (recording, after) = logged(&fixture, &["-a", "s0"], &Workshop::new());
    let prefixes = judge_qemu(&recording, &after, PREFIXES);
    let samples = judge_qemu(&recording, &after, SAMPLES);
    eprintln!("qemu-img snapshot -a, prefixes: {prefixes:?}");
    eprintln!("qemu-img snapshot -a, reordered and torn: {samples:?}");
    assert!(prefixes.snapshot_changed > 0, "{prefixes:?}");
    assert!(samples.snapshot_changed > 0, "{samples:?}");
}

#[test]
fn an_apply_by_qemu_can_tear_a_long_l1_table() {
    if !qemu::is_installed() {
        return;
    }
    // 512-byte clusters: 256 entries of 32 KiB each, four sectors.
    let fixture = worked_on_after_a_snapshot_by_qemu(512, 8 << 20);
    let (recording, after) = logged(&fixture, &["-a", "s0"], &Workshop::new());
    let samples = judge_qemu(&recording, &after, SAMPLES);
    eprintln!("qemu-img snapshot -a, L1 table of four sectors: {samples:?}");
    assert!(samples.mixed > 0, "{samples:?}");
}

#[test]
fn a_create_by_qemu_leaves_wrong_flags_after_a_power_cut() {
    if !qemu::is_installed() {
        return;
    }
    let fixture = worked_on_after_a_snapshot(4096, 64 << 20);
    let (recording, after) = logged(&fixture, &["-c", "s1"], &Workshop::new());
    let prefixes = judge_qemu(&recording, &after, PREFIXES);
    eprintln!("qemu-img snapshot -c, prefixes: {prefixes:?}");
    assert!(prefixes.inconsistent > 0 && prefixes.leaks > 0, "{prefixes:?}");
}

#[test]
fn a_delete_by_qemu_leaves_leaks_after_a_power_cut() {
    if !qemu::is_installed() {
        return;
    }
    let fixture = worked_on_after_a_snapshot(4096, 64 << 20);
    let (recording, after) = logged(&fixture, &["-d", "s0"], &Workshop::new());
    let prefixes = judge_qemu(&recording, &after, PREFIXES);
    eprintln!("qemu-img snapshot -d, prefixes: {prefixes:?}");
    assert!(prefixes.leaks > 0, "{prefixes:?}");
}

#[test]
fn the_oracle_reads_what_qemu_img_reads() {
    if !qemu::is_installed() {
        return;
    }
    let workshop = Workshop::new();
    for fixture in fixtures::all(&mut Random::named(seed(), "fixtures")) {
        let path = workshop.put("image.qcow2", &fixture.image);
        let view = oracle::view(&fixture.image).unwrap();
        let cluster = Layout::read(&fixture.image).unwrap().cluster();
        assert_eq!(qemu::other_content(&workshop, &path, &view, cluster), None, "{}", fixture.name);
    }
}

#[test]
fn the_oracle_and_qemu_img_agree_on_what_is_clean_even_after_a_guest() {
    if !qemu::is_installed() {
        return;
    }
    let workshop = Workshop::new();
    let mut random = Random::named(seed(), "agree");
    for fixture in fixtures::all(&mut Random::named(seed(), "fixtures")) {
        let mut image = fixture.image;
        for round in ["as it is", "after a guest"] {
            let audit = oracle::audit(&image).unwrap();
            assert!(audit.is_clean(), "{} {round}: {audit:?}", fixture.name);
            let path = workshop.put("image.qcow2", &image);
            assert_eq!(qemu::complaint(&path), None, "{} {round}", fixture.name);
            let view = oracle::view(&image).unwrap();
            image = support::judge::boot(&image, &view, &mut random).unwrap();
        }
    }
}

/// Damages an image in one way.
type Poke<'a> = &'a dyn Fn(&mut SparseImage);

#[test]
fn the_oracle_finds_each_kind_of_damage_that_qemu_img_finds() {
    let has_qemu = qemu::is_installed();
    let fixture = worked_on_after_a_snapshot(4096, 8 << 20);
    let layout = Layout::read(&fixture.image).unwrap();
    let used = |image: &SparseImage| be64(image, layout.l1_offset) & !COPIED;
    let l2 = used(&fixture.image);
    let entry_at = (0..layout.l2_entries())
        .map(|index| l2 + index * 8)
        .find(|&at| be64(&fixture.image, at) & COPIED != 0)
        .expect("the guest wrote after the snapshot");
    let entry = be64(&fixture.image, entry_at);
    let data = (entry & !COPIED) >> layout.cluster_bits;

    let pokes: [(&str, Poke<'_>); 6] = [
        ("COPIED missing", &|image| put64(image, entry_at, entry & !COPIED)),
        ("count too high", &|image| layout.set_refcount(image, data, 2).unwrap()),
        ("count too low", &|image| layout.set_refcount(image, data, 0).unwrap()),
        ("reserved bit", &|image| put64(image, entry_at, entry | 2)),
        ("entry lost", &|image| put64(image, entry_at, 0)),
        ("entry twice", &|image| {
            let free = (entry_at + 8..).step_by(8).find(|&at| be64(image, at) == 0).unwrap();
            put64(image, free, entry);
        }),
    ];
    let workshop = Workshop::new();
    for (what, poke) in pokes {
        let mut image = fixture.image.clone();
        poke(&mut image);
        assert!(!oracle::audit(&image).unwrap().is_clean(), "{what} is not found");
        if has_qemu {
            let path = workshop.put("image.qcow2", &image);
            assert!(qemu::complaint(&path).is_some(), "{what} is no damage to qemu-img");
        }
    }
}

#[test]
fn a_guest_that_believes_a_wrong_flag_changes_the_snapshot_and_is_caught() {
    let fixture = worked_on_after_a_snapshot(4096, 8 << 20);
    let mut image = fixture.image.clone();
    let view = oracle::view(&image).unwrap();
    let layout = Layout::read(&image).unwrap();
    // Every shared cluster of the first table claims to be private.
    let l2 = be64(&image, layout.l1_offset) & !COPIED;
    for at in (0..layout.l2_entries()).map(|index| l2 + index * 8) {
        let entry = be64(&image, at);
        if entry != 0 {
            put64(&mut image, at, entry | COPIED);
        }
    }
    assert!(Guest::boot(&mut image).is_ok());
    let caught = (0..20).any(|seed| {
        let verdict = support::judge::boot(&image, &view, &mut Random::new(seed));
        matches!(verdict, Err(Damage::SnapshotChanged(_)))
    });
    assert!(caught);
}

/// An image whose keys are damaged is lost, whatever its tables say.
#[test]
fn a_key_that_lost_a_byte_is_found_by_the_oracle_and_by_qemu_img() {
    let has_qemu = qemu::is_installed();
    let workshop = Workshop::new();
    let keys = if has_qemu { Keys::Usable } else { Keys::Noise };
    let mut image = fixtures::empty(Format::v3(4096, 16), 1 << 20);
    assert!(plant::keys(&mut image, keys, &mut Random::new(seed())));
    let layout = Layout::read(&image).unwrap();
    let at = be64(&image, layout.extensions.last().unwrap().1);
    let view = oracle::view(&image).unwrap();
    let complaint = |image: &SparseImage| {
        let path = workshop.put("image.qcow2", image);
        qemu::complaint_with_key(&path, false)
    };
    assert!(!has_qemu || complaint(&image).is_none(), "{:?}", complaint(&image));
    for at in [at, at + view.keys.len() as u64 - 8] {
        let mut damaged = image.clone();
        put64(&mut damaged, at, !be64(&image, at));
        assert!(oracle::view(&damaged).unwrap() != view);
        assert!(!has_qemu || complaint(&damaged).is_some());
    }
}
