//! Image locks: QEMU's own, so that we never touch an image that QEMU uses and QEMU never touches
//! one that we use; and a queue in which Calques wait for each other.
//!
//! **QEMU's bytes.** A process that *uses* permission `n` of an image locks byte `100 + n` of the
//! file, one that does *not share* permission `n` locks byte `200 + n`; `n` is 0 consistent read,
//! 1 write, 2 write unchanged, 3 resize (4 change children, until QEMU 6.1). All these locks are
//! shared, so nobody is ever in anybody's way: a conflict is found by *testing*, after taking one's
//! own, whether somebody holds the opposite byte. [`Intent`] lists which bytes we take.
//!
//! **Calque's bytes**, which QEMU neither takes nor tests:
//!
//! | byte | shared | exclusive |
//! |---|---|---|
//! | 300, the turnstile | a reader passes to the queue | a changer passes to the queue |
//! | 301, the queue | a Calque reads (a clone's source) | a Calque changes |
//! | 302, presence | a Calque has the file open and keeps to these rules | – |
//!
//! Whoever wants the image goes through the turnstile, takes the queue, lets go of the turnstile
//! and only then looks at QEMU's bytes. So two Calques never meet there and cannot make each other
//! fail: one is first, the others wait; and since a waiting changer closes the turnstile, readers
//! that keep coming cannot starve it. A lock ends with its holder, however it ends.
//!
//! **Others.** A lock outside of all these bytes, or an exclusive one on them, belongs to another
//! tool (libvirt's lock manager: byte 0; Cloud Hypervisor: the whole file) and counts as a writer.
//! crosvm uses `flock(2)`, a name space of its own, which we hold too where it is local. Last, a
//! writer without any lock (a loop device, a QEMU with `locking=off`) is looked for: the kernel is
//! asked whether there is any other writer, and unless it says no, `/proc` and `/sys` are walked.
//!
//! **QEMU before it locks.** It reads nothing that counts before it has its bytes, but it measures
//! the file when it opens it. So before a commit, when the file is as long as it will be, there must
//! be nobody who has measured it shorter and holds no lock: [`ImageLock::reprobe`].

mod bytes;
mod file;
mod message;
mod queue;
mod survey;
#[cfg(test)]
mod tests;
mod users;

use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use file::{FileLock, Sharing};
pub use survey::Holder;
pub use users::{Usage, users};

use crate::error::{Error, Kind, Result};
use crate::os::{filesystem, lease, ofd, processes};
use crate::storage::{FileStorage, Storage};
use message::{in_use, lock_error};
use survey::{Claim, Obstacle, Survey};

/// How long a foreign reader, who may be about to leave, is waited for.
const READER_PATIENCE: Duration = Duration::from_secs(2);
/// How long a QEMU that started in the same instant takes to notice us and to go.
const COLLISION_GRACE: Duration = Duration::from_millis(200);

/// What the image is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Reading metadata. Nothing is taken, so a virtual machine that starts meanwhile cannot trip
    /// over it; the reader re-reads instead. Refused while somebody writes.
    Read,
    /// Reading content that must not change: takes 100, 201, 203, as a reading QEMU does.
    /// Refused while somebody writes; other readers are welcome.
    Share,
    /// Changing the image: takes 100, 101, 103 and 200 to 203. Refused while anybody uses it.
    Change,
}

/// Hears the holder's name, once, after one second of waiting for another Calque. An error ends the
/// waiting and is the result.
pub type OnWait<'a> = &'a mut dyn FnMut(&str) -> Result<()>;

/// What to do when somebody else has the image.
#[derive(Default)]
pub struct LockPolicy<'a> {
    /// Wait for another Calque as long as it takes, and two seconds for a foreign reader. A
    /// foreign writer is never waited for.
    pub wait: bool,
    /// Who is told of a long wait.
    pub on_wait: Option<OnWait<'a>>,
}

/// An image that is ours for an [`Intent`], until this is dropped.
///
/// The locks belong to the open file description of the [`FileStorage`] it was acquired for, of
/// which this keeps a duplicate; so one description holds one `ImageLock` at a time.
#[derive(Debug)]
#[must_use = "the lock ends when this is dropped"]
pub struct ImageLock {
    file: FileStorage,
    intent: Intent,
    /// How long the file was when it became ours.
    taken_len: u64,
}

