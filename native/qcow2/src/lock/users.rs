//! Who uses images: many in one look, for somebody who lists virtual machines.
//!
//! Takes no lock, so that no machine that starts meanwhile can trip over it, and says what was so a
//! moment ago. The walk over all processes comes before the questions about bytes: who opens the
//! image and locks it in between is seen by one of the two.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use super::bytes::{is_calques, is_foreign};
use super::survey::{Holder, Survey};
use super::{COLLISION_GRACE, message, queue};
use crate::error::{Kind, Result};
use crate::os::identity::Identity;
use crate::os::processes::{self, Opener, Process};
use crate::os::{lease, ofd};
use crate::storage::{Access, FileStorage};

/// Who uses an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What kind of user.
    pub holder: Holder,
    /// Who that is, for a sentence, where the system lets us see it: `NAME (process ID)`.
    pub name: Option<String>,
}

/// Who uses each of the images, in order. An error is about that image alone: it cannot be opened.
///
/// Where a file system has no locks, nobody has locked; where there is no `/proc`, nobody is seen
/// who has no locks.
pub fn users(paths: &[impl AsRef<Path>]) -> Vec<Result<Usage>> {
    let began = Instant::now();
    let mut usages = look(paths);
    // A process that is about to lock, or a child that has not closed what it inherited, is gone
    // from this view in a moment.
    while began.elapsed() < COLLISION_GRACE {
        let is_doubtful = |usage: &Result<Usage>| matches!(usage, Ok(it) if it.is_doubtful());
        let doubtful: Vec<_> = (0..paths.len()).filter(|&n| is_doubtful(&usages[n])).collect();
        if doubtful.is_empty() {
            break;
        }
        queue::pause(10..30);
        let again: Vec<_> = doubtful.iter().map(|&n| paths[n].as_ref()).collect();
        for (n, usage) in doubtful.into_iter().zip(look(&again)) {
            usages[n] = usage;
        }
    }
    usages
}

impl Usage {
    fn is_doubtful(&self) -> bool {
        self.holder == Holder::Unlocked
    }
}

fn look(paths: &[impl AsRef<Path>]) -> Vec<Result<Usage>> {
    if let [path] = paths
        && is_certainly_unused(path.as_ref())
    {
        return vec![Ok(Usage { holder: Holder::Nobody, name: None })];
    }
    let files: HashSet<_> =
        paths.iter().filter_map(|path| Identity::of_path(path.as_ref())).collect();
    let openers = processes::openers_of(&files);
    let devices = processes::loop_devices_of(&files);
    // Opened one at a time: there may be more images than a process may open files.
    paths.iter().map(|path| usage(path.as_ref(), &openers, &devices)).collect()
}

/// Whether nobody has locked the image and the kernel vouches that nobody can write to it: for one
/// image that is cheaper than a walk over all processes. Whoever opens it to write meanwhile waits
/// some microseconds, which a look at many should not do to so many.
fn is_certainly_unused(path: &Path) -> bool {
    let Ok(file) = FileStorage::open(path, Access::Read) else { return false };
    matches!(locks(&file), Ok((false, Holder::Nobody))) && lease::is_only_writer(file.file())
}

fn usage(
    path: &Path,
    openers: &[(Identity, Opener)],
    devices: &[(Identity, String)],
) -> Result<Usage> {
    let file = FileStorage::open(path, Access::Read)?;
    let openers: Vec<_> =
        openers.iter().filter(|(of, _)| *of == file.identity()).map(|(_, opener)| opener).collect();
    let locked = |matches: fn(&Opener) -> bool| {
        let holders = openers.iter().filter(|opener| matches(opener));
        names(holders.map(|opener| &opener.process))
    };
    let (is_calque, holder) = match locks(&file) {
        Err(error) if error.kind() == Kind::LocksUnsupported => (false, Holder::Nobody),
        locks => locks?,
    };
    // A Calque may stand in the queue while a QEMU has the image.
    let others = locked(|opener| opener.locked.iter().any(is_foreign) && !opener.is_calque());
    if is_calque && others.is_none() {
        return Ok(Usage { holder: Holder::Calque, name: locked(Opener::is_calque) });
    }
    if holder != Holder::Nobody {
        return Ok(Usage { holder, name: others });
    }
    let device = devices.iter().find(|(of, _)| *of == file.identity());
    let name = locked(|opener| opener.writes && opener.locked.is_empty())
        .or_else(|| device.map(|(_, name)| format!("the loop device /dev/{name}")));
    let holder = if name.is_some() { Holder::Unlocked } else { Holder::Nobody };
    Ok(Usage { holder, name })
}

/// Whether a Calque shows in the queue, and who that is whose bytes are locked.
fn locks(file: &FileStorage) -> Result<(bool, Holder)> {
    // Most images are locked by nobody anywhere, which takes one question.
    let conflict = ofd::conflict(file.file(), ofd::Mode::Exclusive, &(0..u64::MAX));
    if conflict.map_err(message::lock_error)?.is_none() {
        return Ok((false, Holder::Nobody));
    }
    let is_calque = queue::is_held(file)?;
    let survey = Survey::of(file.file()).map_err(message::lock_error)?;
    Ok((is_calque, survey.holder()))
}

impl Opener {
    fn is_calque(&self) -> bool {
        self.locked.iter().any(is_calques)
    }
}

fn names<'a>(processes: impl Iterator<Item = &'a Process>) -> Option<String> {
    let mut processes: Vec<_> = processes.cloned().collect();
    processes.dedup();
    message::list(&processes)
}
