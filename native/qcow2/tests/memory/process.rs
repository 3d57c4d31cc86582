//! One operation in a process of its own, and how much memory that took: this test, again.

use std::path::Path;
use std::process::Command;

use qcow2::check::repair::repair;
use qcow2::clone::{Strategy, Wanted, clone_image};
use qcow2::storage::{Access, FileStorage};
use qcow2::{Bitmaps, CommitOptions, Image, NewSnapshot, Repair, check};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
const LIMIT_BYTES: u64 = 64 * MIB;

const IMAGE: &str = "CALQUE_TEST_MEMORY_IMAGE";
const OPERATION: &str = "CALQUE_TEST_MEMORY_OPERATION";

/// Does what the environment says and prints what it took. Returns whether it says anything.
pub fn is_child() -> bool {
    let (Some(path), Ok(operation)) = (std::env::var_os(IMAGE), std::env::var(OPERATION)) else {
        return false;
    };
    let before = status("VmRSS");
    act(Path::new(&path), &operation);
    println!("peak {}", status("VmHWM") - before);
    true
}

fn status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * KIB
}

fn act(path: &Path, operation: &str) {
    let options = &mut CommitOptions::default();
    let storage = FileStorage::open(path, Access::Write).unwrap();
    if let Some(problems) = operation.strip_prefix("check") {
        let image = check::open(Box::new(storage)).unwrap();
        let mut told = 0;
        let report = check::check(&image, &mut |problem| {
            assert!(!problem.to_string().is_empty());
            told += 1;
        });
        let report = report.unwrap();
        let found = report.corruptions + report.leaks + report.check_errors;
        let expected = problems.trim().parse().unwrap_or(0);
        assert_eq!((found, told + report.problems_omitted), (expected, expected));
        return;
    }
    if operation == "list" {
        let image = Image::open_to_show(Box::new(storage)).unwrap();
        let mut count = 0;
        image
            .for_listed_snapshots(|_| {
                count += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(count, image.header().snapshot_count);
        return;
    }
    if operation == "clone" {
        let target = path.with_extension("clone");
        let wanted = Wanted { strategy: Strategy::Copy, ..Wanted::default() };
        clone_image(&storage, std::slice::from_ref(&target), wanted, &mut |_, _| {}).unwrap();
        std::fs::remove_file(target).unwrap();
        return;
    }
    if let Some(rest) = operation.strip_prefix("repair") {
        let mut image = check::open(Box::new(storage)).unwrap();
        let (level, leaks) = match rest.trim().split_once(' ') {
            Some(("all", leaks)) => (Repair::All, leaks),
            Some(("leaks", leaks)) => (Repair::Leaks, leaks),
            _ => panic!("no repair {rest}"),
        };
        let done = repair(&mut image, level, options, &mut |_| {}).unwrap();
        assert_eq!((done.leaks_fixed, done.corruptions_fixed), (leaks.parse().unwrap(), 0));
        return;
    }
    let mut image = Image::open(Box::new(storage)).unwrap();
    let (operation, name) = operation.split_once(' ').unwrap_or((operation, "new"));
    let new = NewSnapshot { name: name.as_bytes(), least_id: 0, date_sec: 0, date_nsec: 0 };
    match operation {
        "create" => image.create_snapshot(&new, options),
        "rename" => image.rename_snapshot(b"old", b"older", options),
        "apply" => image.apply_snapshot(b"older", Bitmaps::Refuse, options),
        "delete" => image.delete_snapshot(b"older", options),
        "grow" => image.grow(image.header().size + MIB, options),
        other => panic!("no operation {other}"),
    }
    .unwrap();
}

/// Does them one after the other, and says where one took too much. `check` finds nothing wrong,
/// `check N` as many problems; `repair LEVEL N` puts so many leaks right, and nothing else; `create NAME` takes a snapshot of that name.
pub fn assert_bounded(path: &Path, operations: &[&str]) {
    let this = std::thread::current().name().unwrap().to_owned();
    for operation in operations {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &this, "--nocapture"])
            .env(IMAGE, path)
            .env(OPERATION, operation)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(output.status.success(), "{operation}: {text}");
        let peak = text.split_once("peak ").expect(&text).1.split_whitespace().next().unwrap();
        let peak = peak.parse::<u64>().unwrap();
        eprintln!("{operation}: {} MiB", peak / MIB);
        assert!(peak < LIMIT_BYTES, "{operation} took {peak} bytes of memory");
    }
}
