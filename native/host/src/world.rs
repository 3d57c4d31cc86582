//! The module `calque:host`: everything that the executable's JavaScript sees of the world.
//!
//! `host` is the `Host` of `src/host.ts`: arguments, environment, terminal, clock, prompt; `native`
//! the core. Strings are UTF-8 on both sides. An argument that is not is refused, because a name
//! that changed on the way would be another file.

use std::cell::Cell;
use std::env;
use std::io::{self, BufRead as _, ErrorKind, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rquickjs::function::IntoJsFunc;
use rquickjs::module::{Declarations, Exports, ModuleDef};
use rquickjs::prelude::Opt;
use rquickjs::{Ctx, Exception, Function, Object, Promise, Result, TypedArray, Value};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use crate::{end, native};

/// The name that JavaScript imports.
pub const MODULE: &str = "calque:host";

/// What a shell reports of a program that a closed pipe ended.
const CLOSED_PIPE: i32 = 128 + 13;

/// As many random bytes as Web Crypto gives at once.
const MAX_RANDOM_BYTES: f64 = 65_536.0;

/// The status of a program that could not take its arguments, or not deliver its result.
const FAILED: i32 = 1;

thread_local! {
    static EXIT_CODE: Cell<i32> = const { Cell::new(0) };
}

/// The status that the program asked for.
pub fn exit_code() -> i32 {
    EXIT_CODE.get()
}

/// `calque:host`.
pub struct World;

impl ModuleDef for World {
    fn declare(exports: &Declarations<'_>) -> Result<()> {
        exports.declare("host")?.declare("native")?.declare("setExitCode")?;
        Ok(())
    }

    fn evaluate<'js>(ctx: &Ctx<'js>, exports: &Exports<'js>) -> Result<()> {
        end::on_unwind(|| {
            exports.export("host", host(ctx)?)?;
            exports.export("native", native::operations(ctx)?)?;
            exports
                .export("setExitCode", Function::new(ctx.clone(), |code| EXIT_CODE.set(code)))?;
            Ok(())
        })
    }
}

fn host<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>> {
    let host = Object::new(ctx.clone())?;
    host.set("argv", arguments())?;
    host.set("stdout", stream(ctx, Output::Results)?)?;
    host.set("stderr", stream(ctx, Output::Messages)?)?;
    let stdin = Object::new(ctx.clone())?;
    stdin.set("isTerminal", io::stdin().is_terminal())?;
    host.set("stdin", stdin)?;
    function(&host, "env", |name: String| end::on_unwind(|| environment(&name)))?;
    function(&host, "now", |ctx: Ctx<'js>| end::on_unwind(|| now(&ctx)))?;
    function(&host, "randomBytes", |ctx: Ctx<'js>, count: f64| {
        end::on_unwind(|| random_bytes(&ctx, count))
    })?;
    function(&host, "readLine", |ctx: Ctx<'js>, prompt: String| {
        end::on_unwind(|| read_line(&ctx, &prompt))
    })?;
    Ok(host)
}

/// A `Stream` of `src/host.ts`.
fn stream<'js>(ctx: &Ctx<'js>, output: Output) -> Result<Object<'js>> {
    let stream = Object::new(ctx.clone())?;
    stream.set("isTerminal", output.is_terminal())?;
    if let Some(columns) = output.columns() {
        stream.set("columns", columns)?;
    }
    function(&stream, "write", move |data: Value<'js>, hint: Opt<Option<String>>| {
        end::on_unwind(|| {
            output.write(&bytes(&data)?, hint.0.flatten().as_deref());
            Ok::<_, rquickjs::Error>(())
        })
    })?;
    Ok(stream)
}

/// Puts a function under its name on `object`.
fn function<'js, P>(
    object: &Object<'js>,
    name: &str,
    function: impl IntoJsFunc<'js, P> + 'js,
) -> Result<()> {
    object.set(name, Function::new(object.ctx().clone(), function)?.with_name(name)?)
}

/// What is to be written: a string in UTF-8, or bytes as they are.
fn bytes(data: &Value<'_>) -> Result<Vec<u8>> {
    if data.is_string() {
        return Ok(data.get::<String>()?.into_bytes());
    }
    let array: TypedArray<'_, u8> = data.get()?;
    // One by one: a borrow of the array's memory would be at JavaScript's mercy.
    (0..).zip(0..array.len()).map(|(i, _): (u32, _)| array.get(i)).collect()
}

