//! What a check says, by us and by qemu-img, in one form that can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use qcow2::check;
use qcow2::storage::{Access, FileStorage, Storage};
use qcow2::{Error, Kind};

/// What a check says: exit status, the JSON's numbers, the lines on stderr.
#[derive(Debug, PartialEq)]
pub struct Verdict {
    pub status: i32,
    pub numbers: BTreeMap<String, u64>,
    pub lines: String,
}

pub fn run(program: &str, args: &[&str]) -> std::process::Output {
    let output = Command::new(program).args(args).output();
    output.unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"))
}

pub fn must(program: &str, args: &[&str]) {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
}

/// What a reader without bitmaps in it says before the check; its second line has no end.
pub const BITMAP_WARNING: &str = "qemu-img: warning: a program lacking bitmap support modified \
    this file, so all bitmaps are now considered inconsistent\nSome clusters may be leaked, run \
    'qemu-img check -r' on the image file to fix.";

pub fn by_qemu(path: &Path, secret: bool) -> Verdict {
    let path = path.to_str().unwrap();
    let options = format!("driver=qcow2,file.filename={path},encrypt.key-secret=key");
    if secret {
        by_qemu_with(&["--object", "secret,id=key,data=abc", "--image-opts", &options])
    } else {
        by_qemu_with(&["-f", "qcow2", path])
    }
}

pub fn by_qemu_with(args: &[&str]) -> Verdict {
    let output = run("qemu-img", &[&["check", "--output=json"], args].concat());
    let json = String::from_utf8(output.stdout).unwrap();
    let number = |line: &str| {
        let (key, value) = line.trim().trim_end_matches(',').split_once(": ")?;
        Some((key.trim_matches('"').to_owned(), value.parse().ok()?))
    };
    let mut lines = String::from_utf8_lossy(&output.stderr).replace(BITMAP_WARNING, "");
    lines = lines.trim_start_matches('\n').to_owned();
    Verdict {
        status: output.status.code().unwrap(),
        numbers: json.lines().filter_map(number).collect(),
        lines,
    }
}

/// The check as the command line puts it.
pub fn by_us(path: &Path) -> Verdict {
    judged(path, Box::new(FileStorage::open(path, Access::Read).unwrap()))
}

/// Why there is no verdict, as the command line puts it.
pub fn tell_failure(error: &Error, path: &Path, lines: &mut String) {
    if let Some(preface) = &error.preface {
        writeln!(lines, "qemu-img: {preface}").unwrap();
    }
    let what = match error.kind() {
        Kind::InvalidHeader => format!("Could not open '{}'", path.display()),
        _ => "Check failed".to_owned(),
    };
    writeln!(lines, "qemu-img: {what}: {}", error.reason()).unwrap();
}

pub fn judged(path: &Path, storage: Box<dyn Storage>) -> Verdict {
    let mut lines = String::new();
    let report = check::open(storage).and_then(|image| {
        check::check(&image, &mut |problem| {
            problem.lines().iter().for_each(|line| writeln!(lines, "{line}").unwrap());
        })
    });
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            tell_failure(&error, path, &mut lines);
            return Verdict { status: 1, numbers: BTreeMap::new(), lines };
        }
    };
    if report.check_errors > 0 {
        lines.push_str("qemu-img: Check failed\n");
    }
    let optional = [
        ("total-clusters", report.total_clusters),
        ("corruptions", report.corruptions),
        ("leaks", report.leaks),
        ("allocated-clusters", report.allocated_clusters),
        ("fragmented-clusters", report.fragmented_clusters),
        ("compressed-clusters", report.compressed_clusters),
    ];
    let always =
        [("image-end-offset", report.image_end_offset), ("check-errors", report.check_errors)];
    let present = optional.into_iter().filter(|&(_, value)| value != 0).chain(always);
    let status = match (report.check_errors, report.corruptions, report.leaks) {
        (0, 0, 0) => 0,
        (0, 0, _) => 3,
        (0, _, _) => 2,
        _ => 1,
    };
    let numbers = present.map(|(key, value)| (key.to_owned(), value)).collect();
    Verdict { status, numbers, lines }
}
