//! The door of the executable: an embedded engine that runs the bundled TypeScript, with the core
//! linked in.
//!
//! The engine has no `node:` modules, no file system, no network, no environment: what TypeScript
//! sees of the world is the module `calque:host` ([`world`] and [`native`]), and nothing else. It
//! evaluates modules of the bundle only, each when it is first imported. An error that nobody
//! caught, in either language, ends in a message and status 70 before any JavaScript runs again.

mod bundle;
mod end;
mod native;
mod rejections;
mod world;

use rquickjs::{CatchResultExt, CaughtError, Context, Error, Module, Runtime, Value};

pub use bundle::{Bundle, Source};

/// What a deep recursion in JavaScript may use: less than any main thread has.
const JAVASCRIPT_STACK_BYTES: usize = 1 << 20;

/// How much is allocated before the engine first looks for garbage cycles. A command is over long
/// before; what has no cycles is freed at once in any case.
const GARBAGE_THRESHOLD_BYTES: usize = 32 << 20;

/// Evaluates the module `entry` and ends the process with the status that it set.
pub fn run(modules: impl Into<Source>, entry: &str) -> ! {
    end::on_panic();
    let runtime = Runtime::new().unwrap_or_else(|error| end::with_bug(&error.to_string()));
    runtime.set_max_stack_size(JAVASCRIPT_STACK_BYTES);
    runtime.set_gc_threshold(GARBAGE_THRESHOLD_BYTES);
    runtime.set_loader(bundle::Resolver, bundle::Loader(modules.into()));
    let rejections = rejections::Rejections::of(&runtime);
    let context = Context::full(&runtime).unwrap_or_else(|error| end::with_bug(&error.to_string()));
    context.with(|ctx| {
        let evaluated =
            Module::import(&ctx, entry).and_then(|promise| promise.finish::<Value<'_>>());
        match evaluated.catch(&ctx) {
            Ok(_) => {
                while ctx.execute_pending_job() {}
                rejections.settle(&ctx);
                end::with_status(world::exit_code())
            }
            // Nothing is left to do, and still the program is not done.
            Err(CaughtError::Error(Error::WouldBlock)) => {
                end::with_bug("the program waits for something that never comes")
            }
            Err(error) => end::with_exception(&error),
        }
    })
}
