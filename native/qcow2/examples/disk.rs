//! Moves the content of a disk between a raw file and a qcow2 image, for the demo:
//!
//! ```text
//! disk write IMAGE RAW                      the image's disk becomes RAW, in one commit
//! disk read IMAGE RAW [SNAPSHOT]            RAW becomes the disk, or what it was at a snapshot
//! disk compare IMAGE RAW [SNAPSHOT]         fails unless they are the same, byte for byte
//! disk sharing IMAGE                        what data the disk shares with each snapshot
//! ```
//!
//! `write` and `sharing` print one line of JSON. Takes QEMU's locks as every command does.

mod tables;

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use qcow2::format::mapping::Mapping;
use qcow2::lock::{ImageLock, Intent, LockPolicy};
use qcow2::storage::{Access, FileStorage, Storage};
use qcow2::{CommitOptions, Content, Disk, Error, Image, Kind, lookup};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["write", image, raw] => write(image, raw),
        ["read", image, raw, ref snapshot @ ..] => read(image, snapshot, raw),
        ["compare", image, raw, ref snapshot @ ..] => compare(image, snapshot, raw),
        ["sharing", image] => sharing(image),
        _ => Err(Error::new(
            Kind::InvalidArgument,
            "disk write IMAGE RAW | read IMAGE RAW [SNAPSHOT] | compare IMAGE RAW [SNAPSHOT] | \
             sharing IMAGE",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(path: &str, raw: &str) -> Result<(), Error> {
    let source = FileStorage::open(Path::new(raw), Access::Read)?;
    let (mut image, _lock) = open(path, Access::Write, Intent::Change)?;
    let done = image.write_content(&source, &mut CommitOptions::default())?;
    println!(r#"{{"writtenBytes":{},"flushes":{}}}"#, done.written_bytes, done.flushes);
    Ok(())
}

fn read(path: &str, snapshot: &[&str], raw: &str) -> Result<(), Error> {
    let (image, _lock) = open(path, Access::Read, Intent::Share)?;
    let mut content = content(&image, snapshot)?;
    let target = FileStorage::from_file(File::create(raw)?)?;
    target.set_len(content.size())?;
    let mut cluster = cluster(&image);
    for at in (0..content.size()).step_by(cluster.len()) {
        if content.is_allocated(at)? {
            let count = within(&cluster, content.size() - at);
            content.read_at(&mut cluster[..count], at)?;
            target.write_at(&cluster[..count], at)?;
        }
    }
    Ok(())
}

fn compare(path: &str, snapshot: &[&str], raw: &str) -> Result<(), Error> {
    let (image, _lock) = open(path, Access::Read, Intent::Share)?;
    let mut content = content(&image, snapshot)?;
    let raw = FileStorage::open(Path::new(raw), Access::Read)?;
    if raw.len()? != content.size() {
        return Err(Error::new(Kind::InvalidArgument, "The sizes differ"));
    }
    let (mut ours, mut theirs) = (cluster(&image), cluster(&image));
    for at in (0..content.size()).step_by(ours.len()) {
        let end = at + ours.len() as u64;
        if !content.is_allocated(at)? && raw.data_ranges(at..end)?.is_empty() {
            continue;
        }
        content.read_at(&mut ours, at)?;
        raw.read_at(&mut theirs, at)?;
        if ours != theirs {
            return Err(Error::new(Kind::InvalidArgument, format!("They differ at {at:#x}")));
        }
    }
    Ok(())
}

fn content<'a>(image: &'a Image, snapshot: &[&str]) -> Result<Content<'a>, Error> {
    let disk = match snapshot {
        [] => Disk::Active,
        names => Disk::Snapshot(lookup::by_name(&image.snapshots()?, names[0].as_bytes())?),
    };
    image.content(disk)
}

fn cluster(image: &Image) -> Vec<u8> {
    vec![0; usize::try_from(image.header().cluster_bytes()).expect("at most 2 MiB")]
}

fn within(cluster: &[u8], bytes: u64) -> usize {
    usize::try_from(bytes).map_or(cluster.len(), |bytes| bytes.min(cluster.len()))
}

/// Counts bytes of guest data by where they are stored, not by what they contain.
fn sharing(path: &str) -> Result<(), Error> {
    let (image, _lock) = open(path, Access::Read, Intent::Share)?;
    let mut disks = tables::disks(&image)?.into_iter();
    let active = stored(&image, &disks.next().expect("there is an active disk"))?;
    let step = image.header().cluster_bytes();
    let mut snapshots = Vec::new();
    for disk in disks {
        let clusters = stored(&image, &disk)?;
        let shared = clusters.intersection(&active).count() as u64 * step;
        let name = disk.snapshot.unwrap_or_default();
        snapshots.push(format!(
            r#"{{"name":{name:?},"dataBytes":{},"sharedBytes":{shared}}}"#,
            clusters.len() as u64 * step,
        ));
    }
    println!(
        r#"{{"dataBytes":{},"snapshots":[{}]}}"#,
        active.len() as u64 * step,
        snapshots.join(",")
    );
    Ok(())
}

/// Where the data of a disk is stored: offsets in the file.
fn stored(image: &Image, disk: &tables::Disk) -> Result<HashSet<u64>, Error> {
    let header = image.header();
    let mut offsets = HashSet::new();
    for &l1_entry in &disk.l1 {
        for entry in tables::l2_table(image, l1_entry)? {
            match Mapping::decode(entry, header.cluster_bits, header.version, 0)? {
                Mapping::Standard { offset } | Mapping::Compressed { offset, .. } => {
                    offsets.insert(offset);
                }
                Mapping::Unallocated | Mapping::Zero { .. } => {}
            }
        }
    }
    Ok(offsets)
}

fn open(path: &str, access: Access, intent: Intent) -> Result<(Image, ImageLock), Error> {
    let file = FileStorage::open(Path::new(path), access)?;
    let lock = ImageLock::acquire(&file, intent, LockPolicy { wait: true, on_wait: None })?;
    Ok((Image::open(Box::new(file))?, lock))
}
