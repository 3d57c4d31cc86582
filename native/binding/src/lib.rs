//! The door for Node, Deno and Bun: the operations of `calque-api` as a Node-API addon.
//!
//! Each is registered with one line. A panic becomes an Error of JavaScript; an exception of a
//! callback ends the operation and passes through; a request of the wrong type throws.

use calque_api::callback::with_callback;
#[allow(clippy::wildcard_imports, reason = "every one of them crosses here")]
use calque_api::types::*;
use napi::bindgen_prelude::{Function, JsValuesTupleIntoVec};
use napi_derive::napi;

/// The version of the core.
#[napi(catch_unwind)]
pub fn core_version() -> String {
    calque_api::core_version()
}

/// Exports the operation of that name, with its optional callback where it has one.
macro_rules! operation {
    ($name:ident($request:ident) -> $report:ident) => {
        #[doc = concat!("See `calque_api::", stringify!($name), "`.")]
        #[napi(catch_unwind)]
        pub fn $name(request: $request) -> Reply<$report> {
            calque_api::$name(request).into()
        }
    };
    ($name:ident($request:ident, $callback:ident: $argument:ident) -> $report:ident) => {
        #[doc = concat!("See `calque_api::", stringify!($name), "`.")]
        #[napi(catch_unwind)]
        pub fn $name(
            request: $request,
            $callback: Option<Function<'_, $argument, ()>>,
        ) -> napi::Result<Reply<$report>> {
            calling($callback.as_ref(), |callback| calque_api::$name(request, callback))
        }
    };
}

operation!(image_info(ImageInfoRequest) -> ImageInfo);
operation!(image_check(ImageCheckRequest) -> CheckReport);
operation!(image_create(ImageCreateRequest, waiting: String) -> ImageCreateReport);
operation!(image_grow(ImageGrowRequest, waiting: String) -> CommitReport);
operation!(image_clone(ImageCloneRequest, progress: CloneProgress) -> CloneReport);
operation!(snapshot_list(SnapshotListRequest) -> SnapshotListReport);
operation!(snapshot_create(SnapshotCreateRequest, waiting: String) -> SnapshotReport);
operation!(snapshot_apply(SnapshotApplyRequest, waiting: String) -> SnapshotReport);
operation!(snapshot_delete(SnapshotDeleteRequest, waiting: String) -> SnapshotReport);
operation!(snapshot_rename(SnapshotRenameRequest, waiting: String) -> SnapshotReport);

/// Runs an operation whose callback is an optional function of JavaScript.
fn calling<C: JsValuesTupleIntoVec, R>(
    function: Option<&Function<'_, C, ()>>,
    operation: impl FnOnce(&mut dyn FnMut(C)) -> Outcome<R>,
) -> napi::Result<Reply<R>> {
    let call = |argument| function.map_or(Ok(()), |function| function.call(argument));
    with_callback(call, operation).map(Reply::from)
}
