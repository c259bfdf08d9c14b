//! The binary as an operator meets it: what it says about files it cannot use, its exit codes, its end on SIGTERM.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use serde_json::{Value, json};
use support::{config, photo};

fn convoy(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convoy"));
    command.args(arguments).env("CONVOY_LOG_FORMAT", "json").env("CONVOY_LOG", "info");
    command
}

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = convoy(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_bad_configuration_exits_64_and_names_every_problem() {
    let (code, _, stderr) =
        run(&["serve", "--weights", "/nowhere/w", "--max-batch", "0", "--faq-queue", "0"]);
    assert_eq!(code, Some(64), "{stderr}");
    for part in ["--weights /nowhere/w", "--max-batch is 0", "--faq-queue is 0"] {
        assert!(stderr.contains(part), "{part} missing from {stderr}");
    }
    assert_eq!(run(&["serve", "--no-such-flag"]).0, Some(64));
    assert_eq!(run(&["--log", "=%", "faq", "ask", "x"]).0, Some(64));
    assert_eq!(run(&["--version"]).0, Some(0));
}

#[test]
fn unusable_weights_end_the_start_with_a_sentence_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let good = fs::read(config().photos.unwrap().classifier.weights).unwrap();
    for (name, bytes, expected) in [
        ("empty", Vec::new(), "empty"),
        ("text", b"these are not the weights you are looking for".to_vec(), "safetensors"),
        ("cut", good[..good.len() / 2].to_vec(), "truncated"),
        ("lying-header", [&u64::MAX.to_le_bytes()[..], &good[8..200]].concat(), "safetensors"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        refuse(&["serve", "--services", "photos", "--weights", text(&path)], &[name, expected]);
    }
    let weights = config().photos.unwrap().classifier.weights;
    let as_152 = ["serve", "--services", "photos", "--arch", "resnet152", "--weights", text(&weights)];
    refuse(&as_152, &["resnet18.safetensors", "resnet152", "layer1.0.conv3.weight", "layer1.0.conv1.weight"]);
    let model = folder.path().join("text");
    refuse(&["serve", "--services", "faq", "--faq-model", text(&model)], &["text"]);
}

fn refuse(arguments: &[&str], parts: &[&str]) {
    let (code, _, stderr) = run(arguments);
    assert_eq!(code, Some(1), "{stderr}");
    let last =
        stderr.lines().rfind(|line| line.starts_with("convoy: ")).unwrap_or_else(|| panic!("{stderr}"));
    for part in parts {
        assert!(stderr[stderr.find(last).unwrap()..].contains(part), "{part} missing from {stderr}");
    }
    assert!(!stderr.contains("panic"), "{stderr}");
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let faq = config().faq.unwrap().model;
    let (code, _, stderr) =
        run(&["serve", "--services", "faq", "--faq-model", text(&faq), "--bind", &address]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");
}

/// A serving process and the address it announced.
struct Process {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", &[&["--lame-duck-ms", "50"], args].concat())
    }

    fn start_at(address: &str, args: &[&str]) -> Self {
        let mut child =
            convoy(&["serve", "--bind", address]).args(args).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut process = Self { child, address: String::new(), log };
        process.address = process.wait_for("serving")["address"].as_str().unwrap().to_owned();
        process
    }

    /// The next event of the log with this message.
    fn wait_for(&mut self, message: &str) -> Value {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["message"] == message {
                return event;
            }
            line.clear();
        }
        panic!("the server ended before it said {message:?}");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Exit code and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code(), rest)
    }
}

#[tokio::test]
async fn sigterm_finishes_what_is_in_hand_and_exits_0() {
    for signal in ["-TERM", "-INT"] {
        let settings = config();
        let (weights, faq) = (settings.photos.unwrap().classifier.weights, settings.faq.unwrap().model);
        let process =
            Process::start(&["--max-batch", "2", "--weights", text(&weights), "--faq-model", text(&faq)]);
        let client = reqwest::Client::new();
        let asks: Vec<_> = (0..8)
            .map(|index| {
                let url = format!("http://{}/classify", process.address);
                tokio::spawn(client.post(url).body(photo(index)).send())
            })
            .collect();
        // The server has begun: the first answer is there.
        let url = format!("http://{}/classify", process.address);
        assert!(client.post(url).body(photo(9)).send().await.unwrap().status().is_success());
        process.signal(signal);
        for ask in asks {
            assert!(ask.await.unwrap().unwrap().status().is_success());
        }
        drop(client);
        let (code, log) = process.end();
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains("every request answered"), "{log}");
    }
}

