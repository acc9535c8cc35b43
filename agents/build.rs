//! Compiles the device API's `.proto` files to Rust, without `protoc`.
//!
//! In: `src/wire/proto/*.proto`. Out, in `OUT_DIR`: `wire.rs` (the messages, in modules named after their
//! packages) and `wire.descriptors` (the encoded `FileDescriptorSet`, for whoever needs the names of the fields:
//! the JSON view of the controller simulator).

#![allow(clippy::disallowed_methods, reason = "a build script has no seam")]

use std::error::Error;
use std::path::{Path, PathBuf};

use prost::Message;

const PROTO_FOLDER: &str = "src/wire/proto";
const PROTO_FILES: [&str; 4] = ["common.proto", "auth.proto", "config.proto", "info.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_FOLDER}");
    println!("cargo:rerun-if-changed=build.rs");
    let out_folder = PathBuf::from(std::env::var("OUT_DIR")?);
    let sources = PROTO_FILES.map(|name| Path::new(PROTO_FOLDER).join(name));

    let descriptors = protox::compile(sources, [PROTO_FOLDER])?;
    std::fs::write(out_folder.join("wire.descriptors"), descriptors.encode_to_vec())?;

    prost_build::Config::new()
        .enable_type_names()
        .out_dir(&out_folder)
        .include_file("wire.rs")
        .compile_fds(descriptors)?;
    Ok(())
}
