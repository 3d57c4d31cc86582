//! Who else has a file open, as `/proc` and `/sys` tell.
//!
//! Best effort in all: without `/proc` nobody is seen, and of other users' processes only root sees
//! anything. Nothing here can hang on a dead network file system.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};

use super::identity::Identity;

/// A descriptor of another process on the file asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opener {
    pub process: Process,
    /// The descriptor is open for writing.
    pub writes: bool,
    /// Where it reads next by itself, `read(2)` and not `pread(2)`.
    pub position: u64,
    /// The byte ranges that are locked through it.
    pub locked: Vec<Range<u64>>,
}

/// A process, by number and by the name that it goes by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub id: u32,
    pub name: String,
}

impl Process {
    /// The process of that number, whatever it is.
    pub(crate) fn of(id: u32) -> Self {
        Self { id, name: process_name(&PathBuf::from(format!("/proc/{id}"))) }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "?" } else { &self.name };
        write!(f, "{name} (process {})", self.id)
    }
}

/// Every descriptor that another process has open on the file.
pub(crate) fn openers(identity: Identity) -> Vec<Opener> {
    openers_of(&HashSet::from([identity])).into_iter().map(|(_, opener)| opener).collect()
}

/// Every descriptor that another process has open on one of the files, in one walk.
pub(crate) fn openers_of(files: &HashSet<Identity>) -> Vec<(Identity, Opener)> {
    let own = std::process::id();
    let Ok(processes) = directory(Path::new("/proc")) else { return Vec::new() };
    let mut openers = Vec::new();
    for id in Dir::new(processes).into_iter().flatten().filter_map(|entry| number(&entry.ok()?)) {
        if id != own {
            openers_in(id, files, &mut openers);
        }
    }
    openers
}

/// The loop devices, by name, that are attached to the file and can write to it.
pub(crate) fn loop_devices(identity: Identity) -> Vec<String> {
    loop_devices_of(&HashSet::from([identity])).into_iter().map(|(_, name)| name).collect()
}

/// The loop devices, by name, that are attached to one of the files and can write to it.
pub(crate) fn loop_devices_of(files: &HashSet<Identity>) -> Vec<(Identity, String)> {
    let Ok(devices) = fs::read_dir("/sys/block") else { return Vec::new() };
    devices
        .filter_map(|device| {
            let name = device.ok()?.file_name().into_string().ok()?;
            if !name.starts_with("loop") {
                return None;
            }
            let device = Path::new("/sys/block").join(&name);
            // Missing where nothing is attached.
            let backing = fs::read(device.join("loop/backing_file")).ok()?;
            let backing = backing.strip_suffix(b"\n").unwrap_or(&backing);
            let identity = Identity::of_path_at_hand(Path::new(os_str(backing)))?;
            let writes = fs::read(device.join("ro")).ok()?.starts_with(b"0");
            (files.contains(&identity) && writes).then_some((identity, name))
        })
        .collect()
}

/// The processes that hold a `flock(2)` lock on the file, as far as the system shows them.
pub(crate) fn flock_holders(identity: Identity) -> Vec<u32> {
    // `1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234 0 EOF`; waiting ones have `->` second.
    let Ok(table) = fs::read_to_string("/proc/locks") else { return Vec::new() };
    let (major, minor) = (rustix::fs::major(identity.device), rustix::fs::minor(identity.device));
    let file = format!("{major:02x}:{minor:02x}:{}", identity.inode);
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let of_interest = words.next()? == "FLOCK";
            let id = words.nth(2)?.parse().ok()?;
            (of_interest && words.next()? == file).then_some(id)
        })
        .collect()
}

/// Whether `id` is this process or one that started it, directly or not.
pub(crate) fn is_ancestor(id: u32) -> bool {
    let mut at = std::process::id();
    while at != id {
        match parent(at) {
            Some(next) if next != 0 => at = next,
            _ => return false,
        }
    }
    true
}

