//! A classifier's weights in a safetensors file: header, names, shapes, types, lengths.

use std::{
    fs::{self, File},
    io::Write,
};

use convoy::vision::{Arch, Checkpoint, weights::WeightsError};
use safetensors::tensor::Metadata;

/// The most bytes of numbers that a header may make the file have. They are a hole: nobody writes them.
const MAX_NUMBERS: usize = 1 << 30;

/// An even first byte: the file as it is. An odd one: a header, to which the harness adds its length and the numbers.
/// What is left of the byte picks the architecture that is asked for.
pub fn run(data: &[u8]) {
    let Some((form, rest)) = super::form(data) else { return };
    let arch = Arch::ALL.get(usize::from(form / 2)).copied();
    super::scratch(|folder| {
        let path = folder.join("weights.safetensors");
        let mut file = File::create(&path).unwrap();
        if form % 2 == 0 {
            file.write_all(rest).unwrap();
        } else {
            write_whole(&mut file, rest);
        }
        drop(file);
        match Checkpoint::open(&path, arch) {
            Ok(checkpoint) => {
                let info = checkpoint.info();
                assert!(arch.is_none_or(|arch| arch == info.arch) && info.classes > 0);
                // The numbers themselves are megabytes even for the smallest network.
                assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
            }
            Err(WeightsError::Read { source, .. }) => panic!("a file that is there: {source}"),
            Err(error) => super::bounded(&error),
        }
    });
}

fn write_whole(file: &mut File, header: &[u8]) {
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header).unwrap();
    // A first reading of the header by the crate that convoy reads it with, to learn how many bytes it wants.
    if let Ok(metadata) = serde_json::from_slice::<Metadata>(header) {
        let length = 8 + header.len() + metadata.data_len().min(MAX_NUMBERS);
        file.set_len(length as u64).unwrap();
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let tiny =
        br#"{"fc.weight":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"__metadata__":{"note":"x"}}"#;
    let whole = [&(tiny.len() as u64).to_le_bytes()[..], tiny, &[0; 8]].concat();
    vec![
        super::formed(0, whole),
        super::formed(0, b"PK\x03\x04"),
        super::formed(1, tiny),
        super::formed(1, header(Arch::ResNet18)),
        super::formed(255, header(Arch::EfficientNetLite0)),
    ]
}

/// The header of an architecture with one class, in half precision.
fn header(arch: Arch) -> String {
    let mut end = 0;
    let tensors = arch.layout(1).into_iter().filter(|spec| !spec.is_counter()).map(|spec| {
        let start = end;
        end += 2 * spec.elements();
        (spec.name, serde_json::json!({"dtype": "F16", "shape": spec.shape, "data_offsets": [start, end]}))
    });
    serde_json::Value::Object(tensors.collect()).to_string()
}