#[test]
fn ready_ends_with_what_the_server_says_of_itself() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (code, _, stderr) = run(&["ready", "--bind", &free]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains(&format!("http://{free}/readyz does not answer")), "{stderr}");

    let mut waits = convoy(&["ready", "--wait", "2m", "--bind", &free]).spawn().unwrap();
    let faq = config().faq.unwrap().model;
    let serve = ["--services", "faq", "--faq-model", text(&faq), "--lame-duck-ms", "60000"];
    let mut process = Process::start_at(&free, &serve);
    assert_eq!(waits.wait().unwrap().code(), Some(0));

    let url = format!("http://{free}/");
    assert_eq!(run(&["ready", "--live", &url]), (Some(0), String::new(), String::new()));
    let (code, _, stderr) = run(&["ready", &format!("{url}faq")]);
    assert!(code == Some(1) && stderr.contains("is it a convoy server?"), "{stderr}");

    process.signal("-TERM");
    process.wait_for("not ready, still serving");
    let asked = |more: &[&str]| run(&[&["ready", "--wait", "300ms", "--bind", &free], more].concat());
    let (code, _, stderr) = asked(&[]);
    assert!(code == Some(1) && stderr.contains("/readyz: the server is draining"), "{stderr}");
    assert_eq!(asked(&["--live"]).0, Some(0));
    process.signal("-TERM");
    assert_eq!(process.end().0, Some(1));
    assert_eq!(run(&["ready", "--bind", "127.0.0.1:0"]).0, Some(64));
}

#[test]
fn sighup_reloads_the_faq_model_and_says_what_came_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("faq.safetensors");
    std::fs::copy(config().faq.unwrap().model, &model).unwrap();
    let mut process = Process::start(&["--services", "faq", "--faq-model", text(&model)]);
    process.signal("-HUP");
    process.wait_for("FAQ model reloaded");
    std::fs::write(&model, "damaged").unwrap();
    process.signal("-HUP");
    let event = process.wait_for("model not loaded, what served before goes on");
    assert!(event["error"].as_str().unwrap().contains("faq.safetensors"), "{event}");
    process.signal("-TERM");
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn faq_questions_are_answered_from_the_terminal() {
    let faq = config().faq.unwrap().model;
    let (code, stdout, stderr) =
        run(&["faq", "ask", "--model", text(&faq), "--top", "2", "my array of numbers sorts 10 before 9"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("sort") && stdout.matches('%').count() >= 2, "{stdout}");
}

#[test]
fn matches_come_as_json_with_the_text_that_asks_nothing_known_marked() {
    let faq = config().faq.unwrap().model;
    let ask = |question| {
        let (code, stdout, stderr) =
            run(&["faq", "ask", "--json", "--model", text(&faq), "--top", "2", question]);
        assert_eq!(code, Some(0), "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()
    };
    let known = ask("my array of numbers sorts 10 before 9");
    assert_eq!((&known["in_scope"], known["matches"].as_array().unwrap().len()), (&json!(true), 2));
    for member in ["id", "answer_id", "probability", "question", "answer"] {
        assert!(!known["matches"][0][member].is_null(), "{member} missing from {known}");
    }
    assert_eq!(ask("which wine goes with roast lamb on a sunday")["in_scope"], json!(false));
}

#[tokio::test]
async fn photos_are_classified_in_the_terminal_as_the_server_does_it() {
    let settings = config();
    let weights = settings.photos.as_ref().unwrap().classifier.weights.clone();
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..10).map(|index| folder.path().join(format!("{index}.png"))).collect();
    for (index, file) in (0..).zip(&files) {
        fs::write(file, photo(index)).unwrap();
    }
    let names: Vec<&str> = files.iter().map(|file| text(file)).collect();
    let (code, stdout, stderr) =
        run(&[&["classify", "--json", "--top", "2", "--weights", text(&weights)], names.as_slice()].concat());
    assert_eq!(code, Some(0), "{stderr}");
    let answers: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), files.len());
    let server = support::Server::start(&settings);
    for (index, (answer, name)) in (0..).zip(answers.iter().zip(&names)) {
        assert_eq!((&answer["file"], &answer["model"]), (&json!(name), &json!("resnet18")));
        let asked = reqwest::Client::new().post(server.url("/classify?top=2")).body(photo(index)).send();
        let served: Value = asked.await.unwrap().json().await.unwrap();
        let classes = |value: &Value| -> Vec<Value> {
            value["predictions"].as_array().unwrap().iter().map(|found| found["class"].clone()).collect()
        };
        assert_eq!(classes(answer), classes(&served), "{answer} {served}");
    }
    let broken = folder.path().join("broken.jpg");
    fs::write(&broken, "no picture").unwrap();
    let (code, stdout, stderr) =
        run(&["classify", text(&broken), names[0], "/nowhere.jpg", "--weights", text(&weights)]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("2 of 3 photos could not be classified"), "{stderr}");
    assert_eq!(stdout.matches("error: ").count(), 2, "{stdout}");
    assert_eq!(stdout.matches(" %  ").count(), 5, "the good one is answered: {stdout}");
    let (code, _, stderr) = run(&["classify", "x.jpg", "--weights", "/nowhere/w", "--short-side", "1"]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("--weights /nowhere/w") && stderr.contains("--short-side is 1"), "{stderr}");
}

