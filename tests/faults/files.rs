//! Files that are replaced, cut short, deleted or damaged under a running server, and disks that are full under commands that
//! write.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::Command,
};

use convoy::vision::Arch;
use reqwest::Client;
use serde_json::Value;

use crate::{
    crowd::{Crowd, Kind, failed, told},
    support::{Server, config, random_weights},
};

async fn load(server: &Server, model: &str) -> (u16, String) {
    let url = server.url(&format!("/v2/repository/models/{model}/load"));
    let response = Client::new().post(url).body("{}").send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

fn truncate(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[tokio::test]
async fn files_that_change_under_the_server_change_no_answer_and_bad_ones_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = config();
    settings.http.admin = true;
    let (weights, faq) = (folder.path().join("resnet18.safetensors"), folder.path().join("faq.safetensors"));
    let photos = settings.photos.as_mut().unwrap();
    fs::copy(&photos.classifier.weights, &weights).unwrap();
    photos.classifier.weights = weights.clone();
    let questions = settings.faq.as_mut().unwrap();
    fs::copy(&questions.model, &faq).unwrap();
    questions.model = faq.clone();
    let good = [fs::read(&weights).unwrap(), fs::read(&faq).unwrap()];
    let server = Server::start(&settings);
    let crowd = Crowd::gather(&server.url("")).await;
    let files = [("resnet18", &weights, &good[0], Kind::Photo), ("faq", &faq, &good[1], Kind::Question)];
    for (model, path, good, kind) in files {
        let length = good.len() as u64;
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 0x40;
        let damages: [(&str, &dyn Fn()); 7] = [
            ("truncated in place to nothing", &|| truncate(path, 0)),
            ("truncated in place to half", &|| {
                fs::write(path, good).unwrap();
                truncate(path, length / 2);
            }),
            ("a byte short", &|| {
                fs::write(path, good).unwrap();
                truncate(path, length - 1);
            }),
            ("overwritten with noise", &|| fs::write(path, vec![0xa5; good.len()]).unwrap()),
            ("grown", &|| fs::write(path, [good.as_slice(), b"more"].concat()).unwrap()),
            ("another network's", &|| {
                let (_folder, other) = random_weights(Arch::EfficientNetLite0);
                fs::copy(other, path).map(drop).unwrap();
                truncate(path, 4096);
            }),
            ("deleted", &|| fs::remove_file(path).unwrap()),
        ];
        for (what, damage) in damages {
            damage();
            crowd.until(kind, 200, "ok", 5).await;
            let (status, answer) = load(&server, model).await;
            assert_eq!(status, 422, "{model} {what}: {answer}");
            let message: Value = serde_json::from_str(&answer).unwrap();
            let message = message["error"].as_str().unwrap();
            assert!(message.contains("goes on") && message.contains(".safetensors"), "{message}");
            let seen = crowd.until(kind, 200, "ok", 5).await;
            assert_eq!(failed(&seen), 0, "{}", told(&seen));
            eprintln!("| {model}: {what} | {} | load: {status} `{message}` |", told(&seen));
        }
        fs::write(path, good).unwrap();
        assert_eq!(load(&server, model).await.0, 200);
        crowd.until(kind, 200, "ok", 5).await;
    }
    crowd.stop().await;
}

/// Runs a command that may write `blocks` of 512 bytes to any file, as on a disk that is full after them.
fn on_a_full_disk(blocks: u32, arguments: &[&str]) -> (Option<i32>, String) {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_convoy")]).args(arguments);
    let output = command.env("CONVOY_LOG", "warn").output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_full_disk_leaves_what_was_there_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let target = out.to_str().unwrap();
    let (_other, weights) = random_weights(Arch::ResNet18);
    let data = |name: &str| format!("{}/weights/faq/{name}", env!("CARGO_MANIFEST_DIR"));
    let [questions, duplicates] = ["questions.tsv", "heldout.tsv"].map(data);
    let train = ["faq", "train", "--questions", &questions, "--duplicates", &duplicates, "--out", target];
    let commands: [&[&str]; 4] = [
        &["weights", "convert", weights.to_str().unwrap(), target],
        &["weights", "random", "resnet18", "--out", target],
        &train,
        &["keys", "new", "another", "--file", target],
    ];
    let keys = {
        let made = Command::new(env!("CARGO_BIN_EXE_convoy"))
            .args(["keys", "new", "first", "--file", target])
            .output()
            .unwrap();
        assert!(made.status.success());
        fs::read(&out).unwrap()
    };
    for command in commands {
        fs::write(&out, &keys).unwrap();
        // A file of keys is smaller than any block.
        let blocks = if command[0] == "keys" { 0 } else { 64 };
        let (code, said) = on_a_full_disk(blocks, command);
        assert_eq!(code, Some(1), "{command:?}: {said}");
        assert!(said.contains(target) && said.contains("File too large"), "{command:?}: {said}");
        assert_eq!(fs::read(&out).unwrap(), keys, "{command:?} touched what was there");
        let left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["out.safetensors"], "{command:?}");
        eprintln!("| {} {} | {} |", command[0], command[1], said.trim());
    }
}

#[test]
fn an_output_that_is_a_device_is_not_replaced_by_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let target = pipe.to_str().unwrap();
    let (_other, weights) = random_weights(Arch::ResNet18);
    let data = |name: &str| format!("{}/weights/faq/{name}", env!("CARGO_MANIFEST_DIR"));
    let [questions, duplicates] = ["questions.tsv", "duplicates.tsv"].map(data);
    let train = ["faq", "train", "--questions", &questions, "--duplicates", &duplicates, "--out", target];
    let commands: [&[&str]; 3] = [
        &["weights", "convert", weights.to_str().unwrap(), target],
        &["weights", "random", "resnet18", "--out", target],
        &train,
    ];
    for command in commands {
        let (code, said) = on_a_full_disk(1 << 20, command);
        assert_eq!(code, Some(64), "{command:?}: {said}");
        assert!(said.contains(target), "{command:?}: {said}");
        let kind = std::os::unix::fs::FileTypeExt::is_fifo(&fs::metadata(&pipe).unwrap().file_type());
        assert!(kind, "{command:?} put a file in the place of a pipe");
    }
}
