//! Compiles `proto/` to Rust, and to the descriptors that reflection answers with.

use std::{env, error::Error, fs, path::Path};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["inference.proto"], ["proto"])?;
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(Path::new(&out).join("inference.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::grpc::codec::Bounded")
        .bytes(".inference.InferTensorContents")
        .bytes(".inference.ModelInferRequest")
        .bytes(".inference.ModelInferResponse")
        .compile_fds(descriptors)?;
    Ok(())
}
