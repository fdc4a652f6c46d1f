//! Compiles `proto/` without protoc: messages, clients and servers by tonic, JSON names by pbjson, and the
//! descriptor set that reflection, manifests and releases use.

use std::{env, fs, io::Result, path::PathBuf};

use prost::Message as _;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let mut protos = Vec::new();
    for package in ["proto/clone8s/v1", "proto/clone8s/runtime/v1"] {
        for entry in fs::read_dir(package)? {
            protos.push(entry?.path());
        }
    }
    protos.retain(|path: &PathBuf| path.extension().is_some_and(|ext| ext == "proto"));
    protos.sort();
    protos.push("proto/runtime/v1/api.proto".into());

    let set = protox::Compiler::new(["proto"])
        .and_then(|mut compiler| {
            compiler
                .include_imports(true)
                .include_source_info(true)
                .open_files(&protos)
                .map(|c| c.file_descriptor_set())
        })
        .map_err(std::io::Error::other)?;
    let descriptors = set.encode_to_vec();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("descriptors.bin"), &descriptors)?;
    // What manifests are held to, and nothing else, since it is decoded now and then.
    let mut objects = set.clone();
    objects.file.retain(|file| {
        file.service.is_empty() && ["clone8s.v1", "google.protobuf"].contains(&file.package())
    });
    for file in &mut objects.file {
        file.source_code_info = None;
    }
    fs::write(out.join("objects.bin"), objects.encode_to_vec())?;

    tonic_prost_build::configure()
        // A client may know fewer calls than its server and the other way round: what a server does not
        // implement answers UNIMPLEMENTED instead of failing to compile.
        .generate_default_stubs(true)
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(".")
        .bytes(".")
        // Most pods have none, and every one that is held would have the room for it.
        .boxed(".clone8s.v1.PodSpec.security_context")
        // These hold secrets; `src/redacted.rs` shows them without.
        .skip_debug([
            ".clone8s.v1.Secret",
            ".clone8s.v1.BackUpStoreResponse",
            ".clone8s.v1.BackupEntry",
            ".clone8s.v1.BackupHeader",
            ".clone8s.v1.CreateJoinTokenResponse",
            ".clone8s.v1.RegisterNodeRequest",
            ".runtime.v1.AuthConfig",
        ])
        .compile_fds(set)?;

    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .btree_map(["."])
        .build(&[".clone8s.v1"])?;
    Ok(())
}