#[test]
fn shells_and_man_learn_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, stderr) = run(&["completions", shell]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(script.contains("convoy") && script.contains("faq-embeddings"), "{shell}: {script}");
    }
    assert_eq!(run(&["completions", "abacus"]).0, Some(64));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", "--out", text(folder.path())]).0, Some(0));
    for (page, part) in
        [("convoy.1", "Exit codes"), ("convoy-serve.1", "CONVOY_BIND"), ("convoy-faq-ask.1", "question")]
    {
        let page = fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(page.contains(".TH") && page.contains(part), "{part} missing from {page}");
    }
    assert!(run(&["man"]).1.contains(".TH convoy"));
}

#[test]
fn random_weights_are_made_verified_and_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r18.safetensors");
    assert_eq!(run(&["weights", "random", "resnet18", "--classes", "7", "--out", text(&path)]).0, Some(0));
    let (code, stdout, stderr) = run(&["weights", "verify", text(&path)]);
    assert_eq!(code, Some(0), "{stderr}");
    for part in ["network  resnet18, 7 classes", "tensors  122,", "random   yes"] {
        assert!(stdout.contains(part), "{part} missing from {stdout}");
    }
}

#[test]
fn a_plan_prints_as_a_table_and_as_json() {
    let (code, table, stderr) = run(&["plan", "resnet152"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(table.lines().count(), 3 + 158 + 1);
    let (_, json, _) = run(&["plan", "resnet152", "--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let steps = json["steps"].as_array().unwrap();
    for (step, line) in steps.iter().zip(table.lines().skip(3)) {
        for part in ["name", "operation", "kernel"] {
            assert!(line.contains(step[part].as_str().unwrap()), "{step} {line}");
        }
    }
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    let last = step("layer3.20.conv3");
    assert_eq!(last["operation"], "conv 1x1/1 bias shortcut relu");
    assert_eq!((&last["input"], &last["output"]), (&json!([14, 14, 256]), &json!([14, 14, 1024])));
    assert_eq!((&last["macs"], &last["weight_bytes"]), (&json!(51_380_224), &json!(4 * (1024 * 256 + 1024))));
    for (name, kernel) in [
        ("conv1", "rows"),
        ("maxpool", "max-pool"),
        ("layer3.20.conv1", "pointwise"),
        ("layer3.20.conv2", "winograd"),
        ("layer3.0.conv2", "implicit"),
        ("avgpool", "average"),
        ("fc", "pointwise"),
    ] {
        assert_eq!(step(name)["kernel"], kernel, "{name}");
    }
    for total in ["macs", "weight_bytes"] {
        let sum: u64 = steps.iter().map(|step| step[total].as_u64().unwrap()).sum();
        assert_eq!(json[total], sum, "{total}");
    }
    let (_, lite, _) = run(&["plan", "efficientnet-lite0", "--classes", "7"]);
    assert!(lite.contains("depthwise 5x5/2 bias relu6") && lite.contains("1x1x7"), "{lite}");
    assert_eq!(run(&["plan", "resnet20"]).0, Some(64));
    assert_eq!(run(&["plan", "resnet18", "--classes", "0"]).0, Some(64));
}

#[test]
fn keys_are_made_once_and_only_their_digests_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.toml");
    let new = |more: &[&str]| run(&[&["keys", "new"], more].concat());
    let in_file = ["--file", text(&file)];
    let (code, first, stderr) = new(&[&["web", "--rate", "5", "--expires", "30d"][..], &in_file].concat());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let (code, second, _) =
        new(&[&["web", "--scope", "score,admin", "--weight", "2"][..], &in_file].concat());
    assert_eq!(code, Some(0));
    for key in [&first, &second] {
        assert!(key.starts_with("cvy_") && key.trim_end().len() == 47 && key.lines().count() == 1, "{key}");
    }
    assert_ne!(first, second);
    let held = fs::read_to_string(&file).unwrap();
    assert!(!held.contains("cvy_") && held.matches("[[key]]").count() == 2, "{held}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    let (code, listed, _) = run(&["keys", "check", text(&file)]);
    assert!(code == Some(0) && listed.contains("score admin") && listed.ends_with("2 keys\n"), "{listed}");

    let (code, printed, _) = new(&["once"]);
    let (key, entry) = printed.split_once("\n\n").unwrap();
    assert!(code == Some(0) && key.starts_with("cvy_") && entry.starts_with("[[key]]"), "{printed}");
    fs::write(&file, format!("{held}\n{entry}weight = 0\n")).unwrap();
    let (code, _, stderr) = run(&["keys", "check", text(&file)]);
    assert!(code == Some(1) && stderr.contains("key `once`") && stderr.contains("`weight`"), "{stderr}");
    let (code, printed, stderr) = new(&[&["more"][..], &in_file].concat());
    assert!(code == Some(1) && printed.is_empty() && stderr.contains("`once`"), "{stderr}");
    for (wrong, part) in [
        (&["a b"][..], "letters"),
        (&["web", "--scope", "all"], "score, admin or metrics"),
        (&["web", "--weight", "0"], "`weight`"),
        (&["web", "--burst", "3"], "--rate"),
        (&["web", "--expires", "soon"], "90d"),
    ] {
        let (code, printed, stderr) = new(wrong);
        assert!(code == Some(64) && printed.is_empty() && stderr.contains(part), "{wrong:?}: {stderr}");
    }
}
