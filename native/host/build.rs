//! Compiles the bundled TypeScript to bytecode of the engine that will run it.
//!
//! Without the feature `bundle` there is nothing to compile, and no executable.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "bundle")]
    bundle::embed();
}

#[cfg(feature = "bundle")]
mod bundle {
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    use rquickjs::loader::{ImportAttributes, Loader, Resolver};
    use rquickjs::module::{Declared, WriteOptions};
    use rquickjs::{CatchResultExt, Context, Ctx, Module, Result, Runtime};

    /// Writes `modules.rs`, the table of all modules of the directory `CALQUE_BUNDLE`.
    pub fn embed() {
        println!("cargo::rerun-if-env-changed=CALQUE_BUNDLE");
        let bundle = PathBuf::from(env::var_os("CALQUE_BUNDLE").expect("CALQUE_BUNDLE is not set"));
        println!("cargo::rerun-if-changed={}", bundle.display());
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));

        let mut names: Vec<String> = fs::read_dir(&bundle)
            .expect("the bundle is a directory")
            .map(|entry| entry.expect("it can be listed").file_name())
            .map(|name| name.into_string().expect("its names are UTF-8"))
            .filter(|name| Path::new(name).extension().is_some_and(|e| e == "js"))
            .collect();
        names.sort();

        let mut table = String::from("&[\n");
        for name in names {
            let source = fs::read(bundle.join(&name)).expect("the bundle can be read");
            let bytecode = out.join(&name).with_extension("bytecode");
            fs::write(&bytecode, compile(&name, source)).expect("OUT_DIR can be written");
            writeln!(table, "    ({name:?}, include_bytes!({bytecode:?})),").expect("a string");
        }
        table.push_str("]\n");
        fs::write(out.join("modules.rs"), table).expect("OUT_DIR can be written");
    }

    /// The bytecode of one module, with what stack traces need and without its source.
    fn compile(name: &str, source: Vec<u8>) -> Vec<u8> {
        let runtime = Runtime::new().expect("an engine");
        runtime.set_loader(Anything, Anything);
        let context = Context::full(&runtime).expect("a context");
        context.with(|ctx| {
            let module = Module::declare(ctx.clone(), name, source)
                .catch(&ctx)
                .unwrap_or_else(|error| panic!("cannot compile {name}: {error}"));
            let options = WriteOptions { strip_source: true, ..WriteOptions::default() };
            module.write(options).expect("compiled modules can be written")
        })
    }

    /// The engine asks for imported modules while it compiles, but does not look into them.
    struct Anything;

    impl Resolver for Anything {
        fn resolve<'js>(
            &mut self,
            _: &Ctx<'js>,
            _: &str,
            name: &str,
            _: Option<ImportAttributes<'js>>,
        ) -> Result<String> {
            Ok(name.to_owned())
        }
    }

    impl Loader for Anything {
        fn load<'js>(
            &mut self,
            ctx: &Ctx<'js>,
            name: &str,
            _: Option<ImportAttributes<'js>>,
        ) -> Result<Module<'js, Declared>> {
            Module::declare(ctx.clone(), name, "")
        }
    }
}
