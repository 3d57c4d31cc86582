//! What others hold of QEMU's bytes, and what that means for us.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::bytes::{
    CALQUE, CHANGE_CHILDREN, COUNT, PERMISSIONS, READ, RESIZE, UNSHARED, USED, WRITE,
    WRITE_UNCHANGED, byte,
};
use super::{Intent, message};
use crate::os::ofd::{self, Held, Mode};

/// The permissions that we use, and those that nobody else may use meanwhile.
pub(super) struct Claim {
    uses: &'static [usize],
    unshared: &'static [usize],
    /// Tested with the unshared ones, and not taken: QEMU has given this permission up.
    bygone: &'static [usize],
    intent: Intent,
}

impl Claim {
    pub(super) fn of(intent: Intent) -> &'static Self {
        const READER: Claim = Claim {
            uses: &[READ],
            unshared: &[WRITE, RESIZE],
            bygone: &[CHANGE_CHILDREN],
            intent: Intent::Read,
        };
        match intent {
            Intent::Read => &READER,
            Intent::Share => &Claim { intent: Intent::Share, ..READER },
            Intent::Change => &Claim {
                uses: &[READ, WRITE, RESIZE],
                unshared: &[READ, WRITE, WRITE_UNCHANGED, RESIZE],
                bygone: &[CHANGE_CHILDREN],
                intent: Intent::Change,
            },
        }
    }

    /// Locks its bytes, or says `false` where an exclusive lock is in the way.
    pub(super) fn take(&self, file: &File) -> io::Result<bool> {
        for byte in bytes(USED, self.uses).chain(bytes(UNSHARED, self.unshared)) {
            if !ofd::try_lock(file, Mode::Shared, &byte)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Lets go of the bytes of any claim.
    pub(super) fn release(file: &File) -> io::Result<()> {
        ofd::unlock(file, &(USED..USED + COUNT))?;
        ofd::unlock(file, &(UNSHARED..UNSHARED + COUNT))
    }
}

fn bytes(base: u64, permissions: &[usize]) -> impl Iterator<Item = Range<u64>> {
    permissions.iter().map(move |&n| byte(base, n))
}

/// Why an image cannot be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// QEMU's sentence.
    pub reason: String,
    /// It may be gone in a moment: a reader, or a tool that locks for a moment only.
    pub may_pass: bool,
}

impl Obstacle {
    /// An exclusive lock on QEMU's bytes.
    pub(super) fn exclusive() -> Self {
        Self { reason: format!("Failed to lock byte {USED}"), may_pass: false }
    }
}

/// Who uses an image, as far as that can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// A Calque.
    Calque,
    /// A QEMU that only reads; the image may be the backing file of a running machine.
    Reader,
    /// A QEMU that writes: a virtual machine, `qemu-nbd`, a job.
    Writer,
    /// Another tool, with locks of its own kind.
    Other,
    /// Somebody who can write to it and has no lock: a loop device, a QEMU with `locking=off`.
    Unlocked,
}

/// What others hold. Taken without taking anything.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    used: [bool; PERMISSIONS.len()],
    unshared: [bool; PERMISSIONS.len()],
    /// A lock that is not QEMU's: outside of its bytes, or exclusive.
    foreign: Option<Held>,
}

impl Survey {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let find = |bytes: &Range<u64>| ofd::conflict(file, Mode::Exclusive, bytes);
        let mut survey = Self::default();
        // Two questions when nobody is there, which is almost always.
        let before = find(&(0..CALQUE.start))?;
        let after = find(&(CALQUE.end..u64::MAX))?;
        survey.foreign = after;
        if before.is_none() {
            return Ok(survey);
        }
        for (base, held) in [(USED, &mut survey.used), (UNSHARED, &mut survey.unshared)] {
            for (n, held) in held.iter_mut().enumerate() {
                let found = find(&byte(base, n))?;
                *held = found.is_some();
                if let Some(lock) = found
                    && lock.mode == Mode::Exclusive
                {
                    survey.foreign = Some(lock);
                }
            }
        }
        for gap in [0..USED, USED + COUNT..UNSHARED, UNSHARED + COUNT..CALQUE.start] {
            if survey.foreign.is_none() {
                survey.foreign = find(&gap)?;
            }
        }
        Ok(survey)
    }

    /// What keeps somebody with this claim from the image, in QEMU's order.
    pub(super) fn obstacle(&self, claim: &Claim) -> Option<Obstacle> {
        if self.foreign.as_ref().is_some_and(is_exclusive_on_qemus_bytes) {
            return Some(Obstacle::exclusive());
        }
        let may_pass = !self.has_writer() && self.foreign.as_ref().is_none_or(is_passing);
        let found = |reason| Some(Obstacle { reason, may_pass });
        if let Some(&n) = claim.uses.iter().find(|&&n| self.unshared[n]) {
            return found(format!("Failed to get \"{}\" lock", PERMISSIONS[n]));
        }
        let mut others = claim.unshared.iter().chain(claim.bygone);
        if let Some(&n) = others.find(|&&n| self.used[n]) {
            return found(format!("Failed to get shared \"{}\" lock", PERMISSIONS[n]));
        }
        // Another tool's lock says nothing to a mere reader; qemu-img reads beside it, too.
        if self.foreign.is_some() && claim.intent != Intent::Read {
            return found(message::sentence(claim.intent).to_owned());
        }
        None
    }

    /// Who that is, as far as bytes tell.
    pub(super) fn holder(&self) -> Holder {
        if self.foreign.is_some() {
            Holder::Other
        } else if self.has_writer() {
            Holder::Writer
        } else if self.used.contains(&true) || self.unshared.contains(&true) {
            Holder::Reader
        } else {
            Holder::Nobody
        }
    }

    fn has_writer(&self) -> bool {
        [WRITE, WRITE_UNCHANGED, RESIZE, CHANGE_CHILDREN].iter().any(|&n| self.used[n])
    }
}

