//! One process from the outside: started, waited for, and asked of the kernel what it used.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Result;

/// Runs the command without its output and describes it. The peak memory counts from this small
/// process on, which the command replaces.
pub fn run(command: &str, arguments: &[&str]) -> Result<String> {
    measure(Command::new(command).args(arguments))
}

/// The same where nothing can be punched, as on a file system without holes: what a change takes
/// that gives no space back.
pub fn run_without_punching(command: &str, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(command);
    command.args(arguments);
    #[allow(unsafe_code, reason = "the only way to run something between fork and exec")]
    // SAFETY: the closure makes two system calls and neither allocates nor takes a lock.
    unsafe {
        command.pre_exec(refuse_fallocate);
    }
    measure(&mut command)
}

/// The same, ended after some seconds: then it says `"stopped":true`, and its time is a lower bound.
pub fn run_at_most(seconds: &str, command: &str, arguments: &[&str]) -> Result<String> {
    let patience = Duration::from_secs(seconds.parse()?);
    measure_at_most(Some(patience), Command::new(command).args(arguments))
}

fn measure(command: &mut Command) -> Result<String> {
    measure_at_most(None, command)
}

fn measure_at_most(patience: Option<Duration>, command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let child = command.spawn()?;
    let (ended, end) = mpsc::channel();
    let watch = patience.map(|patience| {
        let pid = Pid::from_child(&child);
        thread::spawn(move || {
            // Until it was waited for, the number is nobody else's.
            let stops = end.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            stops && kill_process(pid, Signal::KILL).is_ok()
        })
    });
    let (status, usage) = wait(child.id().try_into()?)?;
    let _ = ended.send(());
    let stopped = watch.is_some_and(|watch| watch.join().unwrap_or(false));
    let wall = start.elapsed().as_nanos();
    let exit = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 };
    Ok(format!(
        r#"{{"exit":{exit},"stopped":{stopped},"wallNs":{wall},"userNs":{},"systemNs":{},"peakBytes":{}}}"#,
        duration(usage.ru_utime).as_nanos(),
        duration(usage.ru_stime).as_nanos(),
        usage.ru_maxrss * 1024,
    ))
}

/// `wait4(2)`: neither the standard library nor rustix tells what a child used.
#[allow(unsafe_code, reason = "no safe interface to wait4 among the dependencies")]
fn wait(pid: libc::pid_t) -> Result<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: both pointers are to locals that outlive the call; all zeros is a valid `rusage`.
    let (waited, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
    };
    if waited == pid { Ok((status, usage)) } else { Err(io::Error::last_os_error().into()) }
}

/// Lets every `fallocate(2)` of this process and its children fail with `EOPNOTSUPP`.
#[allow(unsafe_code, reason = "no safe interface to seccomp among the dependencies")]
#[allow(clippy::cast_possible_truncation, reason = "constants, of the width the kernel wants")]
fn refuse_fallocate() -> io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const FALLOCATE: u32 = libc::SYS_fallocate as u32;
    const REFUSE: u32 = libc::SECCOMP_RET_ERRNO | libc::EOPNOTSUPP as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, FALLOCATE),
        step(RETURN, 0, 0, REFUSE),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program and its description outlive the calls, which copy them.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0)
                != 0
    };
    if refused { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn duration(time: libc::timeval) -> Duration {
    let microseconds = u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0);
    Duration::from_micros(microseconds)
}
