//! What a process is told by signals and can be told by errors instead.

#![allow(unsafe_code)]

/// Lets a write beyond the process's file size limit fail with `EFBIG` (`File too large`) instead
/// of ending the process: an error can be reported, and what was begun taken back.
///
/// For programs, which own their signals; a library in somebody else's process leaves them alone.
pub fn report_file_size_limit() {
    // SAFETY: no handler of ours is installed, the signal is only ignored.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}
