//! Writes a checkpoint the way `torch.save` did before PyTorch 1.6, without PyTorch: for networks too large to commit.

#![allow(unreachable_pub, reason = "a module of test binaries")]

use convoy::vision::arch::TensorSpec;

/// A legacy file of f32 tensors, as `torch.save` of a `state_dict` writes it.
pub fn legacy(tensors: &[(TensorSpec, Vec<f32>)]) -> Vec<u8> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.push(b'X');
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let number = |out: &mut Vec<u8>, number: usize| {
        out.push(b'J');
        out.extend((number as i32).to_le_bytes());
    };
    let mut out = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}".to_vec();
    text(&mut out, "little_endian");
    out.extend(b"\x88s.\x80\x02ccollections\nOrderedDict\n)R(");
    for (key, (spec, values)) in tensors.iter().enumerate() {
        text(&mut out, &spec.name);
        out.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut out, "storage");
        out.extend(b"ctorch\nFloatStorage\n");
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        number(&mut out, values.len());
        out.extend(b"NtQK\x00(");
        spec.shape.iter().for_each(|&size| number(&mut out, size));
        out.extend(b"t(");
        (0..spec.shape.len()).for_each(|axis| number(&mut out, spec.shape[axis + 1..].iter().product()));
        out.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    out.extend(b"u.\x80\x02](");
    (0..tensors.len()).for_each(|key| text(&mut out, &key.to_string()));
    out.extend(b"e.");
    for (_, values) in tensors {
        out.extend((values.len() as u64).to_le_bytes());
        out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    out
}
