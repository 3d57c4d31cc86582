//! Tells the linker that the addon's symbols come from the program that loads it.

fn main() {
    napi_build::setup();
}