impl ImageLock {
    /// Makes the image ours for `intent`, before anything is read from it. [`Intent::Change`] needs
    /// a file open for writing.
    ///
    /// Fails with [`Kind::InUse`] and qemu-img's sentence when somebody else has it (the hint is
    /// qemu-img's second line and, where `/proc` tells, a third that names the holder), with
    /// [`Kind::LocksUnsupported`] where the file system has no such locks (a mere read goes on
    /// there), and with [`Kind::Busy`] if the path names another file by now.
    pub fn acquire(file: &FileStorage, intent: Intent, policy: LockPolicy<'_>) -> Result<Self> {
        let mut lock = Self { file: file.try_clone()?, intent, taken_len: 0 };
        if intent == Intent::Read {
            match lock.wait_for_writers(policy) {
                // Where nobody can lock, nobody has.
                Err(error) if error.kind() != Kind::LocksUnsupported => return Err(error),
                _ => return Ok(lock),
            }
        }
        // A failure below drops the lock, and with it whatever was taken so far.
        queue::announce(&lock.file, intent)?;
        queue::enter(&lock.file, intent, policy.wait, policy.on_wait)?;
        let deadline = policy.wait.then(|| Instant::now() + READER_PATIENCE);
        lock.take_bytes(deadline)?;
        lock.taken_len = lock.file.len()?;
        lock.take_flock(deadline)?;
        lock.look_for_unlocked_writers()?;
        if lock.file.is_current() { Ok(lock) } else { Err(replaced()) }
    }

    /// What it was acquired for.
    pub fn intent(&self) -> Intent {
        self.intent
    }

    /// Looks again whether somebody else has the image, just before a commit and after all that
    /// makes the file longer: a QEMU may be starting this moment. One that notices us and goes is
    /// waited for.
    pub fn reprobe(&self) -> Result<()> {
        if !self.file.is_current() {
            return Err(replaced());
        }
        let deadline = Instant::now() + COLLISION_GRACE;
        loop {
            let is_late = Instant::now() >= deadline;
            // In this order: who locks in between is not in the first view, and is in the second.
            match (self.outdated_opener()?, self.obstacle()?) {
                (None, None) => return Ok(()),
                (_, Some(obstacle)) if is_late => return Err(self.refusal(&obstacle)),
                (Some(opener), None) if is_late => {
                    return Err(in_use(&self.file, self.sentence(), Some(opener)));
                }
                _ => queue::pause(5..20),
            }
        }
    }

    /// Somebody who has measured the file before it grew, and not locked it yet.
    ///
    /// QEMU asks for the length when it opens a file, once, and takes its locks when it puts a
    /// format on it: within a millisecond, or whenever its user gets to that. What lies beyond the
    /// length that it remembers reads as zeros to it. So if it locks after us, it sees tables of
    /// zeros, counts and maps by them, and destroys the image. Whoever opens the file from now on
    /// measures it at its full length.
    fn outdated_opener(&self) -> Result<Option<String>> {
        // Asking leaves the descriptor at the end that there was, and `/proc` shows where it is.
        let outdated = self.taken_len..self.file.len()?;
        if outdated.is_empty() || lease::is_only_writer(self.file.file()) {
            return Ok(None);
        }
        let mut openers = processes::openers(self.file.identity());
        openers.retain(|it| it.locked.is_empty() && outdated.contains(&it.position));
        let processes: Vec<_> = openers.into_iter().map(|opener| opener.process).collect();
        let names = message::list(&processes);
        Ok(names.map(|names| format!("It is open, and not locked yet, in {names}")))
    }

    fn obstacle(&self) -> Result<Option<Obstacle>> {
        let survey = Survey::of(self.file.file()).map_err(lock_error)?;
        Ok(survey.obstacle(Claim::of(self.intent)))
    }

    fn refusal(&self, obstacle: &Obstacle) -> Error {
        in_use(&self.file, &obstacle.reason, None)
    }

    /// For a reader that takes nothing. A Calque locks the queue before QEMU's bytes, so bytes
    /// whose holder does not show in the queue, twice, are not a Calque's.
    fn wait_for_writers(&self, policy: LockPolicy<'_>) -> Result<()> {
        let mut queue = queue::Watch::new(&self.file, policy.wait, policy.on_wait);
        let mut seen_before = false;
        loop {
            queue.wait_for_changers()?;
            let Some(obstacle) = self.obstacle()? else { return Ok(()) };
            if queue.is_changing()? {
                seen_before = false;
            } else if seen_before {
                return Err(self.refusal(&obstacle));
            } else {
                seen_before = true;
            }
        }
    }

