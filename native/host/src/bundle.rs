//! Where modules come from: a table of bytecode inside the executable.

use rquickjs::loader::{self, ImportAttributes};
use rquickjs::module::Declared;
use rquickjs::{Ctx, Error, Module, Result};

use crate::world;

/// The modules of the executable: name and bytecode.
pub type Bundle = &'static [(&'static str, &'static [u8])];

/// Where modules come from.
pub enum Source {
    /// Bytecode that the build script of this crate compiled.
    Bundle(Bundle),
    /// One module of that name, as JavaScript text; how the tests come in.
    Text(&'static str, String),
}

impl From<Bundle> for Source {
    fn from(bundle: Bundle) -> Self {
        Self::Bundle(bundle)
    }
}

/// Names modules: the bundle is flat, so `./chunk.js` is `chunk.js` wherever it is imported.
pub struct Resolver;

impl loader::Resolver for Resolver {
    fn resolve<'js>(
        &mut self,
        _: &Ctx<'js>,
        _: &str,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> Result<String> {
        Ok(name.strip_prefix("./").unwrap_or(name).to_owned())
    }
}

/// Loads modules by the name that [`Resolver`] gave them.
pub struct Loader(pub Source);

impl loader::Loader for Loader {
    fn load<'js>(
        &mut self,
        ctx: &Ctx<'js>,
        name: &str,
        _: Option<ImportAttributes<'js>>,
    ) -> Result<Module<'js, Declared>> {
        if name == world::MODULE {
            return Module::declare_def::<world::World, _>(ctx.clone(), name);
        }
        match &self.0 {
            Source::Text(known, text) if *known == name => {
                Module::declare(ctx.clone(), name, text.as_str())
            }
            Source::Text(..) => Err(Error::new_loading(name)),
            Source::Bundle(bundle) => {
                let (_, bytecode) = bundle
                    .iter()
                    .find(|(other, _)| *other == name)
                    .ok_or_else(|| Error::new_loading(name))?;
                // SAFETY: the build script of this crate made these bytes, with the same version
                // of the engine, and they live as long as the process.
                #[allow(unsafe_code, reason = "the engine trusts its bytecode")]
                unsafe {
                    Module::load(ctx.clone(), bytecode)
                }
            }
        }
    }
}
