//! The device kernels built for the host: compiles their source with gcc, loads it and calls kernels by name. Owns memory
//! as the device has it (aligned, with guards around it) and launches; knows no kernel.

use std::ffi::c_void;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use kernels::cuda::source::{Launch, SOURCE};
use libloading::Library;

/// What guards and outputs hold before a launch.
const RUBBISH: u8 = 0xA5;

/// Bytes of a guard.
const GUARD: usize = 64;

/// 16-byte aligned bytes between two guards, which are checked whenever it is read.
pub(crate) struct Memory {
    words: Vec<u128>,
    bytes: usize,
}

impl Memory {
    /// `count` elements that nobody wrote yet.
    pub(crate) fn rubbish<T: Plain>(count: usize) -> Self {
        let bytes = count * size_of::<T>();
        let words = (bytes + 2 * GUARD).div_ceil(16);
        Self { words: vec![u128::from_ne_bytes([RUBBISH; 16]); words], bytes }
    }

    pub(crate) fn of<T: Plain>(values: &[T]) -> Self {
        let mut memory = Self::rubbish::<T>(values.len());
        let to = memory.pointer().cast::<T>();
        // SAFETY: `to` is aligned for any `Plain` and has room for as many elements; they cannot overlap.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len()) };
        memory
    }

    pub(crate) fn pointer(&mut self) -> *mut c_void {
        self.words.as_mut_ptr().wrapping_byte_add(GUARD).cast()
    }

    pub(crate) fn read<T: Plain>(&self) -> Vec<T> {
        // SAFETY: every byte of the words is initialised, and bytes have no alignment.
        let all: &[u8] =
            unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 16) };
        let guards = [&all[..GUARD], &all[GUARD + self.bytes..]];
        assert!(
            guards.iter().all(|guard| guard.iter().all(|&byte| byte == RUBBISH)),
            "written out of bounds"
        );
        let from = all[GUARD..].as_ptr().cast::<T>();
        // SAFETY: `from` is aligned for any `Plain`, which has no invalid bits, and `bytes` bytes of it are there.
        unsafe { std::slice::from_raw_parts(from, self.bytes / size_of::<T>()) }.to_vec()
    }
}

/// Numbers: any bits are valid, and an alignment of 16 is enough.
///
/// # Safety
/// Only for types of which both is true and which have no padding.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: a number.
unsafe impl Plain for u8 {}
// SAFETY: a number.
unsafe impl Plain for u16 {}
// SAFETY: a number.
unsafe impl Plain for u32 {}
// SAFETY: a number.
unsafe impl Plain for i32 {}
// SAFETY: a number.
unsafe impl Plain for f32 {}
// SAFETY: a number.
unsafe impl Plain for f64 {}

/// The library, built once in a process.
pub(crate) fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = format!("{}/kernels-{}.so", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let mut compiler = Command::new("gcc")
            .args(["-x", "c", "-std=gnu11", "-O2", "-ffp-contract=off", "-fno-strict-aliasing"])
            // Undefined behaviour and misaligned vectors end the test.
            .args(["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"])
            .args(["-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", &path, "-", "-lm"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("gcc, which building this project needs, does not start");
        compiler.stdin.take().unwrap().write_all(SOURCE.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success(), "gcc refuses the kernels");
        // SAFETY: the library has no initialisers.
        let library = unsafe { Library::new(&path) }.unwrap();
        std::fs::remove_file(&path).unwrap();
        library
    })
}

/// Sets grid, block and shared memory, and runs `kernel`. Threads of a block take turns in steps of `stride`.
pub(crate) fn launch(launch: Launch, stride: u32, kernel: impl FnOnce()) {
    launch_in_order(launch, stride, 1, kernel);
}

/// [`launch`] with blocks that take turns in steps of `block_stride`, which is coprime to their number.
pub(crate) fn launch_in_order(launch: Launch, stride: u32, block_stride: u32, kernel: impl FnOnce()) {
    type Set = unsafe extern "C" fn(u32, u32, u32, u32, u32, *mut c_void, u32);
    // SAFETY: the type is that of the function in common.cuh.
    let set = unsafe { library().get::<Set>(b"convoy_host_launch") }.unwrap();
    let mut shared = Memory::rubbish::<u8>(launch.shared_bytes as usize);
    let (grid_x, grid_y) = launch.grid;
    // SAFETY: it stores its arguments, and `shared` lives until after the kernel.
    unsafe {
        set(grid_x, grid_y, launch.threads, stride, block_stride, shared.pointer(), launch.shared_bytes)
    };
    kernel();
    shared.read::<u8>();
}

/// Calls `$name` with `$argument: type`s in a launch shape, for threads in several orders, and yields the memory `$out` as
/// numbers of `$of`; all orders must give the same.
macro_rules! run {
    ($launch:expr, $name:literal, |$out:ident: $of:ty| of $count:expr, $($argument:expr => $type:ty),* $(,)?) => {{
        let shape = $launch;
        let mut results = [1, shape.threads - 1, 37].map(|stride| {
            let mut $out = $crate::host::Memory::rubbish::<$of>($count);
            // SAFETY: the argument types are the kernel's; what is wrong with them is what the tests are to find.
            let kernel = unsafe {
                $crate::host::library().get::<unsafe extern "C" fn($($type),*)>(concat!($name, "_host").as_bytes())
            }
            .unwrap();
            // SAFETY: every pointer is into a `Memory` of the size that the kernel's documentation asks for.
            $crate::host::launch(shape, stride, || unsafe { kernel($($argument),*) });
            $out.read::<$of>()
        });
        let result = std::mem::take(&mut results[0]);
        assert!(results[1..].iter().all(|other| $crate::host::same(other, &result)), "threads race");
        result
    }};
}
pub(crate) use run;

/// Whether two results have the same bits.
pub(crate) fn same<T: Plain>(a: &[T], b: &[T]) -> bool {
    let bytes = |values: &[T]| Memory::of(values).read::<u8>();
    bytes(a) == bytes(b)
}