/// The command line, the name that the program was called by first.
fn arguments() -> Vec<String> {
    env::args_os()
        .map(|argument| {
            argument.into_string().unwrap_or_else(|raw| {
                let text = format!("error: Argument is not valid UTF-8: {}\n", raw.display());
                Output::Messages.write(text.as_bytes(), None);
                end::with_status(FAILED)
            })
        })
        .collect()
}

/// One variable; what is not UTF-8 is as good as unset.
fn environment(name: &str) -> Option<String> {
    // `var` panics on names that no variable can have.
    let possible = !name.is_empty() && !name.contains(['=', '\0']);
    possible.then(|| env::var(name).ok()).flatten()
}

/// Seconds since 1970 and nanoseconds.
fn now<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>> {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| Exception::throw_range(ctx, "the clock stands before 1970"))?;
    let now = Object::new(ctx.clone())?;
    now.set("sec", time.as_secs())?;
    now.set("nsec", time.subsec_nanos())?;
    Ok(now)
}

/// Bytes that nobody can guess, from the kernel.
fn random_bytes<'js>(ctx: &Ctx<'js>, count: f64) -> Result<TypedArray<'js, u8>> {
    if !(0.0..=MAX_RANDOM_BYTES).contains(&count) || count.fract() != 0.0 {
        return Err(Exception::throw_range(ctx, "no number of random bytes"));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    let mut bytes = vec![0; count as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Exception::throw_internal(ctx, &errno.to_string())),
        }
    }
    TypedArray::new(ctx.clone(), bytes)
}

/// Shows a prompt and waits for a line, which comes without its end; nothing at the end of input.
/// The promise is there for the other runtimes: this one has been kept when it is made.
fn read_line<'js>(ctx: &Ctx<'js>, prompt: &str) -> Result<Promise<'js>> {
    Output::Results.write(prompt.as_bytes(), None);
    let mut line = Vec::new();
    let answer = match io::stdin().lock().read_until(b'\n', &mut line) {
        Ok(0) | Err(_) => None,
        Ok(_) => {
            let line = String::from_utf8_lossy(&line);
            Some(line.trim_end_matches(['\n', '\r']).to_owned())
        }
    };
    let (promise, resolve, _) = ctx.promise()?;
    resolve.call::<_, ()>((answer,))?;
    Ok(promise)
}

/// One of the two streams.
#[derive(Clone, Copy)]
enum Output {
    /// Standard output.
    Results,
    /// Standard error.
    Messages,
}

impl Output {
    fn is_terminal(self) -> bool {
        match self {
            Self::Results => io::stdout().is_terminal(),
            Self::Messages => io::stderr().is_terminal(),
        }
    }

    /// The width, where it is a terminal.
    fn columns(self) -> Option<u16> {
        match self {
            Self::Results => columns(io::stdout()),
            Self::Messages => columns(io::stderr()),
        }
    }

    /// Writes everything. Whoever closed the pipe has read enough, and the program ends as others
    /// do. Any other failure is said, with the hint behind it, for a result that did not arrive is
    /// no success. A message that did not has nowhere left to go, and the work goes on.
    fn write(self, bytes: &[u8], hint: Option<&str>) {
        let written = match self {
            Self::Results => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            Self::Messages => io::stderr().write_all(bytes),
        };
        match (written, self) {
            (Ok(()), _) | (Err(_), Self::Messages) => {}
            (Err(error), Self::Results) if error.kind() == ErrorKind::BrokenPipe => {
                end::with_status(CLOSED_PIPE)
            }
            (Err(error), Self::Results) => {
                let reason = error.to_string();
                let reason = reason.split(" (os error").next().unwrap_or(&reason);
                let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
                let text = format!("error: Cannot write to standard output: {reason}\n{hint}");
                Self::Messages.write(text.as_bytes(), None);
                end::with_status(FAILED)
            }
        }
    }
}

/// The width of a terminal.
fn columns(stream: impl AsFd) -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(size.ws_col)
}
