//! The order of calls, on functions that write down that they were called. Pictures are `tests/nvjpeg.rs`'s.

use std::cell::RefCell;

use cudarc::driver::sys::CUresult;

use super::super::library::{Driver, Handle, State, Stream};
use super::*;

const HANDLE: usize = 0x100;
const STATE: usize = 0x200;
const PARSER: usize = 0x300;
const CONTEXT: usize = 0x400;
const STREAM: usize = 0x500;

/// What the functions are to do, and what they were asked.
#[derive(Default)]
struct Scene {
    log: Vec<String>,
    present: bool,
    context: bool,
    version: [c_int; 3],
    /// The function that fails, and with what.
    fails: Option<(&'static str, c_int)>,
}

thread_local! {
    static SCENE: RefCell<Scene> = RefCell::default();
}

fn note(name: &'static str, told: impl std::fmt::Display) -> c_int {
    SCENE.with_borrow_mut(|scene| {
        scene.log.push(format!("{name}{told}"));
        match scene.fails {
            Some((fails, code)) if fails == name => code,
            _ => 0,
        }
    })
}

fn result(name: &'static str) -> CUresult {
    match note(name, "") {
        0 => CUresult::CUDA_SUCCESS,
        _ => CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    }
}

fn handle(number: usize) -> *mut c_void {
    ptr::without_provenance_mut(number)
}

unsafe extern "C" fn get_property(which: c_int, value: *mut c_int) -> c_int {
    // SAFETY: the caller lends one number.
    SCENE.with_borrow(|scene| unsafe { *value = scene.version[which as usize] });
    0
}

unsafe extern "C" fn create_ex(
    backend: c_int,
    _: *mut c_void,
    _: *mut c_void,
    flags: c_uint,
    made: *mut Handle,
) -> c_int {
    // SAFETY: the caller lends one pointer.
    unsafe { *made = handle(HANDLE) };
    note("create", format!(" {backend} {flags}"))
}

unsafe extern "C" fn destroy(given: *mut c_void) -> c_int {
    assert_eq!(given.addr(), HANDLE);
    note("destroy", "")
}

unsafe extern "C" fn state_create(given: Handle, made: *mut State) -> c_int {
    assert_eq!(given.addr(), HANDLE);
    // SAFETY: the caller lends one pointer.
    unsafe { *made = handle(STATE) };
    note("state", "")
}

unsafe extern "C" fn state_destroy(given: State) -> c_int {
    assert_eq!(given.addr(), STATE);
    note("state destroy", "")
}

unsafe extern "C" fn stream_create(given: Handle, made: *mut Stream) -> c_int {
    assert_eq!(given.addr(), HANDLE);
    // SAFETY: the caller lends one pointer.
    unsafe { *made = handle(PARSER) };
    note("parser", "")
}

unsafe extern "C" fn stream_destroy(given: Stream) -> c_int {
    assert_eq!(given.addr(), PARSER);
    note("parser destroy", "")
}

unsafe extern "C" fn stream_parse_header(_: Handle, _: *const u8, length: usize, given: Stream) -> c_int {
    assert_eq!(given.addr(), PARSER);
    note("parse", format!(" {length}"))
}

/// Files are their width and height, a byte each.
unsafe extern "C" fn get_image_info(
    _: Handle,
    data: *const u8,
    length: usize,
    _: *mut c_int,
    _: *mut c_int,
    widths: *mut [c_int; MAX_COMPONENT],
    heights: *mut [c_int; MAX_COMPONENT],
) -> c_int {
    // SAFETY: the caller lends `length` bytes and both arrays.
    let (file, widths, heights) =
        unsafe { (std::slice::from_raw_parts(data, length), &mut *widths, &mut *heights) };
    let [width, height] = *file else { return 3 };
    (widths[0], heights[0]) = (width.into(), height.into());
    0
}

unsafe extern "C" fn batched_supported(_: Handle, given: Stream, answer: *mut c_int) -> c_int {
    assert_eq!(given.addr(), PARSER);
    // SAFETY: the caller lends one number.
    unsafe { *answer = 0 };
    note("supported", "")
}

unsafe extern "C" fn batched_initialize(
    _: Handle,
    _: State,
    batch: c_int,
    threads: c_int,
    format: c_int,
) -> c_int {
    note("initialize", format!(" {batch} {threads} {format}"))
}

/// Logs files and targets.
unsafe extern "C" fn batched(
    _: Handle,
    _: State,
    data: *const *const u8,
    lengths: *const usize,
    images: *mut Image,
    stream: CUstream,
) -> c_int {
    assert_eq!(stream.addr(), STREAM);
    // SAFETY: the caller lends a file and a target at least.
    let (file, image) = unsafe { (std::slice::from_raw_parts(*data, *lengths), &*images) };
    assert!(image.channel[1..].iter().all(|channel| channel.is_null()));
    note("decode", format!(" {file:?} {:#x} {}", image.channel[0].addr(), image.pitch[0]))
}

unsafe extern "C" fn pre_allocate(
    _: Handle,
    _: State,
    _: c_int,
    _: c_int,
    _: c_int,
    _: c_int,
    _: c_int,
) -> c_int {
    note("pool", "")
}

unsafe extern "C" fn hardware_info(_: Handle, engines: *mut c_uint, cores: *mut c_uint) -> c_int {
    // SAFETY: the caller lends two numbers.
    unsafe { (*engines, *cores) = (1, 7) };
    note("info", "")
}

fn present() -> bool {
    SCENE.with_borrow(|scene| scene.present)
}

unsafe fn context(current: *mut CUcontext) -> CUresult {
    let there = SCENE.with_borrow(|scene| scene.context);
    // SAFETY: the caller lends one pointer.
    unsafe { *current = if there { ptr::without_provenance_mut(CONTEXT) } else { ptr::null_mut() } };
    result("context")
}

unsafe fn enter(given: CUcontext) -> CUresult {
    assert_eq!(given.addr(), CONTEXT);
    result("enter")
}

unsafe fn synchronize(given: CUstream) -> CUresult {
    assert_eq!(given.addr(), STREAM);
    result("wait")
}

fn library(version: [c_int; 3]) -> Library {
    SCENE.set(Scene { present: true, context: true, version, ..Scene::default() });
    let driver = Driver { present, context, enter, synchronize };
    let calls = Calls {
        get_property,
        create_ex,
        destroy,
        state_create,
        state_destroy,
        stream_create,
        stream_destroy,
        stream_parse_header,
        get_image_info,
        batched_supported,
        batched_initialize,
        batched,
        batched_pre_allocate: Some(pre_allocate),
        hardware_info: Some(hardware_info),
        driver,
    };
    Library::with(calls, "a stand-in").unwrap()
}

fn change(change: impl FnOnce(&mut Scene)) {
    SCENE.with_borrow_mut(change);
}

/// What was called since it was last asked.
fn log() -> Vec<String> {
    SCENE.with_borrow_mut(|scene| std::mem::take(&mut scene.log))
}

const SETTINGS: Settings = Settings { backend: Backend::Hardware, batch: 3, threads: 1, strict: false };

fn decoder(library: &Library, settings: Settings) -> Result<Decoder, NvjpegError> {
    // SAFETY: the stand-ins do nothing with stream and context.
    unsafe { Decoder::new(library, ptr::without_provenance_mut(STREAM), settings) }
}

fn target(width: u32, height: u32) -> Target {
    // SAFETY: the stand-ins do not write.
    unsafe { Target::new(0x7000, 32, width, height) }
}

#[test]
fn handles_are_made_and_given_back_in_order() {
    let library = library([13, 0, 1]);
    assert_eq!(library.version().to_string(), "13.0.1");
    let decoder = decoder(&library, SETTINGS).unwrap();
    assert_eq!(decoder.engines(), Some((1, 7)));
    assert_eq!(log(), ["context", "create 3 32", "state", "parser", "pool", "info"]);
    drop(decoder);
    assert_eq!(log(), ["enter", "parser destroy", "state destroy", "destroy"]);
}

#[test]
fn flags_and_backends_are_those_of_the_header() {
    let created = |version, settings| {
        let library = library(version);
        decoder(&library, settings).unwrap();
        log().swap_remove(1)
    };
    assert_eq!(created([12, 0, 9], SETTINGS), "create 3 0");
    assert_eq!(created([12, 1, 0], SETTINGS), "create 3 32");
    assert_eq!(created([13, 0, 0], Settings { strict: true, ..SETTINGS }), "create 3 36");
    assert_eq!(created([13, 0, 0], Settings { backend: Backend::Cuda, ..SETTINGS }), "create 0 32");
    assert_eq!(created([13, 0, 0], Settings { backend: Backend::CudaHuffman, ..SETTINGS }), "create 2 32");
}

#[test]
fn what_cannot_be_made_is_an_error_and_leaves_nothing() {
    let library = library([13, 0, 0]);
    let error = |settings| decoder(&library, settings).unwrap_err();
    for settings in [
        Settings { batch: 0, ..SETTINGS },
        Settings { threads: 0, ..SETTINGS },
        Settings { batch: usize::MAX, ..SETTINGS },
    ] {
        assert!(matches!(error(settings), NvjpegError::Settings { .. }));
    }
    change(|scene| scene.fails = Some(("create", 7)));
    assert_eq!(error(SETTINGS), NvjpegError::NoEngine);
    let cuda = error(Settings { backend: Backend::Cuda, ..SETTINGS });
    assert_eq!(cuda.to_string(), "nvjpegCreateEx: NVJPEG_STATUS_ARCH_MISMATCH");
    log();
    change(|scene| scene.fails = Some(("parser", 5)));
    assert_eq!(error(SETTINGS).to_string(), "nvjpegJpegStreamCreate: NVJPEG_STATUS_ALLOCATOR_FAILURE");
    assert_eq!(log(), ["context", "create 3 32", "state", "parser", "state destroy", "destroy"]);
    change(|scene| scene.fails = Some(("context", 1)));
    assert_eq!(error(SETTINGS).to_string(), "cuCtxGetCurrent: CUDA_ERROR_ILLEGAL_ADDRESS");
    change(|scene| (scene.fails, scene.context) = (None, false));
    assert_eq!(error(SETTINGS), NvjpegError::NoContext);
    change(|scene| scene.present = false);
    assert_eq!(error(SETTINGS), NvjpegError::NoDriver);
}

#[test]
fn a_batch_size_is_prepared_once_and_the_stream_waited_for_before_and_after() {
    let library = library([13, 0, 0]);
    let mut decoder = decoder(&library, Settings { threads: 4, ..SETTINGS }).unwrap();
    log();
    let one: (&[&[u8]], _) = (&[&[10, 5]], [target(10, 5)]);
    let two: (&[&[u8]], _) = (&[&[4, 4], &[8, 2]], [target(4, 4), target(8, 2)]);
    decoder.decode(one.0, &one.1).unwrap();
    let decode = "decode [10, 5] 0x7000 32";
    assert_eq!(log(), ["enter", "wait", "initialize 1 4 5", decode, "wait"]);
    decoder.decode(one.0, &one.1).unwrap();
    assert_eq!(log(), ["enter", "wait", decode, "wait"]);
    decoder.decode(two.0, &two.1).unwrap();
    assert_eq!(log(), ["enter", "wait", "initialize 2 4 5", "decode [4, 4] 0x7000 32", "wait"]);
    decoder.decode(&[], &[]).unwrap();
    assert_eq!(log(), [""; 0]);
}

#[test]
fn a_batch_that_failed_is_waited_for_and_prepared_anew() {
    let library = library([13, 0, 0]);
    let mut decoder = decoder(&library, SETTINGS).unwrap();
    let mut decode = || decoder.decode(&[&[10, 5]], &[target(10, 5)]);
    decode().unwrap();
    log();
    change(|scene| scene.fails = Some(("decode", 6)));
    assert_eq!(decode().unwrap_err().to_string(), "nvjpegDecodeBatched: NVJPEG_STATUS_EXECUTION_FAILED");
    assert_eq!(log(), ["enter", "wait", "decode [10, 5] 0x7000 32", "wait"]);
    change(|scene| scene.fails = Some(("initialize", 5)));
    assert!(decode().is_err());
    assert_eq!(log(), ["enter", "wait", "initialize 1 1 5"]);
    change(|scene| scene.fails = None);
    decode().unwrap();
    assert_eq!(log(), ["enter", "wait", "initialize 1 1 5", "decode [10, 5] 0x7000 32", "wait"]);
    for call in ["enter", "wait"] {
        change(|scene| scene.fails = Some((call, 1)));
        assert!(matches!(decode(), Err(NvjpegError::Driver { .. })), "{call}");
    }
}

#[test]
fn pictures_that_do_not_fit_are_not_decoded() {
    let library = library([13, 0, 0]);
    let mut decoder = decoder(&library, SETTINGS).unwrap();
    log();
    let mut decode = |jpegs: &[&[u8]], targets: &[Target]| decoder.decode(jpegs, targets).unwrap_err();
    let place = target(10, 5);
    let file: &[u8] = &[10, 5];
    assert_eq!(decode(&[file; 4], &[place; 4]), NvjpegError::Batch { pictures: 4, limit: 3 });
    assert_eq!(decode(&[file; 2], &[place; 1]), NvjpegError::Targets { targets: 1, pictures: 2 });
    let size = NvjpegError::Size { index: 1, picture: (5, 10), target: (10, 5) };
    assert_eq!(decode(&[file, &[5, 10]], &[place; 2]), size);
    assert_eq!(size.to_string(), "picture 1 has 5x10 pixels and its target 10x5");
    assert_eq!(decode(&[&[11, 5]], &[target(11, 5)]), NvjpegError::Pitch { index: 0, pitch: 32, row: 33 });
    let bad = decode(&[file, b"???"], &[place; 2]).to_string();
    assert_eq!(bad, "picture 1: nvjpegGetImageInfo: NVJPEG_STATUS_BAD_JPEG");
    let empty = decode(&[&[0, 5]], &[target(0, 5)]).to_string();
    assert_eq!(empty, "picture 0: nvjpegGetImageInfo gave nothing");
    assert_eq!(log(), [""; 0]);
}

#[test]
fn the_library_is_asked_what_it_takes() {
    let library = library([13, 0, 0]);
    let mut decoder = decoder(&library, SETTINGS).unwrap();
    log();
    assert_eq!(decoder.supported(&[1, 2, 3]), Ok(true));
    assert_eq!(log(), ["parse 3", "supported"]);
    change(|scene| scene.fails = Some(("parse", 10)));
    assert!(decoder.supported(&[]).is_err());
}

#[test]
#[cfg_attr(miri, ignore = "loads a library")]
fn the_real_library_refuses_cleanly_where_there_is_no_driver() {
    let Ok(real) = Library::open() else { return };
    let driver = real.calls.driver;
    if (driver.present)() {
        return;
    }
    let stand_in = library([0; 3]).calls.driver;
    let pretending = Library::with(Calls { driver: stand_in, ..*real.calls }, real.name()).unwrap();
    assert_eq!(pretending.version(), real.version());
    for backend in [Backend::Hardware, Backend::Cuda, Backend::CudaHuffman] {
        assert_eq!(decoder(&real, Settings { backend, ..SETTINGS }).unwrap_err(), NvjpegError::NoDriver);
        let error = decoder(&pretending, Settings { backend, ..SETTINGS }).unwrap_err();
        let expected = NvjpegError::Library { call: "nvjpegCreateEx", status: Status::ExecutionFailed };
        assert_eq!(error, expected, "{backend:?}");
    }
}

#[test]
fn a_decoder_goes_from_thread_to_thread() {
    fn sent<T: Send>() {}
    sent::<Decoder>();
}
