//! Promises that failed while nobody was listening. In a program that ends when its work is done
//! that is an exception like any other: it must not pass unseen.

use std::cell::RefCell;
use std::rc::Rc;

use rquickjs::{CatchResultExt as _, Ctx, Persistent, Runtime, Value};

use crate::end;

type Rejection = (Persistent<Value<'static>>, Persistent<Value<'static>>);

/// The promises that failed so far, each with its reason.
pub struct Rejections(Rc<RefCell<Vec<Rejection>>>);

impl Rejections {
    /// Watches all promises of `runtime`.
    pub fn of(runtime: &Runtime) -> Self {
        let open = Rc::new(RefCell::new(Vec::<Rejection>::new()));
        let seen = Rc::clone(&open);
        runtime.set_host_promise_rejection_tracker(Some(Box::new(
            move |ctx, promise, reason, is_handled| {
                end::on_unwind(|| {
                    let mut open = seen.borrow_mut();
                    if is_handled {
                        open.retain(|(other, _)| {
                            other.clone().restore(&ctx).is_ok_and(|other| other != promise)
                        });
                    } else {
                        open.push((
                            Persistent::save(&ctx, promise.clone()),
                            Persistent::save(&ctx, reason.clone()),
                        ));
                    }
                });
            },
        )));
        Self(open)
    }

    /// Ends the process if one is left.
    pub fn settle(&self, ctx: &Ctx<'_>) {
        let Some((_, reason)) = self.0.borrow_mut().pop() else { return };
        let thrown = reason.restore(ctx).and_then(|reason| Err::<(), _>(ctx.throw(reason)));
        if let Err(error) = thrown.catch(ctx) {
            end::with_exception(&error);
        }
    }
}
