//! Expected failures, as data: a stable code, words for people, and where it happened.

use serde::Serialize;

/// What an operation answers: its report, or why there is none.
///
/// The doors hand it over as `{ report }` or `{ failure }`, see [`Reply`].
pub type Outcome<R> = Result<R, Failure>;

/// An [`Outcome`] as it crosses: exactly one of the two fields is there.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply<R> {
    /// What was done or found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<R>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl<R> From<Outcome<R>> for Reply<R> {
    fn from(outcome: Outcome<R>) -> Self {
        match outcome {
            Ok(report) => Self { report: Some(report), failure: None },
            Err(failure) => Self { report: None, failure: Some(failure) },
        }
    }
}

#[cfg(feature = "napi")]
mod crossing {
    use napi::bindgen_prelude::{Object, ToNapiValue, TypeName};
    use napi::{Env, Result, ValueType, sys};

    use super::Reply;

    impl<R> TypeName for Reply<R> {
        fn type_name() -> &'static str {
            "Reply"
        }

        fn value_type() -> ValueType {
            ValueType::Object
        }
    }

    #[allow(unsafe_code, reason = "the trait's only method is unsafe")]
    impl<R: ToNapiValue> ToNapiValue for Reply<R> {
        unsafe fn to_napi_value(env: sys::napi_env, reply: Self) -> Result<sys::napi_value> {
            let mut object = Object::new(&Env::from_raw(env))?;
            if let Some(report) = reply.report {
                object.set("report", report)?;
            }
            if let Some(failure) = reply.failure {
                object.set("failure", failure)?;
            }
            // SAFETY: the caller's promise about `env` is passed on as it is.
            unsafe { Object::to_napi_value(env, object) }
        }
    }
}

/// An operation that could not be done. The image is as it was, but for the code `unsettled`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
#[cfg_attr(feature = "napi", napi_derive::napi(object, object_from_js = false))]
pub struct Failure {
    /// What a program asks for.
    pub code: FailureCode,
    /// How far the operation came.
    pub stage: Stage,
    /// The reason alone, in qemu-img's words where it has some: no file name, no full stop.
    pub reason: String,
    /// A complete line that belongs before the sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preface: Option<String>,
    /// The way out, for a line of its own after the sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The file it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The byte offset in that file, hexadecimal with `0x`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<String>,
}

impl Failure {
    /// `error` at `stage` of work on the file at `path`, unless the error names another.
    pub fn new(stage: Stage, path: &str, error: &qcow2::Error) -> Self {
        Self {
            code: error.kind().into(),
            stage,
            reason: error.reason().to_owned(),
            preface: error.preface.clone(),
            hint: error.hint.clone(),
            path: Some(
                error
                    .path
                    .as_ref()
                    .map_or(path.to_owned(), |path| path.to_string_lossy().into_owned()),
            ),
            offset: error.offset.map(|offset| format!("{offset:#x}")),
        }
    }
}

/// How far an operation came before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
pub enum Stage {
    /// The image could not be opened.
    Open,
    /// It was open; the operation was refused or failed.
    Operation,
}

macro_rules! failure_codes {
    (core: $($kind:ident),*; store: $($(#[$doc:meta])* $code:ident),* $(,)?) => {
        /// The closed list of failure codes, in kebab-case: the core's [`qcow2::Kind`], one to one,
        /// and what only a store's files can be.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "kebab-case")]
        #[cfg_attr(feature = "napi", napi_derive::napi(string_enum = "kebab-case"))]
        #[allow(missing_docs, reason = "each is documented at the core's `Kind`")]
        pub enum FailureCode {
            $($kind,)*
            $($(#[$doc])* $code,)*
        }

        impl From<qcow2::Kind> for FailureCode {
            fn from(kind: qcow2::Kind) -> Self {
                match kind {
                    $(qcow2::Kind::$kind => Self::$kind,)*
                }
            }
        }
    };
}

failure_codes! {
    core: NotFound, PermissionDenied, ReadOnly, NotAFile, WrongFormat, UnsupportedVersion,
    UnsupportedFeature, InvalidHeader, InvalidSnapshotTable, MarkedCorrupt, MarkedDirty, Corrupt,
    InUse, LocksUnsupported, Busy, Unsettled, NoSpace, Io, SnapshotNotFound,
    SnapshotExists, SnapshotAmbiguous, InvalidName, TooManySnapshots, RefcountOverflow, TooLarge,
    HasBitmaps, HasSnapshots, CannotShrink, TargetExists, CannotShare, InvalidArgument;
    store:
    /// Something else is where a directory should be.
    NotADirectory,
    /// The store belongs to somebody else, or others can write to it.
    NotOurs,
    /// A file that should be text is not UTF-8.
    NotText,
    /// Something is mounted on it.
    Mounted,
}
