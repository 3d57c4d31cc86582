//! Crash replay at scale: power cuts in every way, on images from seeds, as many as asked for.
//!
//! ```text
//! cargo test --release -p qcow2 --test replay -- --seeds 0..100000 --states 1000000
//! ```
//!
//! Each seed is an image of its own (`support/history.rs`) and a few operations on it, one after
//! the other with a guest in between. What an operation writes is recorded and cut everywhere
//! (`support/replay.rs`); each state is judged in this process (`support/judge.rs`), and one in
//! many by qemu-img. Without arguments this is the run of `cargo test`: always the same seeds.
//!
//! | file | subject |
//! |---|---|
//! | `arguments` | what was asked for |
//! | `trial` | one operation, recorded, cut and judged |
//! | `flushes` | a flush that fails, another command, a power cut |
//! | `repairs` | repairs of damaged images |
//! | `clones` | commits in files that nobody sees yet |
//! | `second` | qemu-img as the second judge |
//! | `report` | what was counted, as Markdown |
//!
//! It has no test harness of its own kind: it prints while it runs, and its figures are the result.
//! A state that is not sound ends the run, with the seed that brings it back.

mod arguments;
mod clones;
mod flushes;
mod repairs;
mod report;
mod second;
#[path = "../support/mod.rs"]
mod support;
mod trial;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arguments::{Arguments, Asked};
use report::Report;
use second::Second;
use trial::Trials;

/// The one test that this program is, by name, for `cargo test NAME`.
const NAME: &str = "a_power_cut_on_any_image_from_a_seed_leaves_old_or_new";

fn main() -> ExitCode {
    match arguments::parse(std::env::args().skip(1)) {
        Ok(Asked::Replay(arguments)) => replay(&arguments),
        Ok(Asked::Nothing) => closing(0, 0, 1),
        Ok(Asked::List) => {
            println!("{NAME}: test\n\n1 test, 0 benchmarks");
            ExitCode::SUCCESS
        }
        Err(mistake) => {
            eprintln!("{mistake}\n\n{}", arguments::USAGE);
            ExitCode::from(2)
        }
    }
}

/// What the threads share.
struct Run<'a> {
    arguments: &'a Arguments,
    started: Instant,
    next_seed: AtomicU64,
    states: AtomicU64,
    failed: AtomicBool,
    report: Mutex<Report>,
}

fn replay(arguments: &Arguments) -> ExitCode {
    println!("\nrunning 1 test");
    let run = Run {
        arguments,
        started: Instant::now(),
        next_seed: AtomicU64::new(arguments.seeds.start),
        states: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        report: Mutex::default(),
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| run.work());
        }
        scope.spawn(|| run.tell());
    });
    let mut report = run.report.into_inner().unwrap();
    report.elapsed = run.started.elapsed();
    let failed = run.failed.into_inner();
    println!("{}", report.markdown(arguments, !failed));
    println!("test {NAME} ... {}", if failed { "FAILED" } else { "ok" });
    closing(u32::from(!failed), u32::from(failed), 0)
}

impl Run<'_> {
    fn work(&self) {
        let mut second = Second::new(self.arguments);
        while let Some(seed) = self.take_seed() {
            let mut trials = Trials::new(self.arguments, &mut second);
            let run = catch_unwind(AssertUnwindSafe(|| trials.run(seed)));
            let report = trials.report;
            self.states.fetch_add(report.states(), Ordering::Relaxed);
            self.report.lock().unwrap().add(report);
            if run.is_err() {
                self.failed.store(true, Ordering::Relaxed);
                let (from, to) = (seed, seed + 1);
                eprintln!("again: cargo test -p qcow2 --test replay -- --seeds {from}..{to}");
            }
        }
        let seen = second.finish();
        self.report.lock().unwrap().add(seen);
    }

    /// The next seed; none when all is done, or something was found.
    fn take_seed(&self) -> Option<u64> {
        if self.is_done() {
            return None;
        }
        let seed = self.next_seed.fetch_add(1, Ordering::Relaxed);
        (seed < self.arguments.seeds.end).then_some(seed)
    }

    fn is_done(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
            || self.states.load(Ordering::Relaxed) >= self.arguments.states
            || self.started.elapsed().as_secs() >= self.arguments.seconds
            || self.next_seed.load(Ordering::Relaxed) >= self.arguments.seeds.end
    }

    /// Says every ten seconds how far it is.
    fn tell(&self) {
        let mut last = self.started;
        while !self.is_done() {
            std::thread::sleep(Duration::from_millis(100));
            if last.elapsed() > Duration::from_secs(10) {
                last = Instant::now();
                let states = self.states.load(Ordering::Relaxed);
                let seed = self.next_seed.load(Ordering::Relaxed);
                let rate = report::rate(states, self.started.elapsed());
                eprintln!("{states} states, {rate} a second, at seed {seed}");
            }
        }
    }
}

/// The line that says how it went, in the words of every other test program.
fn closing(passed: u32, failed: u32, filtered: u32) -> ExitCode {
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         {filtered} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
