//! The kernels on a CPU: `emulate.cpp` as a library, compiled when the first test asks for it.

use super::launch::{Argument, Gpu, Launch};
use candle_core::Result;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}
const RTLD_NOW: c_int = 2;

type Allocate = unsafe extern "C" fn(usize) -> *mut u8;
type Free = unsafe extern "C" fn(*mut u8) -> bool;
type Run = unsafe extern "C" fn(
    *const c_char,
    *const c_uint,
    c_uint,
    usize,
    *mut *mut c_void,
    c_uint,
    c_uint,
) -> *const c_char;
type Count = unsafe extern "C" fn() -> c_ulong;

struct Library {
    allocate: Allocate,
    free: Free,
    launch: Run,
    bank_conflicts: Count,
}

/// One block of threads at a time, in the whole process: what `emulate.h` knows of it is global.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs kernels with blocks and warps in an order that `seed` draws.
#[derive(Clone, Copy)]
pub(super) struct Emulator {
    library: &'static Library,
    seed: u32,
}

impl Emulator {
    /// None without a C++ compiler.
    pub(super) fn new(seed: u32) -> Option<Self> {
        static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| compiler().map(|compiler| load(&compiler))).as_ref();
        if library.is_none() {
            eprintln!("not tested: there is no C++ compiler (CXX, c++, g++, clang++)");
        }
        Some(Self { library: library?, seed })
    }

    /// Rows of matrices in shared memory that had to be loaded one after the other.
    pub(super) fn bank_conflicts(&self) -> u64 {
        let _lock = lock();
        // SAFETY: the function has this type, takes nothing and reads a number, under the lock.
        unsafe { (self.library.bank_conflicts)() }
    }
}

fn compiler() -> Option<String> {
    let named = std::env::var("CXX").ok();
    named
        .into_iter()
        .chain(["c++", "g++", "clang++"].map(String::from))
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success()))
}

fn load(compiler: &str) -> Library {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/info_nce/cuda/emulate.cpp");
    let library = std::env::temp_dir().join(format!("selfsup-kernels-{}.so", std::process::id()));
    let output = Command::new(compiler)
        // Fortified, longjmp takes a switch from one stack to another for an attack.
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let name = CString::new(library.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string that outlives the call; the library's initialisers only fill a table.
    let handle = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
    std::fs::remove_file(&library).unwrap();
    assert!(!handle.is_null(), "the library of kernels does not load");
    let find = |name: &CStr| {
        // SAFETY: the handle is that of a library that is never closed, the name a C string.
        let symbol = unsafe { dlsym(handle, name.as_ptr()) };
        assert!(!symbol.is_null(), "the library of kernels lacks {name:?}");
        symbol
    };
    // SAFETY: `emulate.cpp` gives these names to functions of these types, and the library is never closed.
    unsafe {
        Library {
            allocate: std::mem::transmute::<*mut c_void, Allocate>(find(c"emulate_allocate")),
            free: std::mem::transmute::<*mut c_void, Free>(find(c"emulate_free")),
            launch: std::mem::transmute::<*mut c_void, Run>(find(c"emulate_launch")),
            bank_conflicts: std::mem::transmute::<*mut c_void, Count>(find(c"emulate_bank_conflicts")),
        }
    }
}

/// Memory between margins, which must be untouched when it is given back.
pub(super) struct Memory {
    library: &'static Library,
    start: *mut u8,
    bytes: usize,
}

impl Memory {
    pub(super) fn address(&self) -> u64 {
        self.start as u64
    }

    /// The first numbers, as f32.
    pub(super) fn numbers(&self, count: usize) -> Vec<f32> {
        assert!(4 * count <= self.bytes);
        // SAFETY: the memory is aligned to 16 bytes, at least as long, written from its allocation on, and lives as
        // long as `self`, which is borrowed. No kernel runs meanwhile: a launch returns when it is done.
        unsafe { std::slice::from_raw_parts(self.start.cast::<f32>(), count) }.to_vec()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let _lock = lock();
        // SAFETY: `start` came from this library's allocate and is given back once.
        let untouched = unsafe { (self.library.free)(self.start) };
        assert!(untouched || std::thread::panicking(), "a kernel wrote outside of its memory");
    }
}

impl Gpu for Emulator {
    type Buffer = Memory;

    fn allocate(&self, bytes: usize) -> Result<Memory> {
        let _lock = lock();
        // SAFETY: takes any size; under the lock, since it keeps a table.
        let start = unsafe { (self.library.allocate)(bytes) };
        Ok(Memory { library: self.library, start, bytes })
    }

    fn upload(&self, words: &[u32]) -> Result<Memory> {
        let memory = self.allocate(4 * words.len())?;
        // SAFETY: the memory was allocated with this length, and is not the slice's.
        unsafe { memory.start.cast::<u32>().copy_from_nonoverlapping(words.as_ptr(), words.len()) };
        Ok(memory)
    }

    fn launch(&self, launch: Launch, arguments: &mut [Argument<'_, Memory>]) -> Result<()> {
        let mut values: Vec<u64> = arguments
            .iter()
            .map(|argument| match argument {
                Argument::In(memory) => memory.address(),
                Argument::Out(memory) => memory.address(),
                Argument::Tensor(address) => address.0,
                Argument::Null => 0,
                // In the low bytes, where a little-endian parameter of four bytes is read.
                Argument::U32(x) => u64::from(*x),
                Argument::F32(x) => u64::from(x.to_bits()),
                Argument::F64(x) => x.to_bits(),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(|v| (v as *mut u64).cast()).collect();
        let name = CString::new(launch.kernel).unwrap();
        let grid = launch.grid.map(|size| size as c_uint);
        let _lock = lock();
        // SAFETY: name, grid and arguments outlive the call, which returns when the kernel is done; arguments are
        // counted there. Their types and the lengths of the memory they point to are the caller's promise, which the
        // tests are there to find broken.
        let fault = unsafe {
            (self.library.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                launch.threads as c_uint,
                launch.shared,
                pointers.as_mut_ptr(),
                pointers.len() as c_uint,
                self.seed,
            )
        };
        if fault.is_null() {
            return Ok(());
        }
        // SAFETY: the library's message is a C string that lives until its next call, which the lock keeps off.
        let fault = unsafe { CStr::from_ptr(fault) }.to_string_lossy().into_owned();
        candle_core::bail!("{fault}")
    }
}
