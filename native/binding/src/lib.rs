//! The door for Node, Deno and Bun: the operations of `calque-api` as a Node-API addon.
//!
//! Each is registered with one line. A panic becomes an Error of JavaScript; an exception of a
//! callback ends the operation and passes through; a request of the wrong type throws.

use calque_api::callback::{Callback, with_callback, with_listener};
#[allow(clippy::wildcard_imports, reason = "every one of them crosses here")]
use calque_api::types::*;
use napi::bindgen_prelude::{Function, JsValuesTupleIntoVec};
use napi_derive::napi;

/// The version of the core.
#[napi(catch_unwind)]
pub fn core_version() -> String {
    calque_api::core_version()
}

/// Exports the operation of that name; where it has one, with its optional callback, whose
/// exception is an error to the operation (`Result`) or only ends it.
macro_rules! operation {
    ($name:ident($request:ident) -> $report:ident) => {
        #[doc = concat!("See `calque_api::", stringify!($name), "`.")]
        #[napi(catch_unwind)]
        pub fn $name(request: $request) -> Reply<$report> {
            calque_api::$name(request).into()
        }
    };
    ($name:ident($request:ident, $callback:ident: $argument:ty => Result) -> $report:ident) => {
        #[doc = concat!("See `calque_api::", stringify!($name), "`.")]
        #[napi(catch_unwind)]
        pub fn $name(
            request: $request,
            $callback: Option<Function<'_, $argument, ()>>,
        ) -> napi::Result<Reply<$report>> {
            calling($callback.as_ref(), |callback| calque_api::$name(request, callback))
        }
    };
    ($name:ident($request:ident, $callback:ident: $argument:ident) -> $report:ident) => {
        #[doc = concat!("See `calque_api::", stringify!($name), "`.")]
        #[napi(catch_unwind)]
        pub fn $name(
            request: $request,
            $callback: Option<Function<'_, $argument, ()>>,
        ) -> napi::Result<Reply<$report>> {
            telling($callback.as_ref(), |callback| calque_api::$name(request, callback))
        }
    };
}

operation!(image_info(ImageInfoRequest, piece: ImageInfo => Result) -> ImageInfo);
operation!(image_check(ImageCheckRequest, piece: Vec<String> => Result) -> CheckReport);
operation!(image_create(ImageCreateRequest, event: ChangeEvent => Result) -> ImageCreateReport);
operation!(image_grow(ImageGrowRequest, event: ChangeEvent => Result) -> CommitReport);
operation!(image_repair(ImageRepairRequest, event: ChangeEvent => Result) -> RepairReport);
operation!(image_clone(ImageCloneRequest, progress: CloneProgress) -> CloneReport);
operation!(image_convert(ImageConvertRequest, progress: ConvertProgress) -> ConvertReport);
operation!(image_users(ImageUsersRequest) -> ImageUsersReport);
operation!(snapshot_list(SnapshotListRequest, piece: SnapshotListReport => Result) -> SnapshotListReport);
operation!(snapshot_create(SnapshotCreateRequest, event: ChangeEvent => Result) -> SnapshotReport);
operation!(snapshot_apply(SnapshotApplyRequest, event: ChangeEvent => Result) -> SnapshotReport);
operation!(snapshot_delete(SnapshotDeleteRequest, event: ChangeEvent => Result) -> SnapshotReport);
operation!(snapshot_rename(SnapshotRenameRequest, event: ChangeEvent => Result) -> SnapshotReport);
operation!(file_stamp(FilePathRequest) -> FileStampReport);
operation!(file_remove(FileRemoveRequest) -> Done);
operation!(store_open(StoreOpenRequest) -> StoreOpenReport);
operation!(store_lock(StoreLockRequest, waiting: String => Result) -> StoreLockReport);
operation!(store_unlock(StoreUnlockRequest) -> Done);
operation!(store_read(StoreReadRequest) -> StoreReadReport);
operation!(store_list(StorePathRequest) -> StoreListReport);
operation!(store_stat(StoreReadRequest) -> StoreStatReport);
operation!(store_make_directory(StorePathRequest) -> Done);
operation!(store_create(StoreCreateRequest) -> Done);
operation!(store_replace(StoreWriteRequest) -> Done);
operation!(store_append(StoreWriteRequest) -> Done);
operation!(store_rename(StoreRenameRequest) -> Done);
operation!(store_link(StoreLinkRequest) -> Done);
operation!(store_remove(StorePathRequest) -> Done);
operation!(store_protect(StoreReadRequest) -> Done);
operation!(store_sync(StoreSyncRequest) -> Done);

/// Runs an operation that obeys its callback, an optional function of JavaScript.
fn calling<C: JsValuesTupleIntoVec, R>(
    function: Option<&Function<'_, C, ()>>,
    operation: impl FnOnce(&mut Callback<'_, C>) -> Outcome<R>,
) -> napi::Result<Reply<R>> {
    let call = |argument| function.map_or(Ok(()), |function| function.call(argument));
    with_callback(call, operation).map(Reply::from)
}

/// Runs an operation that only tells an optional function of JavaScript how far it is.
fn telling<C: JsValuesTupleIntoVec, R>(
    function: Option<&Function<'_, C, ()>>,
    operation: impl FnOnce(&mut dyn FnMut(C)) -> Outcome<R>,
) -> napi::Result<Reply<R>> {
    let call = |argument| function.map_or(Ok(()), |function| function.call(argument));
    with_listener(call, operation).map(Reply::from)
}
