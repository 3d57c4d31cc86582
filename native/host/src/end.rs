//! The ends of the process: as asked for, or with a bug.
//!
//! None of them runs destructors: what must not be lost is on disk, the system closes files and
//! locks, and freeing an engine that is about to vanish only costs time.

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::process;

use rquickjs::{CaughtError, Value};

/// sysexits' "internal software error".
const BUG: i32 = 70;

/// Ends the process with `status`.
pub fn with_status(status: i32) -> ! {
    process::exit(status)
}

/// Ends the process with a message that says that this is our fault.
pub fn with_bug(what: &str) -> ! {
    say(what);
    process::exit(BUG)
}

/// Ends the process because of an exception that nobody caught.
pub fn with_exception(error: &CaughtError<'_>) -> ! {
    with_bug(&describe(error))
}

/// Makes a panic say what it is, instead of what the standard library says of it by environment.
pub fn on_panic() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|l| format!(" ({}:{})", l.file(), l.line()));
        let message = info.payload_as_str().unwrap_or("panic");
        say(&format!("{message}{}", place.unwrap_or_default()));
    }));
}

/// Runs a function that JavaScript calls. If it panics the process ends here: the engine sits
/// between this and every outer frame, and would go on with the program.
pub fn on_unwind<T>(function: impl FnOnce() -> T) -> T {
    panic::catch_unwind(AssertUnwindSafe(function)).unwrap_or_else(|_| process::exit(BUG))
}

fn say(what: &str) {
    let text = format!(
        "calque: internal error: {}\nThis is a bug in Calque; nothing was left half done.\n",
        what.trim_end()
    );
    // Nobody is left to be told that even this could not be written.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Name, message and stack: the engine's stack does not contain the other two.
fn describe(error: &CaughtError<'_>) -> String {
    match error {
        CaughtError::Error(error) => error.to_string(),
        CaughtError::Exception(exception) => {
            let name = exception.as_object().get::<_, String>("name");
            let name = name.unwrap_or_else(|_| "Error".to_owned());
            let message = exception.message().unwrap_or_default();
            let stack = exception.stack().unwrap_or_default();
            format!("{name}: {message}\n{stack}")
        }
        CaughtError::Value(value) => format!("uncaught {}", text(value)),
    }
}

/// A thrown value that is no Error.
fn text(value: &Value<'_>) -> String {
    match value.as_string().map(rquickjs::String::to_string) {
        Some(Ok(text)) => text,
        _ => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::process::{Command, Output};

    use rquickjs::{Context, Function, Module, Runtime};

    /// Evaluates a module that calls a function which panics, in a process of its own.
    fn evaluate(source: &str) -> Output {
        Command::new(env::current_exe().expect("the test program"))
            .args(["--exact", "end::tests::evaluates", "--nocapture"])
            .env("CALQUE_TEST_SOURCE", source)
            .output()
            .expect("it runs")
    }

    #[test]
    fn evaluates() {
        // Only what `evaluate` starts has something to do.
        let Ok(source) = env::var("CALQUE_TEST_SOURCE") else { return };
        super::on_panic();
        let runtime = Runtime::new().expect("an engine");
        let context = Context::full(&runtime).expect("a context");
        context.with(|ctx| {
            let fall = || super::on_unwind(|| -> () { panic!("the ground is gone") });
            let fall = Function::new(ctx.clone(), fall).expect("a function");
            let say = Function::new(ctx.clone(), |text: String| println!("{text}"));
            ctx.globals().set("fall", fall).expect("a global");
            ctx.globals().set("say", say).expect("a global");
            Module::evaluate(ctx.clone(), "test", source)
                .and_then(|promise| promise.finish::<()>())
                .expect("an end");
            while ctx.execute_pending_job() {}
        });
    }

    #[test]
    fn no_javascript_runs_after_a_panic() {
        for source in [
            "try { fall() } catch { say('after') } finally { say('after') }",
            "const f = async () => { await null; fall() }; f().catch(() => say('after'));",
            "const f = async () => { try { fall() } finally { say('after') } }; f(); say('after');",
            "[1].map(() => fall()); say('after')",
            "({ get x() { fall() } }).x; say('after')",
            "new Promise(() => fall()).then(() => say('after'), () => say('after'));",
        ] {
            let output = evaluate(source);
            let stdout = String::from_utf8_lossy(&output.stdout);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(super::BUG), "{source}");
            assert!(!stdout.contains("after"), "{source}");
            assert!(stderr.contains("internal error: the ground is gone"), "{source}: {stderr}");
        }
    }
}
