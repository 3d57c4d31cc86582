//! `native` of `calque:host`: the operations of `calque-api`, each registered with one line.

use calque_api as api;
use calque_api::callback::{Callback, with_callback, with_listener};
use calque_api::types::{Outcome, Reply};
use rquickjs::prelude::Opt;
use rquickjs::{Ctx, Exception, Function, Object, Result, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::end;

/// The `Native` of `src/native.ts`.
pub fn operations<'js>(ctx: &Ctx<'js>) -> Result<Object<'js>> {
    let native = Object::new(ctx.clone())?;
    native.set("coreVersion", Function::new(ctx.clone(), api::core_version))?;
    native.set("imageInfo", calling(ctx, api::image_info)?)?;
    native.set("imageCheck", calling(ctx, api::image_check)?)?;
    native.set("imageCreate", calling(ctx, api::image_create)?)?;
    native.set("imageGrow", calling(ctx, api::image_grow)?)?;
    native.set("imageRepair", calling(ctx, api::image_repair)?)?;
    native.set("imageClone", telling(ctx, api::image_clone)?)?;
    native.set("imageConvert", telling(ctx, api::image_convert)?)?;
    native.set("imageUsers", plain(ctx, api::image_users)?)?;
    native.set("snapshotList", calling(ctx, api::snapshot_list)?)?;
    native.set("snapshotCreate", calling(ctx, api::snapshot_create)?)?;
    native.set("snapshotApply", calling(ctx, api::snapshot_apply)?)?;
    native.set("snapshotDelete", calling(ctx, api::snapshot_delete)?)?;
    native.set("snapshotRename", calling(ctx, api::snapshot_rename)?)?;
    native.set("fileStamp", plain(ctx, api::file_stamp)?)?;
    native.set("fileRemove", plain(ctx, api::file_remove)?)?;
    native.set("storeOpen", plain(ctx, api::store_open)?)?;
    native.set("storeLock", calling(ctx, api::store_lock)?)?;
    native.set("storeUnlock", plain(ctx, api::store_unlock)?)?;
    native.set("storeRead", plain(ctx, api::store_read)?)?;
    native.set("storeList", plain(ctx, api::store_list)?)?;
    native.set("storeStat", plain(ctx, api::store_stat)?)?;
    native.set("storeMakeDirectory", plain(ctx, api::store_make_directory)?)?;
    native.set("storeCreate", plain(ctx, api::store_create)?)?;
    native.set("storeReplace", plain(ctx, api::store_replace)?)?;
    native.set("storeAppend", plain(ctx, api::store_append)?)?;
    native.set("storeRename", plain(ctx, api::store_rename)?)?;
    native.set("storeLink", plain(ctx, api::store_link)?)?;
    native.set("storeRemove", plain(ctx, api::store_remove)?)?;
    native.set("storeProtect", plain(ctx, api::store_protect)?)?;
    native.set("storeSync", plain(ctx, api::store_sync)?)?;
    Ok(native)
}

/// An operation that takes a request and answers.
fn plain<'js, Q, R>(ctx: &Ctx<'js>, operation: fn(Q) -> Outcome<R>) -> Result<Function<'js>>
where
    Q: DeserializeOwned + 'static,
    R: Serialize + 'static,
{
    Function::new(ctx.clone(), move |ctx: Ctx<'js>, request: Value<'js>| {
        end::on_unwind(|| {
            let request = from_javascript(&ctx, request)?;
            into_javascript(&ctx, Reply::from(operation(request)))
        })
    })
}

/// An operation that obeys its callback: an exception there is an error on its way.
fn calling<'js, Q, C, R>(
    ctx: &Ctx<'js>,
    operation: fn(Q, &mut Callback<'_, C>) -> Outcome<R>,
) -> Result<Function<'js>>
where
    Q: DeserializeOwned + 'static,
    C: Serialize + 'static,
    R: Serialize + 'static,
{
    with_function(ctx, move |request, call| {
        with_callback(call, |callback| operation(request, callback))
    })
}

/// An operation that only tells how far it is.
fn telling<'js, Q, C, R>(
    ctx: &Ctx<'js>,
    operation: fn(Q, &mut dyn FnMut(C)) -> Outcome<R>,
) -> Result<Function<'js>>
where
    Q: DeserializeOwned + 'static,
    C: Serialize + 'static,
    R: Serialize + 'static,
{
    with_function(ctx, move |request, call| {
        with_listener(call, |callback| operation(request, callback))
    })
}

/// A function of a request and of a callback, which `run` gets as a function of Rust.
fn with_function<'js, Q, C, R>(
    ctx: &Ctx<'js>,
    run: impl Fn(Q, &mut dyn FnMut(C) -> Result<()>) -> Result<Outcome<R>> + 'js,
) -> Result<Function<'js>>
where
    Q: DeserializeOwned + 'static,
    C: Serialize + 'static,
    R: Serialize + 'static,
{
    Function::new(
        ctx.clone(),
        move |ctx: Ctx<'js>, request: Value<'js>, callback: Opt<Value<'js>>| {
            end::on_unwind(|| {
                let request = from_javascript(&ctx, request)?;
                let callback = optional_function(&ctx, callback)?;
                let mut call = |argument: C| match &callback {
                    Some(function) => function.call::<_, ()>((into_javascript(&ctx, argument)?,)),
                    None => Ok(()),
                };
                into_javascript(&ctx, Reply::from(run(request, &mut call)?))
            })
        },
    )
}

fn optional_function<'js>(ctx: &Ctx<'js>, value: Opt<Value<'js>>) -> Result<Option<Function<'js>>> {
    match value.0 {
        None => Ok(None),
        Some(value) if value.is_undefined() => Ok(None),
        Some(value) => value
            .into_function()
            .map(Some)
            .ok_or_else(|| Exception::throw_type(ctx, "the callback is not a function")),
    }
}

fn from_javascript<T: DeserializeOwned>(ctx: &Ctx<'_>, value: Value<'_>) -> Result<T> {
    rquickjs_serde::from_value(value)
        .map_err(|error| Exception::throw_type(ctx, &format!("the request does not fit: {error}")))
}

fn into_javascript<'js>(ctx: &Ctx<'js>, value: impl Serialize) -> Result<Value<'js>> {
    rquickjs_serde::to_value(ctx.clone(), value)
        .map_err(|error| Exception::throw_internal(ctx, &error.to_string()))
}
