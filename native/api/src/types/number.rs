//! Numbers as both doors take them: whole, not negative, exact.
//!
//! A JavaScript number is a double. Node-API by itself cuts 1.5 down to 1 and wraps -1, the other
//! door refuses them, and a plain `u64` would be a bigint through one and a rounded number through
//! the other. Hence types of our own, which refuse what they cannot hold exactly.

use serde::{Deserialize, Serialize};

/// The largest integer up to which every one is exact in a double.
#[cfg(feature = "napi")]
const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $max:expr) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }

        impl From<$name> for $inner {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        #[cfg(feature = "napi")]
        napi_number!($name($inner), $max);
    };
}

/// What Node-API needs to know of a number, checked as strictly as serde does it.
#[cfg(feature = "napi")]
macro_rules! napi_number {
    ($name:ident($inner:ty), $max:expr) => {
        impl napi::bindgen_prelude::TypeName for $name {
            fn type_name() -> &'static str {
                stringify!($name)
            }

            fn value_type() -> napi::ValueType {
                napi::ValueType::Number
            }
        }

        impl napi::bindgen_prelude::ValidateNapiValue for $name {}

        #[allow(unsafe_code, reason = "the trait's only method is unsafe")]
        impl napi::bindgen_prelude::FromNapiValue for $name {
            unsafe fn from_napi_value(
                env: napi::sys::napi_env,
                value: napi::sys::napi_value,
            ) -> napi::Result<Self> {
                // SAFETY: the caller's promise about `env` and `value` is passed on as it is.
                let number = unsafe { f64::from_napi_value(env, value)? };
                whole(number, $max).and_then(|n| <$inner>::try_from(n).ok()).map(Self).ok_or_else(
                    || {
                        napi::Error::new(
                            napi::Status::InvalidArg,
                            format!("expected a whole number up to {}, not {number}", $max),
                        )
                    },
                )
            }
        }

        #[allow(unsafe_code, reason = "the trait's only method is unsafe")]
        impl napi::bindgen_prelude::ToNapiValue for $name {
            #[allow(clippy::cast_precision_loss, reason = "beyond 2^53 both doors round alike")]
            #[allow(clippy::cast_lossless, reason = "one of the numbers is wider than 32 bits")]
            unsafe fn to_napi_value(
                env: napi::sys::napi_env,
                value: Self,
            ) -> napi::Result<napi::sys::napi_value> {
                // SAFETY: the caller's promise about `env` is passed on as it is.
                unsafe { f64::to_napi_value(env, value.0 as f64) }
            }
        }
    };
}

/// The integer that `number` is, if it is one from 0 to `max`.
#[cfg(feature = "napi")]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the range is checked first, and `max` is exact in a double"
)]
fn whole(number: f64, max: u64) -> Option<u64> {
    (number.fract() == 0.0 && number >= 0.0 && number <= max as f64).then_some(number as u64)
}

number!(
    /// A size or a file offset in bytes, or a count that may grow as large.
    Bytes(u64), MAX_SAFE_INTEGER
);
number!(
    /// A whole number that fits 32 bits: a cluster size, a number of bits, a time in seconds.
    Whole(u32), u64::from(u32::MAX)
);