    /// Takes QEMU's bytes as QEMU does: first one's own, then the test of the others'. A look
    /// before spares others the sight of bytes that we would have to drop again.
    fn take_bytes(&self, deadline: Option<Instant>) -> Result<()> {
        let claim = Claim::of(self.intent);
        // Two who start in the same instant see each other and both back off; the pauses differ.
        let mut collision_ends = None;
        let mut collisions = 0;
        loop {
            let mut found = self.obstacle()?;
            if found.is_none() {
                found = if claim.take(self.file.file()).map_err(lock_error)? {
                    self.obstacle()?
                } else {
                    Some(Obstacle::exclusive())
                };
                if found.is_none() {
                    return Ok(());
                }
                Claim::release(self.file.file()).map_err(lock_error)?;
                collisions += 1;
                if collisions <= 8 {
                    collision_ends = Some(Instant::now() + COLLISION_GRACE);
                }
            }
            let Some(obstacle) = found else { continue };
            let now = Instant::now();
            let colliding = collision_ends.is_some_and(|end| now < end);
            let patient = obstacle.may_pass && deadline.is_some_and(|end| now < end);
            if !colliding && !patient {
                return Err(self.refusal(&obstacle));
            }
            queue::pause(5..40);
        }
    }

    /// Takes part in `flock(2)` too, where that is a thing of this machine: on network file systems
    /// it is made of the very byte locks that we hold, and a block device's is udev's.
    fn take_flock(&self, deadline: Option<Instant>) -> Result<()> {
        let file = self.file.file();
        if self.file.has_fixed_len() || !filesystem::is_local(file) {
            return Ok(());
        }
        let operation = match self.intent {
            Intent::Change => FlockOperation::NonBlockingLockExclusive,
            _ => FlockOperation::NonBlockingLockShared,
        };
        while rustix::fs::flock(file, operation) == Err(Errno::WOULDBLOCK) {
            let holders = processes::flock_holders(self.file.identity());
            // `flock IMAGE calque …` locks the image for us, not against us.
            if !holders.is_empty() && holders.iter().all(|&id| processes::is_ancestor(id)) {
                break;
            }
            if deadline.is_none_or(|end| Instant::now() >= end) {
                let names: Vec<_> = holders.into_iter().map(processes::Process::of).collect();
                let holder = message::list(&names).map(|it| format!("It is locked by {it}"));
                return Err(in_use(&self.file, self.sentence(), holder));
            }
            queue::pause(5..40);
        }
        Ok(())
    }

    /// The last look: whoever writes without a lock.
    fn look_for_unlocked_writers(&self) -> Result<()> {
        // The kernel's word spares the walk over all processes. Other Calques that wait are open
        // for writing too; then the walk tells them apart.
        if lease::is_only_writer(self.file.file()) {
            return Ok(());
        }
        // A process that is about to lock, or a child that has not closed what it inherited, is
        // gone from this view in a moment.
        let deadline = Instant::now() + COLLISION_GRACE;
        while let Some(writer) = self.unlocked_writer() {
            if Instant::now() >= deadline {
                return Err(in_use(&self.file, self.sentence(), Some(writer)));
            }
            queue::pause(10..30);
        }
        Ok(())
    }

    fn unlocked_writer(&self) -> Option<String> {
        let identity = self.file.identity();
        let mut openers = processes::openers(identity);
        openers.retain(|opener| opener.writes && opener.locked.is_empty());
        let processes: Vec<_> = openers.into_iter().map(|opener| opener.process).collect();
        if let Some(names) = message::list(&processes) {
            return Some(format!("It is open for writing, without a lock, in {names}"));
        }
        let device = processes::loop_devices(identity).into_iter().next()?;
        Some(format!("It is attached to the loop device /dev/{device}"))
    }

    fn sentence(&self) -> &'static str {
        message::sentence(self.intent)
    }
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        if self.intent == Intent::Read {
            return;
        }
        // All bytes at once: nobody sees QEMU's without the queue's.
        let _ = ofd::unlock(self.file.file(), &(0..u64::MAX));
        if !self.file.has_fixed_len() {
            let _ = rustix::fs::flock(self.file.file(), FlockOperation::NonBlockingUnlock);
        }
    }
}

fn replaced() -> Error {
    Error::new(Kind::Busy, "The file was replaced by another one of that name")
}
