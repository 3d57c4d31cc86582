//! Calls from an operation back to the program, on the thread that called the operation.
//!
//! The first exception of a callback ends the operation and becomes its result. There are two ways,
//! and in both nothing is committed: [`with_callback`] hands the operation an error, which goes up
//! through the core as any other does, so that it takes its writes back; [`with_listener`] is for
//! long work that only tells how far it is, and unwinds it.

use std::panic::{self, AssertUnwindSafe};

use qcow2::{Error, Kind};

/// The program's callback failed: the operation ends here. What it threw waits outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl From<Stopped> for Error {
    /// Nobody sees the sentence: the exception takes its place.
    fn from(_: Stopped) -> Self {
        Self::new(Kind::InvalidArgument, "the program's callback failed")
    }
}

/// A callback that an operation has to obey.
pub type Callback<'a, A> = dyn FnMut(A) -> Result<(), Stopped> + 'a;

/// Runs `operation` with a callback that may fail, which the operation hears as [`Stopped`].
pub fn with_callback<A, R, E>(
    mut call: impl FnMut(A) -> Result<(), E>,
    operation: impl FnOnce(&mut Callback<'_, A>) -> R,
) -> Result<R, E> {
    let mut failure = None;
    let result = operation(&mut |argument| {
        call(argument).map_err(|error| {
            failure.get_or_insert(error);
            Stopped
        })
    });
    failure.map_or(Ok(result), Err)
}

/// Runs `operation` with a callback that may fail, of which the operation hears nothing: it ends
/// where it stands, and everything on the way is dropped, as at any other early end.
///
/// A panic of the operation itself passes through.
pub fn with_listener<A, R, E>(
    mut call: impl FnMut(A) -> Result<(), E>,
    operation: impl FnOnce(&mut dyn FnMut(A)) -> R,
) -> Result<R, E> {
    let mut failure = None;
    let mut callback = |argument| {
        if let Err(error) = call(argument) {
            failure = Some(error);
            // Silent, unlike a panic: the hook that prints is not called.
            panic::resume_unwind(Box::new(()));
        }
    };
    let result = panic::catch_unwind(AssertUnwindSafe(|| operation(&mut callback)));
    match (result, failure) {
        (_, Some(error)) => Err(error),
        (Ok(result), None) => Ok(result),
        (Err(panic), None) => panic::resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_fails_ends_the_operation() {
        let mut reached = Vec::new();
        let result = with_listener(
            |n: u32| if n < 2 { Ok(()) } else { Err("enough") },
            |callback| {
                for n in 0..5 {
                    reached.push(n);
                    callback(n);
                }
            },
        );
        assert_eq!((result, reached), (Err("enough"), vec![0, 1, 2]));
    }

    #[test]
    fn a_callback_that_fails_is_an_error_to_the_operation_and_its_own_to_the_program() {
        let mut cleaned = false;
        let result = with_callback(
            |n: u32| if n < 2 { Ok(()) } else { Err("enough") },
            |callback| {
                let result = (0..5).try_for_each(&mut *callback);
                cleaned = result == Err(Stopped);
                result
            },
        );
        assert_eq!((result, cleaned), (Err("enough"), true));
    }

    #[test]
    fn what_a_callback_throws_later_does_not_hide_the_first() {
        let result = with_callback(
            |n: u32| Err::<(), _>(n),
            |callback| {
                let _ = callback(1);
                let _ = callback(2);
            },
        );
        assert_eq!(result, Err(1));
    }

    #[test]
    fn a_callback_that_succeeds_changes_nothing() {
        let listened = with_listener(
            |_: u32| Ok::<(), ()>(()),
            |callback| {
                callback(1);
                "done"
            },
        );
        let called = with_callback(|_: u32| Ok::<(), ()>(()), |callback| callback(1));
        assert_eq!((listened, called), (Ok("done"), Ok(Ok(()))));
    }
}
