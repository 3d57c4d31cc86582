//! How many files a process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What is open already: standard streams, the source and its locks, and some to spare.
const SPARE: u64 = 64;

/// Raises the soft limit so that `count` more files can be open, as far as the hard limit allows. A
/// thousand clones at once need more than the 1024 that a shell starts with. Says how many can be
/// open now, `count` at most.
pub(crate) fn make_room(count: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = count as u64 + SPARE;
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit });
    }
    let room = getrlimit(Resource::Nofile).current.map_or(wanted, |current| current.min(wanted));
    usize::try_from(room.saturating_sub(SPARE)).expect("at most `count`")
}