fn parent(id: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn openers_in(id: u32, files: &HashSet<Identity>, openers: &mut Vec<(Identity, Opener)>) {
    let process = PathBuf::from(format!("/proc/{id}"));
    // Another user's process, or one that has just ended.
    let Ok(descriptors) = directory(&process.join("fd")) else { return };
    let Ok(entries) = Dir::read_from(&descriptors) else { return };
    for number in entries.filter_map(|entry| number(&entry.ok()?)) {
        let number = number.to_string();
        let identity = Identity::at_hand(&descriptors, Path::new(&number));
        let Some(identity) = identity.filter(|identity| files.contains(identity)) else { continue };
        // The mode of the link itself shows how the descriptor was opened.
        let Ok(link) = rustix::fs::statat(&descriptors, &number, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let details = fs::read_to_string(process.join("fdinfo").join(&number)).unwrap_or_default();
        let opener = Opener {
            process: Process { id, name: process_name(&process) },
            writes: Mode::from_raw_mode(link.st_mode).contains(Mode::WUSR),
            position: details.lines().find_map(position).unwrap_or(0),
            locked: details.lines().filter_map(locked_range).collect(),
        };
        openers.push((identity, opener));
    }
}

fn process_name(process: &Path) -> String {
    let name = fs::read(process.join("comm")).unwrap_or_default();
    let name = String::from_utf8_lossy(&name);
    // A process chooses its own name; it must not get at the terminal with it.
    name.trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// `pos:   1376256`
fn position(line: &str) -> Option<u64> {
    line.strip_prefix("pos:")?.trim().parse().ok()
}

/// `lock:  1: OFDLCK  ADVISORY  READ -1 fe:00:1234 100 101`, both ends included; `EOF` is no end.
fn locked_range(line: &str) -> Option<Range<u64>> {
    let mut words = line.strip_prefix("lock:")?.split_ascii_whitespace();
    let class = words.nth(1)?;
    if class != "OFDLCK" && class != "POSIX" {
        return None;
    }
    let start = words.nth(4)?.parse().ok()?;
    let end = match words.next()? {
        "EOF" => u64::MAX,
        last => last.parse::<u64>().ok()?.saturating_add(1),
    };
    Some(start..end)
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

fn number(entry: &rustix::fs::DirEntry) -> Option<u32> {
    entry.file_name().to_str().ok()?.parse().ok()
}

fn os_str(bytes: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn lines_of_fdinfo_become_ranges_and_positions() {
        let line = "lock:\t1: OFDLCK  ADVISORY  READ  -1 fe:00:786 100 101";
        assert_eq!(locked_range(line), Some(100..102));
        let whole = "lock:\t2: POSIX  ADVISORY  WRITE 4711 fe:00:786 0 EOF";
        assert_eq!(locked_range(whole), Some(0..u64::MAX));
        for other in ["pos:\t0", "lock:\t1: FLOCK  ADVISORY  WRITE 1 fe:00:786 0 EOF", "lock:", ""]
        {
            assert_eq!(locked_range(other), None);
        }
        assert_eq!(position("pos:\t1376256"), Some(1_376_256));
        assert_eq!(position("flags:\t0100002"), None);
    }

    #[test]
    fn a_writer_and_a_reader_in_other_processes_are_told_apart() {
        // Not open here: a child of another test would have it too, until it starts its program.
        let file = tempfile::NamedTempFile::new().unwrap().into_temp_path();
        let identity = Identity::of_path(&file).unwrap();
        for (redirection, writes) in [("<", false), ("<>", true), (">>", true)] {
            let script = format!("exec 9{redirection}\"$0\"; echo; read -r wait");
            let mut shell = Command::new("sh")
                .args(["-c", &script])
                .arg(&file)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut byte = [0];
            io::Read::read_exact(shell.stdout.as_mut().unwrap(), &mut byte).unwrap();
            let process = Process { id: shell.id(), name: "sh".into() };
            let expected = Opener { process, writes, position: 0, locked: Vec::new() };
            let found = openers(identity);
            drop(shell.stdin.take());
            shell.wait().unwrap();
            assert_eq!(found, [expected], "{redirection}");
        }
    }

    #[test]
    fn this_process_is_not_another_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let identity = Identity::of_path(file.path()).unwrap();
        let own = std::process::id();
        assert!(openers(identity).iter().all(|opener| opener.process.id != own));
    }

    #[test]
    fn the_parent_is_an_ancestor_and_a_child_is_not() {
        assert!(is_ancestor(std::process::id()));
        assert!(is_ancestor(std::os::unix::process::parent_id()));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_ancestor(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
