//! The table of models known by name, in TOML.

use std::path::Path;

use convoy::weights::manifest::Manifest;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(manifest) = toml::from_str::<Manifest>(text) else { return };
    for model in &manifest.models {
        assert_eq!(manifest.get(&model.name).unwrap().name, model.name);
        if let Ok(arch) = model.arch() {
            let preprocessing = model.preprocessing(arch.preprocessing());
            assert!(model.transform_text().contains(&preprocessing.short_side.to_string()));
        }
        for origin in &model.origins {
            assert!(origin.place.to_string().len() <= text.len() + 5);
        }
    }
    let _nothing_known = manifest.of_file(Path::new("a/b.safetensors"));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let model = r#"
[[model]]
name = "a"
about = "b"
arch = "resnet18"
short_side = 232
filter = "bilinear"
licence = "MIT"
[[model.origin]]
hub = "o/n"
file = "f"
sha256 = "abcdef01"
bytes = 5
[[model.origin]]
url = "https://a/f"
file = "f"
[[encoder]]
name = "e"
about = "b"
licence = "MIT"
pypi = "p==1"
folder = "f"
hub = "o/n"
[[encoder.file]]
name = "config.json"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
bytes = 5
"#;
    vec![model.as_bytes().to_vec()]
}
