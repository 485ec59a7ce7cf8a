//! Compiles the proto files without protoc and without a network, and keeps their descriptors for reflection.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    if env::var("CARGO_CFG_TARGET_OS")? == "linux" && env::var("CARGO_CFG_TARGET_ENV")? == "gnu" {
        // 600 KB of relocations, all read at each start, become 20. A linker that does not know it only warns.
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_files(["opencode/v1/opencode_service.proto"])?;
    let descriptors = compiler.file_descriptor_set();
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let mut rpcs = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let names = service.method.iter().map(|method| method.name());
            rpcs.extend(names.map(|name| format!("{}.{}/{name}", file.package(), service.name())));
        }
    }
    fs::write(out.join("rpcs.rs"), format!("&{rpcs:?}"))?;
    // Bytes instead of vectors: binary parts are handed on without a copy. Nothing here calls the service.
    tonic_prost_build::configure().build_client(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
