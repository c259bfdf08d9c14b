//! Puts the device kernels into one text and, where NVIDIA's compiler is at hand, compiles it beforehand for every GPU that is
//! supported, so that a start needs no compiler. Without one nothing is missing: the text is then compiled at the start.
//!
//! The compiler is `$NVCC`, else `nvcc` of `$CUDA_HOME`, of the `PATH` or of `/usr/local/cuda`; `NVCC=` (empty) means none.

use std::{
    env,
    error::Error,
    ffi::OsString,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// In the order in which they are one text.
const SOURCES: [&str; 9] = [
    "common.cuh",
    "pack.cu",
    "resize.cu",
    "pool.cu",
    "convolution.cu",
    "small.cu",
    "check.cu",
    "prefetch.cu",
    "top.cu",
];

/// Turing, Ampere (two), Ada, Hopper.
const ARCHITECTURES: [u32; 5] = [75, 80, 86, 89, 90];

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let mut text = String::new();
    for name in SOURCES {
        println!("cargo::rerun-if-changed={name}");
        write!(text, "#line 1 \"{name}\"\n{}", fs::read_to_string(name)?)?;
    }
    for name in ["NVCC", "CUDA_HOME"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let (source, fatbin) = (out.join("convoy.cu"), out.join("convoy.fatbin"));
    fs::write(&source, text)?;
    // The file is there in any case, for `include_bytes!`.
    fs::write(&fatbin, "")?;
    let Some(nvcc) = nvcc() else { return Ok(()) };
    println!("cargo::rerun-if-changed={}", nvcc.display());
    if let Err(error) = compile(&nvcc, &source, &fatbin) {
        fs::write(&fatbin, "")?;
        let what = "the GPU's kernels are not compiled beforehand, but at each start";
        println!("cargo::warning={what}: {}: {}", nvcc.display(), error.to_string().replace('\n', "; "));
    }
    Ok(())
}

fn nvcc() -> Option<PathBuf> {
    let given = |path: OsString| Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = env::var_os("NVCC") {
        return given(path);
    }
    let home = env::var_os("CUDA_HOME").and_then(given).map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = home.into_iter().chain(env::split_paths(&path)).chain(["/usr/local/cuda/bin".into()]);
    folders.map(|folder| folder.join("nvcc")).find(|path| path.is_file())
}

fn compile(nvcc: &Path, source: &Path, fatbin: &Path) -> Result<(), Box<dyn Error>> {
    let targets = ARCHITECTURES.map(|number| format!("-gencode=arch=compute_{number},code=sm_{number}"));
    let mut command = Command::new(nvcc);
    command.args(["-fatbin", "--std=c++17", "--threads=0"]).args(targets).arg("-o").arg(fatbin).arg(source);
    let done = command.output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(format!("{}: {last}", done.status).into())
}
