//! Generated images, sound and damaged, as we and `qemu-img` see them: of `check` every number,
//! every line, the exit status; of `info` the sentence, or the size and the snapshots.
//!
//! Where qemu-img is not installed this says so and passes, unless `CALQUE_REQUIRE_QEMU` is set.
//! `CALQUE_FUZZ_IMAGES` is how many there are, `CALQUE_SEED` chooses others.

#[allow(dead_code, reason = "shared with the tests of the library")]
#[path = "../../qcow2/tests/check/verdict.rs"]
mod verdict;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use qcow2::storage::{Access, FileStorage};
use qcow2::{Image, check};
use qcow2_fuzz::generate::{self, Condition};
use verdict::{Verdict, by_qemu, by_us};

/// The images that everybody compares.
const SEED: u64 = 20_240;
const COUNT: u64 = 400;

/// What only one of them says, and why. Each has to be met, so that none stays that is none any
/// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Meant {
    /// We never open another file that an image names.
    OtherFiles,
    /// We never decrypt, and need no key to check.
    Keys,
}

impl Meant {
    const ALL: [Self; 2] = [Self::OtherFiles, Self::Keys];

    fn is(self, qemu: &Verdict) -> bool {
        let says = |text| qemu.status == 1 && qemu.lines.contains(text);
        match self {
            Self::OtherFiles => {
                says("Could not open backing file")
                    || says("'data-file' is required")
                    || says("data-file-raw requires a data file")
            }
            Self::Keys => says("Parameter 'encrypt.key-secret' is required for cipher"),
        }
    }
}

/// A verdict without what differs in form only: QEMU remarks on a refcount block that it cannot use
/// once for each time that it is opened, and not where it meets it first.
fn in_one_form(mut verdict: Verdict) -> Verdict {
    let kept = |line: &&str| !line.starts_with("qcow2: Image is corrupt");
    verdict.lines = verdict.lines.lines().filter(kept).collect::<Vec<_>>().join("\n");
    verdict
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")),
        Err(_) => default,
    }
}

fn has_qemu() -> bool {
    let found = Command::new("qemu-img").arg("--version").output().is_ok();
    let is_required = std::env::var_os("CALQUE_REQUIRE_QEMU").is_some();
    assert!(found || !is_required, "CALQUE_REQUIRE_QEMU is set and qemu-img is not installed");
    if !found {
        eprintln!("skipped: qemu-img is not installed");
    }
    found
}

#[test]
fn generated_images_are_judged_as_qemu_judges_them() {
    if !has_qemu() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("base.raw"), vec![0; 1 << 20]).unwrap();
    let (seed, count) = (setting("CALQUE_SEED", SEED), setting("CALQUE_FUZZ_IMAGES", COUNT));
    let mut tally = Tally::default();
    for number in 0..count {
        let path = place.path().join("image.qcow2");
        let (bytes, condition) = generate::numbered(seed << 32 | number);
        std::fs::write(&path, bytes).unwrap();
        if let Some(difference) = tally.compare(&path, condition) {
            let kept = std::env::temp_dir().join(format!("calque-generated-{seed}-{number}.qcow2"));
            std::fs::copy(&path, &kept).unwrap();
            tally.differences.push(format!("{}: {difference}", kept.display()));
        }
    }
    let Tally { differences, verdicts, met } = tally;
    println!("{count} images, by qemu-img's exit status {verdicts:?}; on purpose {met:?}");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    if (seed, count) == (SEED, COUNT) {
        // These show that the comparison has something to compare.
        assert!([0, 1, 2, 3].iter().all(|status| verdicts.contains_key(status)), "{verdicts:?}");
        assert!(Meant::ALL.iter().all(|meant| met.contains_key(meant)), "{met:?}");
    }
}

/// What was compared.
#[derive(Default)]
struct Tally {
    /// Each with the image, which is kept.
    differences: Vec<String>,
    /// Images by qemu-img's exit status.
    verdicts: BTreeMap<i32, u64>,
    met: BTreeMap<Meant, u64>,
}

impl Tally {
    /// What the two say differently of an image, without meaning to.
    fn compare(&mut self, path: &Path, condition: Condition) -> Option<String> {
        let (ours, qemu) = compare(path);
        *self.verdicts.entry(qemu.status).or_insert(0) += 1;
        if condition == Condition::Sound && (qemu.status, qemu.lines.as_str()) != (0, "") {
            return Some(format!("not sound: {qemu:?}"));
        }
        let (shown, info) = (shown_by_us(path), shown_by_qemu(path));
        let shown = shown.map(|(size, count)| match (count, &info) {
            (usize::MAX, Ok((_, lines))) => (size, *lines),
            _ => (size, count),
        });
        if shown != info {
            return Some(format!("info: {shown:?}, and qemu-img: {info:?}"));
        }
        if ours == qemu {
            return None;
        }
        let Some(meant) = Meant::ALL.into_iter().find(|meant| meant.is(&qemu)) else {
            return Some(format!("check: {ours:?}, and qemu-img: {qemu:?}"));
        };
        *self.met.entry(meant).or_insert(0) += 1;
        None
    }
}

/// The size of the disk and the number of its snapshots, or why the image cannot be shown.
type Shown = Result<(u64, usize), String>;

fn shown_by_us(path: &Path) -> Shown {
    let file = FileStorage::open(path, Access::Read).unwrap();
    let image = Image::open_to_show(Box::new(file)).map_err(|error| error.to_string())?;
    let snapshots = image.listed_snapshots().map_err(|error| error.to_string())?;
    // A name may contain a line's end; then there is no counting lines.
    let is_plain = |name: &[u8]| name.iter().all(|byte| (b' '..0x7f).contains(byte));
    let all_plain = snapshots.iter().all(|entry| is_plain(&entry.name) && is_plain(&entry.id));
    let count = if all_plain { snapshots.len() } else { usize::MAX };
    Ok((image.header().disk_bytes(), count))
}

fn shown_by_qemu(path: &Path) -> Shown {
    let output = verdict::run("qemu-img", &["info", "-f", "qcow2", path.to_str().unwrap()]);
    let texts = [output.stdout, output.stderr];
    let [text, errors] = texts.map(|text| String::from_utf8_lossy(&text).into_owned());
    if !output.status.success() {
        let start = format!("qemu-img: Could not open '{}': ", path.display());
        // What may follow is advice.
        return Err(errors.lines().next().unwrap_or_default().replace(&start, ""));
    }
    let size = text.lines().find(|line| line.starts_with("virtual size: ")).unwrap();
    let size = size.split_once('(').unwrap().1.split_once(' ').unwrap().0.parse().unwrap();
    let list = text.lines().skip_while(|line| *line != "Snapshot list:").skip(2);
    let snapshots = list.take_while(|line| !line.starts_with("Format specific")).count();
    Ok((size, snapshots))
}

fn compare(path: &Path) -> (Verdict, Verdict) {
    let opened = FileStorage::open(path, Access::Read).and_then(|file| check::open(Box::new(file)));
    let ours = match opened {
        Ok(_) => by_us(path),
        Err(error) => {
            let lines = format!("qemu-img: Could not open '{}': {error}", path.display());
            Verdict { status: 1, numbers: BTreeMap::new(), lines }
        }
    };
    (in_one_form(ours), in_one_form(by_qemu(path, false)))
}
