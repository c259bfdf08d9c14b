//! Checkpoints of PyTorch: zip archive, legacy layout, and the pickle in either.

use std::{
    collections::HashSet,
    fs,
    io::{Cursor, Write},
};

use convoy::weights::torch::TorchFile;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

/// The most numbers that are read of all tensors together: many tensors may share one storage.
const MAX_READ: usize = 1 << 20;

/// Bytes of the storage `0`, in the forms where the harness adds it.
const STORAGE: [u8; 256] = [0x3c; 256];

/// A first byte of 0: the file as it is. 1: a pickle, around which the harness puts an archive. Others: a pickle in the
/// legacy layout.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = super::form(data) else { return };
    let file = match form {
        0 => rest.to_vec(),
        1 => archive(rest),
        _ => legacy(rest),
    };
    super::scratch(|folder| {
        let path = folder.join("weights.pth");
        fs::write(&path, file).unwrap();
        let mut file = match TorchFile::open(&path) {
            Ok(file) => file,
            Err(error) => return super::bounded(&error),
        };
        let tensors = file.tensors().to_vec();
        let mut names = HashSet::new();
        let mut left = MAX_READ;
        for tensor in &tensors {
            assert!(names.insert(&tensor.name), "two tensors of one name");
            let Some(rest) = left.checked_sub(tensor.elements()) else { break };
            left = rest;
            let bytes = file.read(tensor).expect("a tensor that was found");
            assert_eq!(bytes.len(), tensor.elements() * (tensor.dtype.bitsize() / 8));
        }
    });
}

fn archive(pickle: &[u8]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, bytes) in [("a/data.pkl", pickle), ("a/byteorder", b"little"), ("a/data/0", &STORAGE)] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Magic number, protocol 1001, `{"little_endian": True}`, the pickle, `["0"]`, 64 numbers of four bytes.
fn legacy(pickle: &[u8]) -> Vec<u8> {
    let preamble: [&[u8]; 3] = [
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        b"\x80\x02M\xe9\x03.",
        b"\x80\x02}X\x0d\0\0\0little_endian\x88s.",
    ];
    [&preamble.concat(), pickle, b"\x80\x02]X\x01\0\0\x000a.", &64_u64.to_le_bytes(), &STORAGE].concat()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let fixtures = super::files("tests/pth", &[".pth"]).into_iter().filter(|file| file.len() <= 4 << 10);
    let mut seeds: Vec<_> = fixtures.map(|file| super::formed(0, file)).collect();
    let pickle = state_dict();
    seeds.extend([super::formed(1, &pickle), super::formed(2, &pickle), super::formed(0, archive(&pickle))]);
    seeds
}

/// `{"w": tensor of [2, 3] floats in storage "0"}`, in an OrderedDict, as torch writes it.
fn state_dict() -> Vec<u8> {
    [
        &b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n"[..],
        b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x40tQK\0K\x02K\x03\x86K\x03K\x01\x86\x89",
        b"ccollections\nOrderedDict\n)RtRu.",
    ]
    .concat()
}
