//! What a repair says and leaves, by us and by qemu-img, in one form that can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use qcow2::check;
use qcow2::storage::{Access, FileStorage, SparseImage};
use qcow2::{CommitOptions, Repair, Repaired, repair};

use crate::verdict::{by_qemu_with, by_us, run, tell_failure};

/// What a repair says: exit status, the JSON's numbers, the lines on stderr.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub status: i32,
    pub numbers: BTreeMap<String, u64>,
    pub lines: String,
}

impl Outcome {
    /// The same about another file. Where the image ends depends on where tables were put.
    pub fn about(mut self, file: &Path, other: &Path) -> Self {
        self.lines = self.lines.replace(file.to_str().unwrap(), other.to_str().unwrap());
        self
    }

    fn comparable(mut self) -> Self {
        self.numbers.remove("image-end-offset");
        self
    }
}

/// Whether a check that ends with the status `one` found nothing worse than one with `other`.
pub fn is_as_good(one: i32, other: i32) -> bool {
    let rank = |status| [0, 3, 2, 1].iter().position(|&it| it == status);
    rank(one) <= rank(other)
}

pub fn word(what: Repair) -> &'static str {
    match what {
        Repair::Leaks => "leaks",
        Repair::All => "all",
    }
}

pub fn repair_by_qemu(path: &Path, what: Repair) -> Outcome {
    let said = by_qemu_with(&["-r", word(what), "-f", "qcow2", path.to_str().unwrap()]);
    Outcome { status: said.status, numbers: said.numbers, lines: said.lines }.comparable()
}

/// The repair as the command line puts it.
pub fn repair_by_us(path: &Path, what: Repair) -> Outcome {
    told_by_us(path, what).comparable()
}

fn told_by_us(path: &Path, what: Repair) -> Outcome {
    let mut lines = String::new();
    let repaired = FileStorage::open(path, Access::Write)
        .and_then(|file| check::open(Box::new(file)))
        .and_then(|mut image| {
            let tell = &mut |line: &repair::Line| writeln!(lines, "{line}").unwrap();
            repair::repair(&mut image, what, &mut CommitOptions::default(), tell)
        });
    let repaired = match repaired {
        Ok(repaired) => repaired,
        Err(error) => {
            tell_failure(&error, path, &mut lines);
            return Outcome { status: 1, numbers: BTreeMap::new(), lines };
        }
    };
    let Repaired { found, leaks_fixed, corruptions_fixed, must_rebuild, .. } = repaired;
    if must_rebuild {
        lines.push_str("qemu-img: Check failed: Input/output error\n");
        return Outcome { status: 1, numbers: BTreeMap::new(), lines };
    }
    if leaks_fixed + corruptions_fixed > 0 {
        let again = by_us(path);
        lines.push_str(&again.lines);
        let mut numbers = again.numbers;
        let fixed = [("leaks-fixed", leaks_fixed), ("corruptions-fixed", corruptions_fixed)];
        numbers.extend(fixed.into_iter().filter(|it| it.1 > 0).map(|(k, v)| (k.to_owned(), v)));
        return Outcome { status: again.status, numbers, lines };
    }
    let always =
        [("image-end-offset", found.image_end_offset), ("check-errors", found.check_errors)];
    if found.check_errors > 0 {
        lines.push_str("qemu-img: Check failed\n");
    }
    let optional = [
        ("total-clusters", found.total_clusters),
        ("corruptions", found.corruptions),
        ("allocated-clusters", found.allocated_clusters),
        ("fragmented-clusters", found.fragmented_clusters),
        ("compressed-clusters", found.compressed_clusters),
    ];
    let optional = optional.into_iter().filter(|it| it.1 > 0);
    Outcome {
        status: if found.check_errors > 0 { 1 } else { i32::from(found.corruptions > 0) * 2 },
        numbers: optional.chain(always).map(|(key, value)| (key.to_owned(), value)).collect(),
        lines,
    }
}

/// Guest content of the active disk and of each snapshot, as qemu-img reads it.
#[derive(Debug, PartialEq)]
pub struct Contents(Vec<Result<SparseImage, String>>);

impl Contents {
    pub fn of(path: &Path, snapshots: &[&str]) -> Self {
        let disks = std::iter::once(None).chain(snapshots.iter().map(Some));
        Self(disks.map(|snapshot| raw(path, snapshot.copied())).collect())
    }

    /// What this has, `after` has too.
    pub fn is_kept_by(&self, after: &Self) -> bool {
        self.0.iter().zip(&after.0).all(|(before, after)| before.is_err() || before == after)
    }
}

fn raw(path: &Path, snapshot: Option<&str>) -> Result<SparseImage, String> {
    let raw: PathBuf = path.with_extension("raw");
    let mut args = vec!["convert", "-U", "-f", "qcow2", "-O", "raw"];
    args.extend(snapshot.map(|name| ["-l", name]).into_iter().flatten());
    args.extend([path.to_str().unwrap(), raw.to_str().unwrap()]);
    let output = run("qemu-img", &args);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(SparseImage::load(&raw).unwrap())
}