fn is_exclusive_on_qemus_bytes(held: &Held) -> bool {
    let covers = |base| held.bytes.start < base + COUNT && held.bytes.end > base;
    held.mode == Mode::Exclusive && (covers(USED) || covers(UNSHARED))
}

/// Byte 1 is locked by libvirt for as long as it writes a label; byte 0 as long as a machine runs.
fn is_passing(held: &Held) -> bool {
    held.bytes == (1..2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(used: &[usize], unshared: &[usize]) -> Survey {
        let mut survey = Survey::default();
        for &n in used {
            survey.used[n] = true;
        }
        for &n in unshared {
            survey.unshared[n] = true;
        }
        survey
    }

    fn foreign(mode: Mode, bytes: Range<u64>) -> Survey {
        Survey { foreign: Some(Held { mode, bytes }), ..Survey::default() }
    }

    /// The obstacle's sentence, and whether it may pass, for reading, sharing and changing.
    fn obstacles(survey: &Survey) -> [Option<(String, bool)>; 3] {
        [Intent::Read, Intent::Share, Intent::Change]
            .map(|intent| survey.obstacle(Claim::of(intent)).map(|it| (it.reason, it.may_pass)))
    }

    #[test]
    fn every_row_of_the_table_has_its_answer() {
        let some = |reason: &str, may_pass| Some((reason.to_owned(), may_pass));
        let reader = "Failed to get \"write\" lock";
        let forced = "Failed to get shared \"consistent read\" lock";
        let writer = "Failed to get shared \"write\" lock";
        let table = [
            (survey(&[], &[]), [None, None, None]),
            // Force-shared: it may see old tables beside new ones.
            (survey(&[0], &[]), [None, None, some(forced, true)]),
            (survey(&[0], &[1, 3]), [None, None, some(reader, true)]),
            (
                survey(&[0, 1, 3], &[1, 3]),
                [some(writer, false), some(writer, false), some(reader, false)],
            ),
            (
                foreign(Mode::Exclusive, 0..u64::MAX),
                [
                    some("Failed to lock byte 100", false),
                    some("Failed to lock byte 100", false),
                    some("Failed to lock byte 100", false),
                ],
            ),
            (foreign(Mode::Exclusive, 0..1), [None, some(writer, false), some(reader, false)]),
            (foreign(Mode::Exclusive, 1..2), [None, some(writer, true), some(reader, true)]),
        ];
        for (survey, expected) in table {
            assert_eq!(obstacles(&survey), expected, "{survey:?}");
        }
    }

    #[test]
    fn our_own_locks_are_no_obstacle_and_anothers_are() {
        let named = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(named.path()).unwrap();
        let (ours, other) = (open(), open());
        let claim = Claim::of(Intent::Change);
        assert!(claim.take(&ours).unwrap());
        assert!(ofd::try_lock(&ours, Mode::Exclusive, &CALQUE).unwrap());
        assert_eq!(Survey::of(&ours).unwrap(), Survey::default());
        let seen = Survey::of(&other).unwrap();
        assert_eq!(seen, survey(&[0, 1, 3], &[0, 1, 2, 3]));
        Claim::release(&ours).unwrap();
        assert_eq!(Survey::of(&other).unwrap(), Survey::default());
    }
}
