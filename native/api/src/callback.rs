//! Calls from an operation back to the program, on the thread that called the operation.

use std::panic::{self, AssertUnwindSafe};

/// Runs `operation` with a callback that may fail.
///
/// The first failure ends the operation where it stands and becomes the result: everything on the
/// way is dropped, as at any other early end, and nothing is committed. A panic of the operation
/// itself passes through.
pub fn with_callback<A, R, E>(
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
    use super::with_callback;

    #[test]
    fn a_callback_that_fails_ends_the_operation() {
        let mut reached = Vec::new();
        let result = with_callback(
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
    fn a_callback_that_succeeds_changes_nothing() {
        let result = with_callback(
            |_: u32| Ok::<(), ()>(()),
            |callback| {
                callback(1);
                "done"
            },
        );
        assert_eq!(result, Ok("done"));
    }
}
